"""The task of a text: predict the next token."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from mingpt.config import TrainConfig, Training
from mingpt.data.examples import Data
from mingpt.data.text import Windows, load_text
from mingpt.data.tokenizer import Tokenizer
from mingpt.losses import LOSSES
from mingpt.model import GPT
from mingpt.tasks.base import Task, default_of, language_metrics, to_tensors

SAMPLE_TOKENS, REPORT_TOKENS, TEMPERATURE = 100, 300, 0.8
PROMPT = "The "  # of the sample, where the text is English
PROMPT_SEARCH = 20_000  # tokens, in which the prompt must occur


class TextTask(Task):
    """Predict the next token of a text."""

    losses, uses = ("cross_entropy",), ("label_smoothing",)
    defaults: ClassVar = dict(data="pydoc", tokenizer="char", vocab_size=1024)  # of a long text bpe: see load_text
    max_iters = 3500
    muon_weight_decay = 0.1  # ten epochs of the manual overfit without it (tests/benchmarks/LOG.md)
    metric, higher_is_better = "bits_per_byte", False

    @classmethod
    def read(cls, asked: Training, tokenizer: Tokenizer | None) -> Data:
        tokenizer = tokenizer or asked.tokenizer or ("bpe" if asked.vocab_size else None)
        return load_text(
            default_of(cls.defaults, asked, "data"), tokenizer, default_of(cls.defaults, asked, "vocab_size")
        )

    def __init__(self, config: TrainConfig, data: Data):
        super().__init__(config, data)
        self.windows = Windows(data, config.block_size, config.batch_size)
        self.criterion = LOSSES[config.loss]

    def describe(self) -> str:
        train, validation, stride = len(self.data.train), len(self.data.validation), self.windows.stride
        evaluated = "" if stride == 1 else f", of which 1 in {stride} windows is evaluated"
        return (
            f"{self.data.name}: {train:,} tokens for training and {validation:,} for validation{evaluated} "
            f"({self.tokenizer.kind}, vocabulary of {self.tokenizer.vocab_size:,})"
        )

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of update `step`: (batch_size, T) ids each."""
        return self.windows.batch(self.config.seed, step)

    def loss(self, model: GPT, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token."""
        return self.criterion(model(x), y, self.config.label_smoothing)  # of logits (B, T, V)

    def evaluate(self, model: GPT) -> dict[str, float]:
        """val_loss in nats per token, and bits per byte."""

        def predict(windows: np.ndarray) -> tuple[Tensor, Tensor]:
            x, y = to_tensors((windows[:, :-1], windows[:, 1:]), model)
            return model(x), y

        batches = self.windows.validation_batches(self.micro_batch_size)
        return language_metrics(batches, predict, self.criterion, self.tokenizer.byte_lengths)

    @functools.cached_property
    def prompt(self) -> str:
        beginning = self.tokenizer.decode(self.data.train[:PROMPT_SEARCH].tolist())
        return PROMPT if PROMPT in beginning else ""

    def sample(self, model: GPT, tokens: int = SAMPLE_TOKENS) -> str:
        """A continuation of the prompt, the same for the same weights."""
        from mingpt.generation.streaming import Completion, complete, encode_prompt

        ids = encode_prompt(self.tokenizer, self.prompt)
        options = {"seed": self.config.seed, "temperature": TEMPERATURE}
        return self.prompt + "".join(complete(model, ids, Completion(self.tokenizer), tokens, **options))

    def report(self, model: GPT, folder: Path) -> list[str]:
        """A sample of generated text."""
        lines = [f"    {line}" for line in self.sample(model, REPORT_TOKENS).strip().splitlines()]
        option = f' --prompt "{self.prompt}"' if self.prompt else ""
        command = f"generate      python -m mingpt.generate {shlex.quote(str(folder))}{option}"
        return ["a sample of generated text", "", *lines, command]
