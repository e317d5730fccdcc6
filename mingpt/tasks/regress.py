"""Text regression: a number for each text, standardized for the loss: (number - mean) / standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mingpt.config import TrainConfig
from mingpt.data.examples import Data
from mingpt.data.tables import number_of
from mingpt.model import GPT
from mingpt.tasks.classify import TableTask
from mingpt.tasks.metrics import regression_metrics

QUANTILES = 10  # of the numbers, of each of which a tenth is held out
UNIT = "in transformers the output is standardized: multiply by target_std and add target_mean, both in config.json"


class RegressTask(TableTask):
    """Predict the number of a text."""

    losses, uses = ("mse", "mae", "huber"), ("text_column", "label_column")
    metric, higher_is_better = "rmse", False
    num_labels = 1
    label_columns, problem_type = ("rating", "label"), "regression"
    parse = staticmethod(number_of)

    @staticmethod
    def strata(numbers: Sequence[float]) -> np.ndarray:
        rank = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
        return rank * QUANTILES // len(numbers)

    def __init__(self, config: TrainConfig, data: Data):
        self.labels = [config.label_column]
        numbers = np.array([number for _, number in data.train])
        self.low, self.high = numbers.min(), numbers.max()
        self.mean, self.std = float(numbers.mean()), float(numbers.std()) if np.ptp(numbers) else 1.0
        super().__init__(config, data)

    def target(self, number: float) -> np.float32:
        return np.float32((number - self.mean) / self.std)

    def describe_targets(self) -> str:
        return f"{self.config.label_column} from {self.low:g} to {self.high:g}, mean {self.mean:.4g}"

    def criterion(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return super().criterion(scores[:, 0], targets)

    def metrics(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """In the unit of the data."""
        targets, predictions = (part.astype(np.float64) * self.std + self.mean for part in (targets, scores[:, 0]))
        return regression_metrics(targets, predictions)

    def config_extra(self) -> dict[str, Any]:
        return super().config_extra() | {"target_mean": self.mean, "target_std": self.std}

    def report(self, model: GPT, folder: Path) -> list[str]:
        """The metrics of the validation part, and the unit of what transformers computes."""
        m = self.evaluate(model)
        line = f"RMSE {m['rmse']:.4g}, MAE {m['mae']:.4g}, R2 {m['r2']:.3f}, correlation {m['correlation']:.3f}"
        return [f"validation part: {line}", UNIT, self.command(folder)]
