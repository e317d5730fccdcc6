"""The models that a server offers: language models, and classification or regression models."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mingpt import pretrained, run
from mingpt.checkpoint import read_metrics
from mingpt.data.dialogue import is_chat_tokenizer
from mingpt.errors import UserError
from mingpt.files import read_json
from mingpt.generation.batching import Batcher
from mingpt.generation.settings import GenerationSettings, load_model
from mingpt.generation.worker import QueueFull, Worker
from mingpt.predictor import BATCH, Predictor
from mingpt.serve.schema import Prediction


class LanguageModel:
    """A model that continues text; a chat model where its tokenizer has the markers of turns."""

    def __init__(self, settings: GenerationSettings, worker: Worker, max_batch: int, max_queue: int):
        self.model, self.tokenizer = load_model(settings)
        self.config = self.model.config
        is_chat = is_chat_tokenizer(self.tokenizer)
        self.task = "chat" if is_chat else "text"
        self.end_ids = self.tokenizer.special_ids.values() if is_chat else None
        self.batcher = Batcher(self.model, worker, max_batch, max_queue)
        self.extra = {"dtype": settings.dtype}


class PredictionModel:
    """A model of --task classify or regress."""

    def __init__(self, folder: str, device: str, worker: Worker, max_queue: int):
        self.predictor = Predictor(folder, device)
        self.tokenizer, self.config = self.predictor.tokenizer, self.predictor.model.config
        self.task = "regress" if self.config.num_labels == 1 else "classify"
        self.extra = {"dtype": "float32", "text_column": self.predictor.text_column}
        self.worker, self.max_queue, self.pending = worker, max_queue, 0

    async def predict(self, texts: Sequence[str]) -> tuple[list[Prediction], int]:
        """A prediction for each text, and how many tokens were read.

        Raises QueueFull or WorkerClosed, and UserError for a text that cannot be encoded.
        """
        if self.pending > self.max_queue:
            raise QueueFull
        self.pending += 1
        predictions: list[Prediction] = []
        size, tokens = self.config.block_size, 0
        try:
            encoded = await asyncio.to_thread(lambda: [self.encode(i, text) for i, text in enumerate(texts)])
            for start in range(0, len(texts), BATCH):  # between the parts, streams of text go on
                part = [ids[-size:] for ids in encoded[start : start + BATCH]]
                scores = await asyncio.wrap_future(self.worker.call(functools.partial(self.predictor.scores, part)))
                for fields in self.fields(scores):
                    index = len(predictions)
                    predictions.append(Prediction(index=index, truncated=len(encoded[index]) > size, **fields))
                tokens += sum(map(len, part))
        finally:
            self.pending -= 1
        return predictions, tokens

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


Model = LanguageModel | PredictionModel


def load(folder: str, settings: Any, worker: Worker) -> Model:
    """The model in a folder, as its task needs it; `settings` are those of the server."""
    if pretrained.read_config(pretrained.locate(folder)).num_labels:
        return PredictionModel(folder, settings.device, worker, settings.max_queue)
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
    """The data, and the best metric, of the run in a folder; None where no evaluation of a run is recorded."""
    rows = read_metrics(folder)
    settings = read_json(folder / "train.json") if rows and (folder / "train.json").exists() else {}
    if "task" not in settings:
        return None
    task = run.load_task(settings["task"])
    best = min(rows, key=task.objective)
    data = Path(settings["data"]).name if settings.get("data") else None
    return {"data": data, "metric": task.metric, "value": best[task.metric], "step": best["step"]}
