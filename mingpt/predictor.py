"""A classification or regression model with its tokenizer: texts in, classes or numbers out."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mingpt import pretrained
from mingpt.data import tables
from mingpt.data.tokenizer import load_tokenizer
from mingpt.device import choose_device
from mingpt.errors import UserError
from mingpt.files import read_json
from mingpt.model import GPT

BATCH = 64


class Predictor:
    """A model of --task classify or regress with its tokenizer and class names. UserError where it is none."""

    def __init__(self, name: str, device: str):
        folder = pretrained.locate(name)
        self.model = GPT.from_pretrained(folder).to(choose_device(device))
        self.tokenizer = load_tokenizer(folder)
        settings, num_labels = read_json(folder / "config.json"), self.model.config.num_labels
        kind = "regression" if num_labels == 1 else "single_label_classification"
        if not num_labels or (settings.get("problem_type") or kind) != kind:
            raise UserError(f"{name}: is not a model of --task classify or regress")
        names = settings.get("id2label") or {}
        self.labels = [names.get(str(i), f"LABEL_{i}") for i in range(num_labels)]
        self.mean, self.std = settings.get("target_mean", 0.0), settings.get("target_std", 1.0)
        self.columns = ["prediction"] if num_labels == 1 else ["prediction", "probability"]
        ours = (settings.get("task_specific_params") or {}).get("mingpt", {})
        self.text_column = ours.get("text_column", "text")
        self.truncated = self.unreadable = 0  # texts longer than block_size; rows without a prediction

    def encode(self, text: str) -> list[int]:
        """The last block_size ids of a text. Raises UserError where it has a character that the tokenizer lacks."""
        ids, size = self.tokenizer.encode(text), self.model.config.block_size
        self.truncated += len(ids) > size
        return ids[-size:]

    def encode_row(self, path: str, row: tables.Row, text_column: str) -> list[int]:
        """The ids of a row's text: none, and a note on standard error, where it cannot be read."""
        try:
            return self.encode(tables.text_of(row, text_column))
        except UserError as error:
            self.unreadable += 1
            if self.unreadable <= tables.MAX_PROBLEMS:
                tqdm.write(f"note: {path}, row {row.number}: {error}", file=sys.stderr)
            return []

    def scores(self, texts: list[list[int]]) -> Tensor:
        """What the score head says of each text, (N, num_labels); NaN without ids. Similar lengths share a batch."""
        scores = torch.full((len(texts), len(self.labels)), torch.nan, dtype=torch.float64)
        order = sorted((i for i, ids in enumerate(texts) if ids), key=lambda i: len(texts[i]))
        for batch in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            with torch.inference_mode():
                idx = pad_sequence([torch.tensor(texts[i]) for i in batch], batch_first=True)  # (B, T)
                x = self.model.hidden_states(idx.to(self.model.wte.weight.device))  # (B, T, C)
                last = x[range(len(batch)), [len(texts[i]) - 1 for i in batch]]  # (B, C)
                scores[batch] = self.model.score(last).cpu().double()  # (B, num_labels)
        return scores

    def values(self, scores: Tensor) -> Tensor:
        """The numbers (N,) that the scores (N, 1) of a regression model stand for, in the unit of its data."""
        return scores[:, 0] * self.std + self.mean

    def predict(self, texts: list[list[int]]) -> list[tuple[Any, ...]]:
        """The values of `columns` for each text, None for one without ids."""
        scores = self.scores(texts)
        probabilities, labels = scores.softmax(dim=1).max(dim=1)  # (N,)
        values = self.values(scores) if len(self.labels) == 1 else probabilities
        predictions: list[tuple[Any, ...]] = [(None,) * len(self.columns)] * len(texts)
        for i, (ids, label, value) in enumerate(zip(texts, labels.tolist(), values.tolist(), strict=True)):
            if ids:
                rounded = float(f"{value:.6g}")
                predictions[i] = (rounded,) if len(self.labels) == 1 else (self.labels[label], rounded)
        return predictions
