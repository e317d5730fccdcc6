"""Tasks on tables, with a score head on the last token of each text; and classification."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mingpt import distributed
from mingpt.config import TrainConfig, Training
from mingpt.data import tables
from mingpt.data.examples import Batch, Data, Example
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.tasks.examples import ExamplesTask, create_tokenizer, encode_parts
from mingpt.tasks.metrics import classification_metrics, confusion_matrix, format_confusion_matrix

PAD = "<|pad|>"
TOKEN_DROPOUT = 0.2  # when training from scratch (tests/benchmarks/LOG.md)
MAX_CLASSES = 5  # that `describe_targets` names
HOLD_OUT_EVERY, MAX_HELD_OUT = 10, 10_000  # one row in 10 is held out, of a large file no more than 10,000


class TableTask(ExamplesTask):
    """A class or a number for each text. A subclass has these beside the methods of ExamplesTask:

    label_columns             the default of label_column is the first of these that the table has
    parse(row, column)        the label or number of a row: tables.label_of or tables.number_of
    strata(values)            of the rows with the same value here, a tenth is held out
    target(value)             a label or number as the loss takes it, int64 or float32
    metrics(scores, targets)  of arrays (N, K) and (N,)
    labels, problem_type      names of the K scores, and the kind of task in config.json
    """

    # from scratch, on a small table (tests/benchmarks/LOG.md)
    defaults: ClassVar = dict(tokenizer="bpe", vocab_size=4096, n_layer=1, block_size=128, batch_size=32, dropout=0.2)
    epochs, min_iters, learning_rate_scale = 5, 300, 0.25
    items, cutting = "texts", "truncated on the left"  # at their end, opinions are summed up

    @classmethod
    def read(cls, asked: Training, tokenizer: Tokenizer | None) -> Data:
        """The rows; a stratified tenth of them is the validation part."""
        if asked.data is None:
            raise UserError(f"--data: a CSV, TSV or JSONL file is needed by --task {asked.task}")
        names = [*tables.column_names(asked.data), "label"]
        label_column = asked.label_column or next(name for name in cls.label_columns if name in names)
        columns = {"text_column": asked.text_column or "text", "label_column": label_column}
        rows = tables.load_examples(asked.data, **columns, parse=cls.parse)
        targets = [row.target for row in rows]
        if len(set(targets)) < 2:
            raise UserError(f"{asked.data}: every row has the {label_column} {targets[0]}; at least 2 are needed")
        indices = split(cls.strata(targets), asked.seed)
        if not len(indices[1]):
            raise UserError(f"{asked.data}: no two rows have the same {label_column}")
        parts = [[rows[i] for i in part] for part in indices]
        texts = [[row.text for row in part] for part in parts]
        tokenizer = tokenizer or create_tokenizer(cls.defaults, asked, *texts)
        tokenizer = tokenizer.with_special([PAD], pad_token=PAD)
        data = encode_parts(
            Path(asked.data), tokenizer, lambda row: (tokenizer.encode_array(row.text), row.target), *parts
        )
        return replace(data, defaults=columns)

    def __init__(self, config: TrainConfig, data: Data):
        self.pad_id = data.tokenizer.special_ids[PAD]
        self.token_dropout = TOKEN_DROPOUT if config.init_from is None else 0.0
        super().__init__(config, data)

    def cut(self, encoded: tuple[np.ndarray, Any]) -> Iterator[Example]:
        """The last block_size tokens of a text, with its target at the last of them."""
        ids, target = encoded[0][-self.config.block_size :], self.target(encoded[1])
        yield Example(ids, np.broadcast_to(target, len(ids)), np.arange(len(ids)) == len(ids) - 1)

    def score_validation(self, model: GPT) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and targets (N,) of the validation part, on the CPU."""

        def predict(batch: Batch) -> list[Tensor]:
            return [tensor.cpu() for tensor in self.predict(model, batch)]

        scores, targets = zip(*distributed.shared_map(predict, self.validation_batches()), strict=True)
        return torch.cat(scores), torch.cat(targets)

    def evaluate(self, model: GPT) -> dict[str, float]:
        """val_loss and the metrics of the validation part."""
        scores, targets = self.score_validation(model)
        return {"val_loss": self.criterion(scores, targets).item()} | self.metrics(scores.numpy(), targets.numpy())

    def config_extra(self) -> dict[str, Any]:
        """What transformers' GPT2ForSequenceClassification and mingpt.predict read from config.json."""
        return {
            "id2label": {str(i): label for i, label in enumerate(self.labels)},
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": self.problem_type,
            "pad_token_id": self.pad_id,
            "task_specific_params": {"mingpt": {"task": self.config.task, "text_column": self.config.text_column}},
        }

    def command(self, folder: Path) -> str:
        """The command that predicts for more texts."""
        data, output = shlex.quote(self.config.data), f"predictions{Path(self.config.data).suffix}"
        return f"predict       python -m mingpt.predict {shlex.quote(str(folder))} --file {data} --output {output}"


def split(strata: Sequence[Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation part: of each stratum a tenth is held out, rounded up or down.

    The only item of a stratum is for training.
    """
    _, stratum, sizes = np.unique(np.array(strata, dtype=object), return_inverse=True, return_counts=True)
    rng = np.random.default_rng([seed, 0, 1])  # independent of the shuffling
    order = rng.permutation(len(stratum))
    order = order[np.argsort(stratum[order], kind="stable")]
    candidates = order[sizes[stratum[order]] > 1]
    every = max(HOLD_OUT_EVERY, -(-len(stratum) // MAX_HELD_OUT))
    first = rng.integers(max(1, min(every, len(candidates))))
    validation = np.sort(candidates[first::every])
    return np.setdiff1d(np.arange(len(stratum)), validation), validation


class ClassifyTask(TableTask):
    """Predict which of K labels a text has."""

    losses = ("cross_entropy",)
    uses = ("label_smoothing", "class_weights", "text_column", "label_column")
    metric, higher_is_better = "accuracy", True
    label_columns, problem_type = ("label",), "single_label_classification"
    parse = staticmethod(tables.label_of)
    strata = staticmethod(lambda labels: labels)

    def __init__(self, config: TrainConfig, data: Data):
        self.labels = sorted({label for _, label in data.train + data.validation})
        self.num_labels = len(self.labels)
        self.classes = {label: np.int64(i) for i, label in enumerate(self.labels)}
        self.counts = np.bincount([self.classes[label] for _, label in data.train], minlength=self.num_labels)
        super().__init__(config, data)

    def target(self, label: str) -> np.int64:
        return self.classes[label]

    def describe_targets(self) -> str:
        frequent = np.argsort(-self.counts, kind="stable")[:MAX_CLASSES]
        named = ", ".join(f"{tables.shorten(self.labels[i])} {self.counts[i]:,}" for i in frequent)
        return f"{self.num_labels} classes ({named}{', ...' if self.num_labels > MAX_CLASSES else ''})"

    def criterion(self, scores: Tensor, classes: Tensor, label_smoothing: float = 0.0) -> Tensor:
        weights = None
        if self.config.class_weights:  # 1 on average over the training part
            weights = self.counts.sum() / (self.num_labels * np.maximum(1, self.counts))
            weights = torch.tensor(weights, dtype=torch.float32, device=scores.device)
        return super().criterion(scores, classes, label_smoothing, weights)

    def metrics(self, scores: np.ndarray, classes: np.ndarray) -> dict[str, float]:
        return classification_metrics(confusion_matrix(classes, scores.argmax(axis=1), self.num_labels))

    def report(self, model: GPT, folder: Path) -> list[str]:
        """The confusion matrix of the validation part."""
        scores, classes = (tensor.numpy() for tensor in self.score_validation(model))
        n = confusion_matrix(classes, scores.argmax(axis=1), self.num_labels)
        title, lines = format_confusion_matrix(n, self.labels)
        return [f"validation part: {title}", "", *(f"    {line}" for line in lines), self.command(folder)]
