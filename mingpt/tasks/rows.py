"""The tasks of a table: give each text a label, or a number. A head reads both off the state of its last token."""

from __future__ import annotations

import abc
import hashlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mingpt import losses
from mingpt.config import GPTConfig, TrainConfig
from mingpt.data import labelled, rows
from mingpt.data.documents import BUILT_IN
from mingpt.data.labelled import PAD, TOKEN_DROPOUT, Example, LabelledData
from mingpt.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_for, with_special
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.tasks import measures
from mingpt.tasks.shape import model_config

QUANTILES = 10  # of the numbers, each of which gives a tenth to the held-out part
LISTED = 5  # classes that a line names


class RowsTask(abc.ABC):
    """What the two share: the rows, their tokens, batches and evaluation."""

    task: ClassVar[str]
    metric: ClassVar[str]
    is_higher_better: ClassVar[bool]
    value: ClassVar[Callable[[rows.Row, str], Any]]  # takes the target from a row

    def __init__(self, config: TrainConfig, origin: Path | None = None):
        """`origin` is the folder of a model whose tokenizer and shape are taken: a run's own, or that of init_from.

        Raises UserError where a row cannot be used, or there is nothing to tell apart.
        """
        if origin is None and config.init_from is not None:
            origin = Path(config.init_from)
        if config.data in BUILT_IN:
            raise UserError(f"--data {config.data}: --task {self.task} learns from a table, such as data/reviews.csv")
        self.config, self.origin, path = config, origin, Path(config.data)
        self.column = self.label_column(path)
        examples = labelled.read_examples(path, config.text_column, self.column, self.value)
        if len({example.target for example in examples}) < 2:
            problem = f"every row has the {self.column} {examples[0].target}; at least two are needed"
            raise UserError(f"{path}: {problem}")
        self.name, self.sha256 = path.resolve().stem, hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            train, self.held_out = labelled.split(self.strata([example.target for example in examples]), config.seed)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.tokenizer = with_special(self.plain_tokenizer(examples, train), [PAD], pad_token=PAD)
        self.pad = self.tokenizer.vocabulary.ids[PAD]
        targets = self.numbered([example.target for example in examples], train)
        token_dropout = TOKEN_DROPOUT if config.init_from is None else 0.0
        self.data = LabelledData(self.encoded(examples), targets, train, config.batch_size, self.pad, token_dropout)

    @abc.abstractmethod
    def label_column(self, path: Path) -> str:
        """The column of what is to be learned."""

    @abc.abstractmethod
    def strata(self, targets: Sequence[Any]) -> np.ndarray:
        """A whole number for each target; of those with the same, a tenth is held out."""

    @abc.abstractmethod
    def numbered(self, targets: Sequence[Any], train: np.ndarray) -> np.ndarray:
        """The targets as the loss takes them; `train` are the rows to learn from."""

    @abc.abstractmethod
    def loss_of(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss of scores (B, num_labels) and targets (B,)."""

    @abc.abstractmethod
    def measured(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """What an evaluation reports of scores (N, num_labels) and targets (N,)."""

    def plain_tokenizer(self, examples: list[Example], train: np.ndarray) -> Tokenizer:
        if self.origin is not None:
            return load_tokenizer(self.origin)
        texts = [example.text for example in examples]
        to_learn_from = [texts[i] for i in train]
        return tokenizer_for(self.config.tokenizer, to_learn_from, texts, self.config.vocab_size)

    def encoded(self, examples: list[Example]) -> list[np.ndarray]:
        """The ids of each text. Of one that is too long its end is kept, where opinions sum up; those are counted."""
        kind = np.uint16 if len(self.tokenizer.pieces) <= 1 << 16 else np.uint32
        self.cut, found = 0, []
        for example in examples:
            try:
                ids = labelled.encode(self.tokenizer, example.text).astype(kind)
            except UserError as error:  # a character that the tokenizer lacks
                raise UserError(rows.at(self.config.data, example.row, str(error))) from None
            self.cut += len(ids) > self.config.block_size
            found.append(ids[-self.config.block_size :])
        return found

    def updates_in_epoch(self) -> int:
        return self.data.batches

    def description(self) -> str:
        """The data in a line: how many texts, what is to be told apart, how many are held out, how many are cut."""
        kind, tokens = self.tokenizer.vocabulary.kind, len(self.tokenizer.pieces)
        parts = [
            f"{self.name}: {len(self.data.ids):,} texts, {self.contents()}",
            f"{len(self.held_out):,} of them held out",
            f"{int(self.data.lengths.mean()):,} tokens on average ({kind}, {tokens:,} different)",
        ]
        if self.cut:
            parts.append(f"{self.cut:,} are longer than --block_size {self.config.block_size}: their end is read")
        return "; ".join(parts)

    @abc.abstractmethod
    def contents(self) -> str:
        """What there is to learn, in some words."""

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (B, T), last places (B,) and targets (B,) of update `step`."""
        idx, last, targets = self.data.batch(self.config.seed, step)
        return torch.from_numpy(idx), torch.from_numpy(last), torch.from_numpy(targets)

    def loss(self, model: nn.Module, idx: Tensor, last: Tensor, targets: Tensor) -> Tensor:
        return self.loss_of(model.scores(idx, last), targets, self.config.label_smoothing)

    def evaluate(self, model: nn.Module, device: str) -> dict[str, float]:
        """val_loss, the loss of the held-out part, and its measures."""
        scores, targets, val_loss = self.scored(model, device)
        return {"val_loss": val_loss, **self.measured(scores, targets)}

    @torch.no_grad()
    def scored(self, model: nn.Module, device: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Scores (N, num_labels), targets (N,) and mean loss of the held-out part."""
        all_scores, all_targets, loss = [], [], 0.0
        for batch in self.data.in_order(self.held_out):
            idx, last, targets = (torch.from_numpy(part).to(device) for part in batch)
            scores = model.scores(idx, last).float()
            loss += self.loss_of(scores, targets).item() * len(targets)
            all_scores.append(scores.cpu().numpy())
            all_targets.append(batch[2])
        return np.concatenate(all_scores), np.concatenate(all_targets), loss / len(self.held_out)

    def settings_for(self, labels: Sequence[str], problem_type: str) -> dict[str, Any]:
        """What transformers' GPT2ForSequenceClassification needs, and what mingpt.predict does."""
        return {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            "problem_type": problem_type,
            "pad_token_id": self.pad,
            "task_specific_params": {"mingpt": {"task": self.task, "text_column": self.config.text_column}},
        }

    def use(self, folder: Path) -> str:
        """The command that labels more texts."""
        data, output = shlex.quote(self.config.data), f"labelled{rows.ending(self.config.data)}"
        return f"label more    python -m mingpt.predict {shlex.quote(str(folder))} --file {data} --output {output}"


class ClassifyTask(RowsTask):
    """Give each text one of a few labels."""

    task, metric, is_higher_better = "classify", "accuracy", True
    value = staticmethod(rows.label_of)

    def label_column(self, path: Path) -> str:
        return self.config.label_column or "label"

    def strata(self, targets: Sequence[str]) -> np.ndarray:
        self.labels = sorted(set(targets))
        self.number = {label: i for i, label in enumerate(self.labels)}
        return np.array([self.number[label] for label in targets])

    def numbered(self, targets: Sequence[str], train: np.ndarray) -> np.ndarray:
        classes = np.array([self.number[label] for label in targets])
        self.counts = np.bincount(classes)
        self.weights = None
        if self.config.class_weights:  # 1 on average over the rows to learn from
            found = np.maximum(1, np.bincount(classes[train], minlength=len(self.labels)))
            self.weights = torch.tensor(len(train) / (len(self.labels) * found), dtype=torch.float32)
        self.chosen_loss = losses.choose(self.task, self.config.loss)
        return classes

    def contents(self) -> str:
        frequent = np.argsort(-self.counts, kind="stable")[:LISTED]
        named = ", ".join(f"{rows.brief(self.labels[i])} {self.counts[i]:,}" for i in frequent)
        return f"{len(self.labels)} classes ({named}{', ...' if len(self.labels) > LISTED else ''})"

    def model_config(self) -> GPTConfig:
        return model_config(self.config, self.tokenizer, self.origin, len(self.labels))

    def loss_of(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        weights = None if self.weights is None else self.weights.to(scores.device)
        return self.chosen_loss(scores, targets, label_smoothing, weights)

    def measured(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return measures.of_classes(measures.confusion(targets, scores.argmax(axis=1), len(self.labels)))

    def settings(self) -> dict[str, Any]:
        return self.settings_for(self.labels, "single_label_classification")

    def ending(self, model: GPT, folder: Path) -> list[str]:
        """The confusion table of the held-out part."""
        scores, targets, _ = self.scored(model, self.config.device)
        found = measures.confusion(targets, scores.argmax(axis=1), len(self.labels))
        what = "a row for each label, a column for what the model said"
        if len(self.labels) > measures.WIDEST_TABLE:
            what = "the commonest mistakes" if found.trace() < found.sum() else "no mistake"
        lines = [f"    {line}" for line in measures.table(found, self.labels)]
        return [f"the held-out texts: {what}", "", *lines, self.use(folder)]


class RegressTask(RowsTask):
    """Give each text a number. The model learns it standardised: less the mean of the targets, by their deviation."""

    task, metric, is_higher_better = "regress", "rmse", False
    value = staticmethod(rows.number_of)

    def label_column(self, path: Path) -> str:
        if self.config.label_column is not None:
            return self.config.label_column
        return "rating" if "rating" in rows.columns_of(path) else "label"

    def strata(self, targets: Sequence[float]) -> np.ndarray:
        rank = np.argsort(np.argsort(targets, kind="stable"), kind="stable")
        return rank * QUANTILES // len(targets)

    def numbered(self, targets: Sequence[float], train: np.ndarray) -> np.ndarray:
        values = np.array(targets, dtype=np.float64)
        self.low, self.high = values.min(), values.max()
        self.mean, self.std = float(values[train].mean()), float(values[train].std() or 1)
        self.chosen_loss = losses.choose(self.task, self.config.loss)
        return ((values - self.mean) / self.std).astype(np.float32)

    def contents(self) -> str:
        return f"{self.column} from {self.low:g} to {self.high:g}, {self.mean:.4g} on average"

    def model_config(self) -> GPTConfig:
        return model_config(self.config, self.tokenizer, self.origin, 1)

    def loss_of(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return self.chosen_loss(scores[:, 0], targets)  # no loss of numbers has labels to smooth

    def measured(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """In the data's own unit."""
        values = [part.astype(np.float64) * self.std + self.mean for part in (targets, scores[:, 0])]
        return measures.of_numbers(*values)

    def settings(self) -> dict[str, Any]:
        more = {"target_mean": self.mean, "target_std": self.std}
        return self.settings_for([self.column], "regression") | more

    def ending(self, model: GPT, folder: Path) -> list[str]:
        """All measures of the held-out part."""
        scores, targets, _ = self.scored(model, self.config.device)
        found = self.measured(scores, targets)
        line = f"RMSE {found['rmse']:.4g}, MAE {found['mae']:.4g}, R2 {found['r2']:.3f}"
        return [f"the held-out texts: {line}, correlation {found['correlation']:.3f}", self.use(folder)]
