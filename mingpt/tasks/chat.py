"""The task of a chat: answer as the assistant does in some conversations."""

from __future__ import annotations

import hashlib
import math
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mingpt import losses
from mingpt.config import GPTConfig, TrainConfig
from mingpt.data.dialogue import Message, Turn, pieces, prompt, read_dialogues, with_markers
from mingpt.data.documents import BUILT_IN
from mingpt.data.packing import NOT_LEARNED, Packed, Rows
from mingpt.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_for
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.sampling import kept
from mingpt.streaming import answer
from mingpt.tasks.shape import model_config

ANSWER_TOKENS = 200
TEMPERATURE = 0.7


class ChatTask:
    """Say what the assistant says next. All of a conversation is read, and only the assistant's part is learned."""

    metric, is_higher_better = "bits_per_byte", False

    def __init__(self, config: TrainConfig, origin: Path | None = None):
        """`origin` is the folder of a model whose tokenizer and shape are taken: a run's own, or that of init_from."""
        if origin is None and config.init_from is not None:
            origin = Path(config.init_from)
        if config.data in BUILT_IN:
            raise UserError(f"--data {config.data}: --task chat learns from a .jsonl file, such as data/support.jsonl")
        self.config, self.origin, path = config, origin, Path(config.data)
        self.chosen_loss = losses.choose("chat", config.loss)
        dialogues = read_dialogues(path)
        if len(dialogues) < 2:
            raise UserError(f"{path}: holds a single conversation; one to learn from and one held out are needed")
        self.name, self.sha256 = path.resolve().stem, hashlib.sha256(path.read_bytes()).hexdigest()
        order = np.random.default_rng(config.seed).permutation(len(dialogues))
        count = max(1, len(dialogues) // 10)
        self.held_out, learned_from = ([dialogues[i] for i in part] for part in (order[:count], order[count:]))
        self.tokenizer = with_markers(self.plain_tokenizer(learned_from))
        self.learned_from, self.cut, self.shortened = len(learned_from), 0, 0
        self.rows, self.validation = self.packed(learned_from), self.packed(self.held_out)
        self.text_bytes = np.array([len(piece) for piece in self.tokenizer.pieces])  # of text in each token
        self.text_bytes[[self.tokenizer.vocabulary.ids[token] for token in self.tokenizer.vocabulary.special]] = 0

    def plain_tokenizer(self, learned_from: Sequence[Sequence[Message]]) -> Tokenizer:
        """The tokenizer of the origin, or a new one; pieces of words are learned from what the model learns from."""
        if self.origin is not None:
            return load_tokenizer(self.origin)
        texts, others = (
            [message["content"] for messages in part for message in messages] for part in (learned_from, self.held_out)
        )
        return tokenizer_for(self.config.tokenizer, texts, others, self.config.vocab_size)

    def packed(self, dialogues: Sequence[Sequence[Message]]) -> Rows:
        """The conversations in rows, what is longer than a row without its end.

        Counts the conversations that are cut, and the exchanges that lose their end, and with it perhaps all that is
        learned of them. Raises UserError where nothing is learned of any.
        """
        T = self.config.block_size
        sequences: list[Turn] = []
        for messages in dialogues:
            try:
                found = pieces(self.tokenizer, messages, T + 1)
            except UserError as error:  # a character that the tokenizer lacks
                raise UserError(f"--data {self.config.data}: {error}") from None
            too_long = sum(len(ids) > T + 1 for ids, _ in found)
            self.cut += len(found) > 1 or too_long > 0
            self.shortened += too_long
            shortened = [(ids[: T + 1], learned[: T + 1]) for ids, learned in found]
            sequences += [(ids, learned) for ids, learned in shortened if any(learned)]
        if not sequences:
            of = f"{len(dialogues):,} of the conversations in {self.config.data}"
            raise UserError(f"--block_size {T}: is too short for any of the answers in {of}")
        return Rows(sequences, T)

    def model_config(self) -> GPTConfig:
        return model_config(self.config, self.tokenizer, self.origin)

    def updates_in_epoch(self) -> int:
        """How many updates see each conversation about once."""
        return max(1, len(self.rows) // self.config.batch_size)

    def description(self) -> str:
        """The conversations in a line: how many, their tokens, and what was cut."""
        tokens, learned = self.rows.count()
        kind = self.tokenizer.vocabulary.kind
        line = (
            f"{self.name}: {self.learned_from:,} conversations to learn from and {len(self.held_out):,} held out; "
            f"{tokens:,} tokens ({kind}, {len(self.tokenizer.pieces):,} different), {learned:,} of them the assistant's"
        )
        if self.cut:
            line += f"; {self.cut:,} longer than {self.config.block_size} are cut between turns"
        if self.shortened:
            line += f", and {self.shortened:,} exchanges that do not fit even so lose their end"
        return line

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The rows of update `step`, see data/packing.py; and of each (B,) the part of the targets that it has.

        That part is relative to the mean of the rows, by which a slice of the batch knows its weight in it.
        """
        packed = self.rows.batch(self.config.seed, step, self.config.batch_size)
        learned = (packed[1] != NOT_LEARNED).sum(axis=1)
        return *tensors(packed), torch.from_numpy((learned / learned.mean()).astype(np.float32))

    def loss(self, model: GPT, x: Tensor, y: Tensor, positions: Tensor, owner: Tensor, part: Tensor) -> Tensor:
        """Mean cross-entropy in nats over what is learned in a batch; the mean of its slices' losses is the batch's."""
        return self.surprise(model, x, y, positions, owner, self.config.label_smoothing) * part.mean()

    def surprise(
        self, model: GPT, x: Tensor, y: Tensor, positions: Tensor, owner: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy of the targets that are learned, each seen from its own conversation alone."""
        mask = (owner[:, :, None] == owner[:, None, :]).tril()  # (B, T, T)
        is_learned = y != NOT_LEARNED
        states = model.states(x, positions=positions, mask=mask)[is_learned]  # (N, C)
        return self.chosen_loss(model.head(states), y[is_learned], label_smoothing)

    @torch.no_grad()
    def evaluate(self, model: GPT, device: str) -> dict[str, float]:
        """val_loss in nats per learned token, and bits per byte of what the assistant says."""
        nats, tokens, text_bytes = 0.0, 0, 0
        for packed in self.validation.batches(self.config.batch_size // self.config.gradient_accumulation):
            targets = packed[1][packed[1] != NOT_LEARNED]
            nats += self.surprise(model, *(tensor.to(device) for tensor in tensors(packed))).item() * len(targets)
            tokens += len(targets)
            text_bytes += int(self.text_bytes[targets].sum())
        return {"val_loss": nats / tokens, "bits_per_byte": nats / (math.log(2) * max(1, text_bytes))}

    def settings(self) -> dict[str, Any]:
        return {"task_specific_params": {"mingpt": {"task": "chat"}}}

    def ending(self, model: GPT, folder: Path) -> list[str]:
        """A question that is held out, and what the model answers."""
        talk = f"talk to it    python -m mingpt.chat {shlex.quote(str(folder))}"
        S = model.config.block_size
        question = next(self.questions(kept(S)), None)
        if question is None:
            return [talk]
        messages, ids = question
        longest = min(ANSWER_TOKENS, S - len(ids))
        _, parts = answer(model, self.tokenizer, ids, longest, seed=self.config.seed, temperature=TEMPERATURE)
        said = [*messages, {"role": "assistant", "content": "".join(parts).strip() or "(nothing)"}]
        lines = [line for message in said for line in wrapped(message)]
        return ["its answer to a question that it has not seen", "", *lines, talk]

    def questions(self, size: int) -> Iterator[tuple[list[Message], list[int]]]:
        """The conversations held out, each up to the user's first turn, and the ids of that, at most `size`."""
        for messages in self.held_out:
            roles = [message["role"] for message in messages]
            if "user" not in roles:
                continue
            asked = messages[: roles.index("user") + 1]
            try:
                ids, _ = prompt(self.tokenizer, asked, size)
            except UserError:  # it is too long
                continue
            yield asked, ids


def tensors(packed: Packed) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(part) for part in packed)


def wrapped(message: Message) -> list[str]:
    """A message for a person, its role before it."""
    return textwrap.wrap(
        f"{message['role']:<14}{message['content']}", 100, initial_indent="    ", subsequent_indent=" " * 18
    )
