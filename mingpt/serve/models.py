"""The models that a server offers: a language model with its batcher, or a model of classes or numbers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mingpt import pretrained, run
from mingpt.data.dialogue import END, MARKERS
from mingpt.errors import UserError
from mingpt.files import read_json
from mingpt.generation.batching import Batcher, QueueFull, Worker
from mingpt.generation.settings import GenerationSettings, load_model
from mingpt.predict import Predictor
from mingpt.serve.schema import Prediction


class LanguageModel:
    """A model that continues text; a chat model where its tokenizer has the markers of turns."""

    def __init__(self, settings: GenerationSettings, worker: Worker, max_batch: int, max_queue: int):
        self.model, self.tokenizer = load_model(settings)
        self.config = self.model.config
        is_chat = {*MARKERS.values(), END} <= self.tokenizer.special_ids.keys()
        self.task = "chat" if is_chat else "text"
        self.end_ids = self.tokenizer.special_ids.values() if is_chat else None
        self.batcher = Batcher(self.model, worker, max_batch, max_queue)
        self.extra = {"dtype": settings.dtype}


class LabelModel:
    """A model of --task classify or regress."""

    def __init__(self, folder: str, device: str, worker: Worker, max_queue: int):
        self.predictor = Predictor(folder, device)
        self.tokenizer, self.config = self.predictor.tokenizer, self.predictor.model.config
        self.task = "regress" if self.config.num_labels == 1 else "classify"
        self.extra = {"dtype": "float32", "text_column": self.predictor.text_column}
        self.worker, self.max_queue, self.pending = worker, max_queue, 0

    async def predict(self, texts: Sequence[str]) -> tuple[list[Prediction], int]:
        """A prediction for each text, and how many tokens were read.

        Raises QueueFull or Closed, and UserError for a text that cannot be encoded.
        """
        if self.pending > self.max_queue:
            raise QueueFull
        self.pending += 1
        try:
            return await asyncio.wrap_future(self.worker.call(lambda: self.predict_now(texts)))
        finally:
            self.pending -= 1

    def predict_now(self, texts: Sequence[str]) -> tuple[list[Prediction], int]:
        size = self.config.block_size
        encoded = [self.encode(i, text) for i, text in enumerate(texts)]
        ids = [tokens[-size:] for tokens in encoded]
        scores = self.predictor.scores(ids)
        predictions = [
            Prediction(index=i, truncated=len(tokens) > size, **fields)
            for i, (tokens, fields) in enumerate(zip(encoded, self.fields(scores), strict=True))
        ]
        return predictions, sum(map(len, ids))

    def encode(self, i: int, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except UserError as error:
            raise UserError(f"input {i}: {error}") from None

    def fields(self, scores: Any) -> list[dict[str, Any]]:
        if self.task == "regress":
            return [{"value": value} for value in self.predictor.values(scores).tolist()]
        rows = [dict(zip(self.predictor.labels, row, strict=True)) for row in scores.softmax(dim=1).tolist()]
        return [{"label": max(row, key=row.__getitem__), "probabilities": row} for row in rows]


Model = LanguageModel | LabelModel


def load(folder: str, settings: Any, worker: Worker) -> Model:
    """The model in a folder, as its task needs it; `settings` are those of the server."""
    if pretrained.read_config(pretrained.locate(folder)).num_labels:
        return LabelModel(folder, settings.device, worker, settings.max_queue)
    options = GenerationSettings(folder=folder, device=settings.device, dtype=settings.dtype)
    return LanguageModel(options, worker, settings.max_batch, settings.max_queue)


def describe(name: str, folder: str, model: Model) -> dict[str, Any]:
    """An entry of /v1/models: OpenAI's fields, the task, the architecture, and the run that trained it."""
    path = pretrained.locate(folder)
    config = model.config
    shape = {field: getattr(config, field) for field in ("n_layer", "n_head", "n_embd", "vocab_size")}
    network = model.model if isinstance(model, LanguageModel) else model.predictor.model
    return {
        "id": name,
        "object": "model",
        "created": int((path / "config.json").stat().st_mtime),
        "owned_by": "mingpt",
        "task": model.task,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "context_length": config.block_size,
        **shape,
        **model.extra,
        "training": describe_training(path),
    }


def describe_training(folder: Path) -> dict[str, Any] | None:
    """The data, and the best metric, of the run in a folder; None where no run is recorded there."""
    metrics = folder / "metrics.jsonl"
    if not (folder / "train.json").exists() or not metrics.exists():
        return None
    settings = read_json(folder / "train.json")
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    task = run.load_task(settings["task"])
    best = min(rows, key=task.objective)
    data = Path(settings["data"]).name if settings["data"] else None
    return {"data": data, "metric": task.metric, "value": best[task.metric], "step": best["step"]}
