"""Texts with a label or a number each, from a table: read, split, encoded, and put into batches of like length.

    rows -> texts and targets -> a held-out part -> token ids -> batch(seed, step)

Notation: B texts in a batch; T tokens in its longest. The shorter are padded on the right with a token that no
text contains. A model that reads from left to right never sees the padding: what a text scores is read off the
place of its own last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.data import rows
from mingpt.data.text import LONGEST_WORD, whole_words
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError

PAD = "<|pad|>"
SHOWN_PROBLEMS = 10  # of a file; where a program wrote it, every row may have the same one
FEWEST = 20  # rows to learn from
ONE_IN = 10  # rows is held out,
MOST_HELD_OUT = 10_000  # and of a large file no more than so many
POOL = 16  # batches whose texts are put in order of length together
# Share of a text's tokens that an update from scratch leaves out, others each time: with few texts, no word should be
# enough to tell one of them by (Iyyer et al. 2015, section 3, "word dropout"). See tests/benchmarks/LOG.md.
TOKEN_DROPOUT = 0.2


# ---- From rows to texts and targets ----


@dataclass(frozen=True)
class Example:
    """A text, its label or number, and the row it stands in."""

    row: rows.Row
    text: str
    target: Any


def read_examples(
    path: str | Path, text_column: str, label_column: str, value: Callable[[rows.Row, str], Any]
) -> list[Example]:
    """All rows of a file. `value` takes the target from a row: rows.label_of or rows.number_of.

    Raises UserError with a line `PATH, row N: ...` for each row that cannot be used.
    """
    there = rows.columns_of(path)
    if rows.ending(path) != ".jsonl":  # where each row may have others
        for name, column in (("text_column", text_column), ("label_column", label_column)):
            if column not in there:
                raise UserError(f"{path}, row 1: {rows.no_column(column, there)}; --{name} names the one to take")
    examples, problems = [], []
    for row in rows.every_row(path):
        try:
            if row.problem:
                raise UserError(row.problem)
            examples.append(Example(row, rows.text_of(row, text_column), value(row, label_column)))
        except UserError as error:
            problems.append(rows.at(path, row, str(error)))
            if row.problem.startswith(rows.ENCODED_OTHERWISE):
                break  # most rows after it would say the same
    if len(problems) > SHOWN_PROBLEMS:
        problems[SHOWN_PROBLEMS:] = [f"{path}: {len(problems) - SHOWN_PROBLEMS:,} more rows cannot be used"]
    if problems:
        raise UserError(*problems)
    if len(examples) < FEWEST:
        raise UserError(f"{path}: holds {len(examples)} rows with a text; at least {FEWEST} are needed")
    return examples


def split(strata: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from, and the tenth that is held out: of each stratum a tenth, rounded up or down.

    `strata` has a whole number for each row, its class say. The only row of a stratum is learned from. Raises UserError
    where no stratum has two rows.
    """
    chance = np.random.default_rng([seed, 0, 1])  # apart from those of the epochs
    order = chance.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    candidates = order[np.bincount(strata)[strata[order]] > 1]
    if not len(candidates):
        raise UserError("every row has a label of its own; a label that several rows have can be learned")
    every = max(ONE_IN, -(-len(strata) // MOST_HELD_OUT))
    held_out = np.sort(candidates[chance.integers(min(every, len(candidates))) :: every])
    return np.setdiff1d(np.arange(len(strata)), held_out), held_out


# ---- From texts to token ids ----


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a text of any length. Raises UserError where the tokenizer lacks a character."""
    if tokenizer.vocabulary.kind != "bpe" or len(text) <= LONGEST_WORD:
        return tokenizer.encode_array(text)
    pieces = whole_words(iter([text]), tokenizer.vocabulary.added)
    return np.concatenate([tokenizer.encode_array(piece) for piece in pieces])


def padded(ids: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Some texts side by side: ids (B, T), and the place of each one's last token (B,).

    >>> padded([np.array([5, 6]), np.array([7])], pad=0)
    (array([[5, 6],
           [7, 0]]), array([1, 0]))
    """
    lengths = np.array([len(text) for text in ids])
    idx = np.full((len(ids), lengths.max()), pad, dtype=np.int64)
    for row, text in zip(idx, ids, strict=True):
        row[: len(text)] = text
    return idx, lengths - 1


def thinned(ids: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    """A text without about so large a share of its tokens; at least one of them stays."""
    kept = ids[chance.random(len(ids)) >= share]
    return kept if len(kept) else ids[:1]


class LabelledData:
    """Encoded texts and their targets, as batches."""

    def __init__(
        self,
        ids: list[np.ndarray],
        targets: np.ndarray,
        train: np.ndarray,
        batch_size: int,
        pad: int,
        token_dropout: float = 0.0,
    ):
        """`train` are the rows to learn from, `token_dropout` the share of their tokens that an update leaves out."""
        self.ids, self.targets, self.train = ids, targets, train
        self.batch_size, self.pad, self.token_dropout = batch_size, pad, token_dropout
        self.lengths = np.array([len(text) for text in ids])
        self.batches = -(-len(train) // batch_size)  # in an epoch
        self.epoch: tuple[tuple[int, int], np.ndarray] | None = None  # (seed, number) and order of the newest

    def batch(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids (B, T), last places (B,) and targets (B,) of update `step`: a pure function of (seed, step)."""
        epoch, place = divmod(step, self.batches)
        if self.epoch is None or self.epoch[0] != (seed, epoch):
            self.epoch = (seed, epoch), self.order(seed, epoch)
        chosen = self.epoch[1][place]
        chance = np.random.default_rng([seed, step, 2])  # apart from those of the epochs and the split
        idx, last = padded([thinned(self.ids[i], self.token_dropout, chance) for i in chosen], self.pad)
        return idx, last, self.targets[chosen]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The rows in each batch of an epoch, (batches, B). Each row comes once; to fill the last batch, some again.

        The texts of a batch are of like length, so that little of it is padding.
        """
        chance = np.random.default_rng([seed, epoch])
        order = np.resize(chance.permutation(self.train), self.batches * self.batch_size)
        pool = POOL * self.batch_size
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        by_length = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        return chance.permutation(by_length.reshape(self.batches, self.batch_size))

    def in_order(self, held_out: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Some rows in batches, from the shortest text to the longest."""
        by_length = held_out[np.argsort(self.lengths[held_out], kind="stable")]
        for i in range(0, len(by_length), self.batch_size):
            yield self.side_by_side(by_length[i : i + self.batch_size])

    def side_by_side(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        idx, last = padded([self.ids[i] for i in chosen], self.pad)
        return idx, last, self.targets[chosen]
