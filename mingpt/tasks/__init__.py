"""What a run learns: each task says its batches, its loss, and what an evaluation measures.

The trainer and the run's folder know a task by what `Task` lists, and nothing else of it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mingpt.config import GPTConfig, TrainConfig
    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

HOMES = {
    "text": ("text", "TextTask"),
    "chat": ("chat", "ChatTask"),
    "classify": ("rows", "ClassifyTask"),
    "regress": ("rows", "RegressTask"),
}


class Task(Protocol):
    """What can be learned. Another task is another class with these, and its line in HOMES."""

    name: str  # a short one of its data, for a new folder
    sha256: str  # of its data: a run goes on with these alone
    tokenizer: Tokenizer  # is saved beside the model
    metric: str  # the measure of an evaluation that a study goes by
    is_higher_better: bool  # of the metric

    def model_config(self) -> GPTConfig:
        """The model to learn with."""

    def updates_in_epoch(self) -> int:
        """How many updates see each example about once."""

    def description(self) -> str:
        """The data in a line."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The tensors of update `step`, first dimension the batch: a pure function of the seed and the step."""

    def loss(self, model: nn.Module, *tensors: Tensor) -> Tensor:
        """The mean loss of a batch, or of a slice of it."""

    def evaluate(self, model: nn.Module, device: str) -> dict[str, float]:
        """{"val_loss": ..., metric: ..., more measures}; lower val_loss is better. Draws nothing at random."""

    def settings(self) -> dict[str, Any]:
        """What the model's config.json says beside its shape."""

    def ending(self, model: GPT, folder: Path) -> list[str]:
        """Lines for the end of a run: what the model has learned, and as the last one the command to use it."""


def new_task(config: TrainConfig, origin: Path | None = None) -> Task:
    """The task of a run. `origin` is the folder of a model whose tokenizer and shape are taken."""
    module, name = HOMES[config.task]
    return getattr(importlib.import_module(f"mingpt.tasks.{module}"), name)(config, origin)
