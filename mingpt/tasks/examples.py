"""What the tasks of dialogues and of tables share: sequences, and a mask of the positions that the loss counts.

file -> items, such as rows, in two parts -> token ids -> Examples -> batch -> outputs where the mask is set -> loss
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt import files
from mingpt.config import TrainConfig, Training
from mingpt.data.examples import Batch, Data, Examples, round_up
from mingpt.data.tokenizer import TOKENIZERS, Tokenizer
from mingpt.errors import UserError
from mingpt.losses import LOSSES
from mingpt.model import GPT
from mingpt.tasks.base import Task, default_of, to_tensors

ROWS_MULTIPLE = 128  # of the head's product: see LENGTH_MULTIPLE in data/examples.py


def create_tokenizer(
    defaults: dict[str, Any], asked: Training, train: Iterable[str], validation: Iterable[str]
) -> Tokenizer:
    """The tokenizer that `asked` names, learned from the texts of both parts as far as its kind learns."""
    name, vocab_size = (default_of(defaults, asked, setting) for setting in ("tokenizer", "vocab_size"))
    return TOKENIZERS[name](train, validation, vocab_size)


def encode_parts(path: Path, tokenizer: Tokenizer, encode: Callable, *parts: list[Any]) -> Data:
    """Both parts of a file as encode(item) gives them: ids (T,), and what is learned of them."""
    try:
        train, validation = ([encode(item) for item in part] for part in parts)
    except UserError as error:  # a character that the tokenizer lacks
        raise UserError(f"{path}: {error}") from None
    tokens = sum(len(ids) for ids, _ in train)
    return Data(path.resolve().stem, files.sha256(path), tokenizer, train, validation, tokens, len(train))


class ExamplesTask(Task):
    """Base of these tasks. A subclass has these beside the methods of Task:

    items, cutting        what an item is called, and what happens to long ones
    cut(encoded)          Examples of at most block_size tokens from an encoded item
    describe_targets()    what is learned, in a few words
    """

    pad_id, token_dropout, prompt_share = 0, 0.0, 0.0  # see data/examples.py

    def __init__(self, config: TrainConfig, data: Data):
        """Raises UserError where block_size is too short for any target."""
        super().__init__(config, data)
        train = [example for encoded in data.train for example in self.cut(encoded)]
        validation = [example for encoded in data.validation for example in self.cut(encoded)]
        if not train or not validation:
            raise UserError(f"--block_size {config.block_size}: is too short for any of the answers in {config.data}")
        self.train = Examples(train, config.batch_size, self.pad_id, self.token_dropout, self.prompt_share)
        self.validation = Examples(validation, config.batch_size, self.pad_id)

    def describe(self) -> str:
        data, size = self.data, self.config.block_size
        parts = [
            f"{data.name}: {len(data.train):,} {self.items} for training, {len(data.validation):,} for validation",
            f"{data.tokens:,} tokens ({self.tokenizer.kind}, vocabulary of {self.tokenizer.vocab_size:,})",
            self.describe_targets(),
        ]
        if too_long := sum(len(ids) > size for ids, _ in data.train + data.validation):
            parts.append(f"{too_long:,} {self.items} longer than {size} tokens are {self.cutting}")
        return "; ".join(parts)

    def batch(self, step: int) -> Batch:
        """x, y, mask and weight, see data/examples.py."""
        return self.train.batch(self.config.seed, step)

    def outputs(self, model: GPT, x: Tensor, mask: Tensor) -> Tensor:
        """Logits or scores (N, K) at the N positions that have a target."""
        head = model.score if self.num_labels else model.head
        hidden = model.hidden_states(x)[mask]  # (N, C)
        padding = round_up(len(hidden), ROWS_MULTIPLE) - len(hidden)
        return head(F.pad(hidden, (0, 0, 0, padding)))[: len(hidden)]

    def loss(self, model: GPT, x: Tensor, y: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return self.criterion(self.outputs(model, x, mask), y[mask], self.config.label_smoothing) * weight.mean()

    def criterion(self, outputs: Tensor, targets: Tensor, *options: Any) -> Tensor:
        """The mean loss of outputs (N, K) and targets (N,); for the options see losses.py."""
        return LOSSES[self.config.loss](outputs, targets, *options)

    def validation_batches(self) -> Iterator[Batch]:
        return self.validation.batches(self.micro_batch_size)

    @torch.no_grad()
    def predict(self, model: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs (N, K) and targets (N,) of a batch."""
        x, y, mask, _ = to_tensors(batch, model)
        return self.outputs(model, x, mask), y[mask]
