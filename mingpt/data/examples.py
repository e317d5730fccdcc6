"""Sequences of unequal length become batch(seed, step), with a mask of the positions that the loss counts.

Notation: B sequences in a batch, T tokens in its longest. The shorter are padded on the right, which a model that reads
from left to right never sees.

    x       (B, T)  token ids
    y       (B, T)  targets: a token or class id, or a number
    mask    (B, T)  the positions that the loss counts
    weight  (B,)    number of targets of each sequence, relative to the mean: the weight of a micro-batch in its batch
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mingpt.data.tokenizer import Tokenizer

POOL = 16  # batches whose sequences are sorted by length together
# Lengths are rounded up to a multiple of this: the bfloat16 kernels of a CPU are compiled for each shape, which takes
# longer than an update of a small model computes (tests/benchmarks/LOG.md).
LENGTH_MULTIPLE = 16

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, mask, weight


@dataclass(frozen=True)
class Data:
    """What a task's `read` returns: tokenized data in two parts, whose form is the task's own."""

    name: str  # a short one, for the folder of a run
    sha256: str  # of the files: a run is resumed with the same data only
    tokenizer: Tokenizer
    train: Any
    validation: Any
    tokens: int  # in the training part
    examples: int | None = None  # in the training part; None for a text, which has none
    defaults: dict[str, Any] = field(default_factory=dict)  # of settings that depend on the data


class EpochSampler:
    """The examples of each update. In every epoch each example comes once, in a new order; to fill the last batch, some
    come twice. With `lengths`, the examples of a batch are of similar length, so that little of it is padding.
    """

    def __init__(self, examples: int, batch_size: int, lengths: np.ndarray | None = None):
        self.examples, self.batch_size, self.lengths = examples, batch_size, lengths
        self.batches = -(-examples // batch_size)  # per epoch
        self.newest = functools.lru_cache(maxsize=1)(self.shuffle)

    def indices(self, seed: int, step: int) -> np.ndarray:
        """The examples (B,) of update `step`, counted from 0: a pure function of (seed, step)."""
        epoch, batch = divmod(step, self.batches)
        return self.newest(seed, epoch)[batch]

    def shuffle(self, seed: int, epoch: int) -> np.ndarray:
        """The batches of an epoch: (batches, B)."""
        rng = np.random.default_rng([seed, epoch])
        order = np.resize(rng.permutation(self.examples), self.batches * self.batch_size)
        if self.lengths is None:
            return order.reshape(self.batches, self.batch_size)
        pool = POOL * self.batch_size
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        by_length = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        return rng.permutation(by_length.reshape(self.batches, self.batch_size))


@dataclass(frozen=True)
class Example:
    """One sequence of T tokens: ids (T,), targets (T,) and mask (T,) as in a batch."""

    ids: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


class Examples:
    """Sequences as batches. Two options change positions outside the mask, drawn anew in each update:

    token_dropout   probability that the token is removed, so that with few texts no single word identifies one of them
                    (Iyyer et al. 2015, section 3, "word dropout")
    prompt_share    probability that the loss counts its target too, so that a model also learns from the prompts; all
                    positions must then have targets
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        pad_id: int = 0,
        token_dropout: float = 0.0,
        prompt_share: float = 0.0,
    ):
        self.examples, self.pad_id = examples, pad_id
        self.token_dropout, self.prompt_share = token_dropout, prompt_share
        self.lengths = np.array([len(example.ids) for example in examples])
        self.sampler = EpochSampler(len(examples), batch_size, self.lengths)

    def batch(self, seed: int, step: int) -> Batch:
        """The batch of update `step`: a pure function of (seed, step)."""
        chosen = [self.examples[i] for i in self.sampler.indices(seed, step)]
        rng = np.random.default_rng([seed, step, 2])  # independent of the shuffling
        if self.prompt_share:
            masks = [example.mask | (rng.random(len(example.ids)) < self.prompt_share) for example in chosen]
            chosen = [replace(example, mask=mask) for example, mask in zip(chosen, masks, strict=True)]
        if self.token_dropout:
            stays = [example.mask | (rng.random(len(example.ids)) >= self.token_dropout) for example in chosen]
            chosen = [Example(e.ids[s], e.targets[s], e.mask[s]) for e, s in zip(chosen, stays, strict=True)]
        return self.pad(chosen)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All sequences once, the shortest first."""
        order = np.argsort(self.lengths, kind="stable")
        for i in range(0, len(order), batch_size):
            yield self.pad([self.examples[j] for j in order[i : i + batch_size]])

    def pad(self, examples: Sequence[Example]) -> Batch:
        longest = max(len(example.ids) for example in examples)
        shape = len(examples), min(round_up(longest, LENGTH_MULTIPLE), self.lengths.max())
        x = np.full(shape, self.pad_id, dtype=np.int64)
        y = np.zeros(shape, dtype=examples[0].targets.dtype)
        mask = np.zeros(shape, dtype=bool)
        for b, example in enumerate(examples):
            T = len(example.ids)
            x[b, :T], y[b, :T], mask[b, :T] = example.ids, example.targets, example.mask
        targets = mask.sum(axis=1)
        return x, y, mask, (targets / targets.mean()).astype(np.float32)


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least n.

    >>> round_up(17, 16)
    32
    """
    return -(-n // multiple) * multiple
