"""What a task is: the data it learns from, its batches, its loss, and how a model is evaluated on it.

The rest of the package knows a task by this interface alone. A new task is a file with its class, and a line in
config.TASKS.

    data = SomeTask.read(asked, tokenizer)       parsed and tokenized, before the settings are resolved
    task = SomeTask(config, data)                batches, loss and evaluation, with the resolved settings
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mingpt import distributed
from mingpt.config import TrainConfig, Training
from mingpt.data.examples import Data
from mingpt.data.tokenizer import Tokenizer


class Task(abc.ABC):
    losses: ClassVar[tuple[str, ...]]  # those that fit; the first is the default
    uses: ClassVar[tuple[str, ...]] = ()  # those of resolve.TASK_SETTINGS that it uses
    defaults: ClassVar[dict[str, Any]]  # of settings, when training from scratch
    max_iters: ClassVar[int | None] = None  # updates when training from scratch; None: `epochs`
    epochs: ClassVar[int] = 1
    min_iters: ClassVar[int] = 1
    learning_rate_scale: ClassVar[float] = 1.0  # relative to the optimizer's default
    muon_weight_decay: ClassVar[float] = 0.0  # when training from scratch
    metric: ClassVar[str]  # the key of `evaluate` by which models and trials are compared
    higher_is_better: ClassVar[bool]
    num_labels = 0  # outputs of the score head; 0: a language model

    def __init__(self, config: TrainConfig, data: Data):
        self.config, self.data = config, data
        self.tokenizer = data.tokenizer
        self.micro_batch_size = config.batch_size // (config.gradient_accumulation * distributed.world_size())

    @classmethod
    @abc.abstractmethod
    def read(cls, asked: Training, tokenizer: Tokenizer | None) -> Data:
        """The data that `asked` names, tokenized by `tokenizer`, or by a new one where it is None."""

    @abc.abstractmethod
    def describe(self) -> str:
        """The data in a line: how much, its vocabulary, what is held out."""

    @abc.abstractmethod
    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of update `step`, first dimension the batch: a pure function of (seed, step)."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """The mean loss of a batch; for a micro-batch, its share, so that their mean is the batch's."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """{"val_loss": ..., metric: ..., and others}, of the validation part. Uses no random numbers."""

    def sample(self, model: nn.Module) -> str:
        """Text that the model generates, recorded at each evaluation; "" where it generates none."""
        return ""

    def config_extra(self) -> dict[str, Any]:
        """What config.json says beside the architecture."""
        return {}

    @abc.abstractmethod
    def report(self, model: nn.Module, folder: Path) -> list[str]:
        """Lines for the end of a run: what the model does, and as the last one the command that uses it."""

    @classmethod
    def objective(cls, metrics: dict[str, float]) -> float:
        """The metric as a value to minimize, by which the best checkpoint and the best trial are chosen."""
        # not val_loss, where an overconfident classifier loses while its accuracy improves (tests/benchmarks/LOG.md)
        return 1 - metrics[cls.metric] if cls.higher_is_better else metrics[cls.metric]


def default_of(defaults: dict[str, Any], asked: Training, name: str) -> Any:
    """A setting that reading the data needs: as asked for, or a task's default."""
    value = getattr(asked, name)
    return defaults.get(name) if value is None else value


def to_tensors(arrays: Sequence[np.ndarray], model: nn.Module) -> tuple[Tensor, ...]:
    """The arrays as tensors on the model's device; to a GPU they are copied while it computes."""
    device = next(model.parameters()).device
    tensors = (torch.from_numpy(array) for array in arrays)
    if device.type == "cuda":
        return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)
    return tuple(tensor.to(device) for tensor in tensors)


def language_metrics(
    batches: Iterable[Any],
    predict: Callable[[Any], tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    byte_lengths: np.ndarray,
) -> dict[str, float]:
    """Mean negative log-likelihood per token, and bits per byte of text, which compares different tokenizers.

    predict(batch) is logits (..., V) and targets (...); byte_lengths (V,) of text in each token.
    """

    def measure(batch: Any) -> tuple[float, int, int]:
        logits, targets = predict(batch)
        nats = criterion(logits, targets).item() * targets.numel()
        return nats, targets.numel(), int(byte_lengths[targets.cpu().numpy()].sum())

    nats, tokens, text_bytes = map(sum, zip(*distributed.shared_map(measure, batches), strict=True))
    return {"val_loss": nats / tokens, "bits_per_byte": nats / (math.log(2) * max(1, text_bytes))}
