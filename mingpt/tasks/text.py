"""The task of a text: predict its next token."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mingpt import losses
from mingpt.config import GPTConfig, TrainConfig
from mingpt.data.text import TextData
from mingpt.data.tokenizer import load_tokenizer
from mingpt.model import GPT
from mingpt.streaming import continuation
from mingpt.tasks.shape import model_config

SAMPLE_TOKENS = 300
OPENING = "The "  # of the sample, where the text is English
LOOKED_AT = 20_000  # tokens, to tell


class TextTask:
    """Predict the next token of a text."""

    metric, is_higher_better = "bits_per_byte", False

    def __init__(self, config: TrainConfig, origin: Path | None = None):
        """`origin` is the folder of a model whose tokenizer and shape are taken: a run's own, or that of init_from."""
        if origin is None and config.init_from is not None:
            origin = Path(config.init_from)
        self.config, self.origin = config, origin
        self.chosen_loss = losses.choose("text", config.loss)
        asked = config.tokenizer if origin is None else load_tokenizer(origin)
        self.data = TextData(config.data, asked, config.block_size, config.batch_size, config.vocab_size)
        self.name, self.sha256, self.tokenizer = self.data.name, self.data.sha256, self.data.tokenizer
        self.pieces = np.array([len(piece) for piece in self.tokenizer.pieces])  # bytes of text in each token
        if self.tokenizer.end_of_text is not None:
            self.pieces[self.tokenizer.end_of_text] = 0

    def model_config(self) -> GPTConfig:
        return model_config(self.config, self.tokenizer, self.origin)

    def updates_in_epoch(self) -> int:
        """How many updates see each window of the training part about once."""
        return max(1, self.data.windows // self.config.batch_size)

    def description(self) -> str:
        """The text in a line: its name, size and parts."""
        data, kind = self.data, self.tokenizer.vocabulary.kind
        tokens = len(data.train) + len(data.validation)
        return (
            f"{data.name}: {tokens:,} tokens ({kind}, {len(self.tokenizer.pieces):,} different), "
            f"{len(data.validation):,} of them for validation, {data.validation_note}"
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of update `step`: (batch_size, T) ids each."""
        x, y = self.data.batch(self.config.seed, step)
        return torch.from_numpy(x), torch.from_numpy(y)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token: -ln of the probability that the model gave to each target."""
        return self.surprise(model, x, y, self.config.label_smoothing)

    def surprise(self, model: nn.Module, x: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return self.chosen_loss(model(x), y, label_smoothing)  # of logits (B, T, V)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: str) -> dict[str, float]:
        """val_loss in nats per token, and bits per byte of text, which compares runs with different tokenizers."""
        nats, tokens, text_bytes = 0.0, 0, 0
        for windows in self.validation_batches():
            both = torch.from_numpy(windows).to(device)
            nats += self.surprise(model, both[:, :-1], both[:, 1:]).item() * both[:, 1:].numel()
            tokens += both[:, 1:].numel()
            text_bytes += int(self.pieces[windows[:, 1:]].sum())
        return {"val_loss": nats / tokens, "bits_per_byte": nats / (math.log(2) * max(1, text_bytes))}

    def validation_batches(self) -> Iterator[np.ndarray]:
        """Validation windows, as many at a time as a training step holds; the last, shorter one on its own."""
        size = max(1, self.config.batch_size // self.config.gradient_accumulation)
        windows = self.data.validation_windows()
        shorter = [windows.pop()] if len(windows[-1]) < len(windows[0]) else []
        for i in range(0, len(windows), size):
            yield np.stack(windows[i : i + size])
        yield from (window[None] for window in shorter)

    def settings(self) -> dict[str, Any]:
        return {}

    def ending(self, model: GPT, folder: Path) -> list[str]:
        prompt = OPENING if OPENING in self.tokenizer.decode(self.data.train[:LOOKED_AT].tolist()) else ""
        sample = continuation(model, self.tokenizer, prompt, SAMPLE_TOKENS, seed=self.config.seed, temperature=0.8)
        lines = (prompt + "".join(sample)).strip().splitlines()
        option = f' --prompt "{prompt}"' if prompt else ""
        return [
            "a sample of its writing",
            "",
            *(f"    {line}" for line in lines),
            f"write more    python -m mingpt.generate {shlex.quote(str(folder))}{option}",
        ]
