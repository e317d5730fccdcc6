"""Evaluate a model on data of your own: `python -m mingpt.evaluate out/NAME --data FILE`.

Notation: N tokens to predict, B bytes of text in them; p_i probability that the model gives to the i-th.

    nll             -sum ln p_i / N     negative log-likelihood, nats per token
    perplexity      exp(nll)
    bits per byte   -sum log2 p_i / B   compares models of different tokenizers

A text is read in windows of the context length, as in training, and all of it is evaluated. Of dialogues, what the
assistant says counts. For the metrics of classes and numbers see tasks/metrics.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from mingpt import cli
from mingpt.errors import UserError
from mingpt.settings import Settings, setting

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor

    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

DESCRIPTION = "Evaluate a model on a text, on dialogues, or on a table of labels or numbers."
BATCH_SIZE = 16
MAX_EXPONENT = 709  # of a float


class EvaluateSettings(Settings):
    folder: str = setting(help="a model's folder, such as out/pydoc, or its name on the hub")
    data: str | None = setting(
        None, group="data", metavar="PATH", help="what --data of train.py accepts, of the model's task"
    )
    text_column: str | None = setting(None, group="data", follows="the model", help="column of a table with the text")
    label_column: str | None = setting(
        None, group="data", follows="the task: label, or rating for regress", help="column of a table with the target"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", group="machine", help="auto: a GPU if available")

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.data is None:
            yield ("data",), "--data: is missing; the data to evaluate on"


def main(argv: list[str]) -> int:
    settings = cli.parse(EvaluateSettings, argv, "python -m mingpt.evaluate", DESCRIPTION)
    for name, value in evaluate(settings).items():
        print(f"{name:14}{value:,}" if isinstance(value, int) else f"{name:14}{value:.6g}")
    return 0


def evaluate(settings: EvaluateSettings) -> dict[str, float]:
    """The metrics by name, and how much they were measured on. UserError where the data does not fit the model."""
    from mingpt import pretrained
    from mingpt.data.dialogue import is_chat_tokenizer
    from mingpt.data.tokenizer import load_tokenizer
    from mingpt.device import choose_device
    from mingpt.model import GPT

    folder = pretrained.locate(settings.folder)
    if pretrained.read_config(folder).num_labels:
        return evaluate_table(settings)
    model, tokenizer = GPT.from_pretrained(folder).to(choose_device(settings.device)), load_tokenizer(folder)
    measure = evaluate_dialogues if is_chat_tokenizer(tokenizer) else evaluate_text
    return measure(model, tokenizer, settings.data)


def evaluate_text(model: GPT, tokenizer: Tokenizer, data: str) -> dict[str, float]:
    from mingpt.data.sources import find_documents
    from mingpt.data.text import Corpus, disjoint_windows, tokenize

    corpus = Corpus(find_documents(data)[1])
    corpus.bounds["all"] = (0, sum(corpus.lengths))
    try:
        tokens = tokenize(corpus, tokenizer, "all")
    except UserError as error:  # a character that the tokenizer lacks
        raise UserError(f"--data {data}: {error}") from None
    if len(tokens) < 2:
        raise UserError(f"--data {data}: is too short ({len(tokens)} tokens)")
    windows = disjoint_windows(tokens, model.config.block_size, BATCH_SIZE)
    masks = ((w[:, :-1], w[:, 1:], np.ones_like(w[:, 1:], dtype=bool)) for w in windows)
    return language_metrics(model, tokenizer, masks)


def evaluate_dialogues(model: GPT, tokenizer: Tokenizer, data: str) -> dict[str, float]:
    from mingpt.data.dialogue import encode_dialogue, read_dialogues
    from mingpt.data.examples import Examples
    from mingpt.data.sources import find_dialogues
    from mingpt.tasks.chat import cut_dialogue

    _, path = find_dialogues(data)
    examples = []
    for dialogue in read_dialogues(path):
        try:
            encoded = encode_dialogue(tokenizer, dialogue.messages)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        examples += cut_dialogue(tokenizer, encoded, model.config.block_size)
    if not examples:
        raise UserError(f"{path}: no answer fits the context length of {model.config.block_size} tokens")
    batches = Examples(examples, BATCH_SIZE).batches(BATCH_SIZE)
    return language_metrics(model, tokenizer, ((x, y, mask) for x, y, mask, _ in batches))


def language_metrics(
    model: GPT, tokenizer: Tokenizer, batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """nll, perplexity and bits per byte of inputs, targets and masks (B, T)."""
    import torch

    from mingpt.losses import LOSSES
    from mingpt.tasks import base

    tokens = 0

    def outputs(batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
        nonlocal tokens
        x, y, mask = base.to_tensors(batch, model)
        tokens += int(mask.sum())
        return model.head(model.hidden_states(x)[mask]), y[mask]

    with torch.inference_mode():
        metrics = base.language_metrics(batches, outputs, LOSSES["cross_entropy"], tokenizer.byte_lengths)
    nll = metrics["val_loss"]
    perplexity = math.exp(nll) if nll < MAX_EXPONENT else math.inf
    return {"tokens": tokens, "nll": nll, "perplexity": perplexity, "bits_per_byte": metrics["bits_per_byte"]}


def evaluate_table(settings: EvaluateSettings) -> dict[str, float]:
    """Of the rows of a table: accuracy and macro F1 of labels, or RMSE, MAE, R2 and correlation of numbers."""
    from mingpt.data import tables
    from mingpt.predictor import Predictor
    from mingpt.tasks import metrics
    from mingpt.tasks.regress import RegressTask

    predictor = Predictor(settings.folder, settings.device)
    is_regression = predictor.model.config.num_labels == 1
    names = tables.column_names(settings.data)
    default = next((name for name in RegressTask.label_columns if name in names), "label") if is_regression else "label"
    columns = {
        "text_column": settings.text_column or predictor.text_column,
        "label_column": settings.label_column or default,
    }
    parse = tables.number_of if is_regression else tables.label_of
    rows = tables.load_examples(settings.data, **columns, parse=parse, minimum=1)
    try:
        scores = predictor.scores([predictor.encode(row.text) for row in rows])
    except UserError as error:
        raise UserError(f"{settings.data}: {error}") from None
    if is_regression:
        targets = np.array([row.target for row in rows])
        return {"rows": len(rows)} | metrics.regression_metrics(targets, predictor.values(scores).numpy())
    classes = {label: i for i, label in enumerate(predictor.labels)}
    if unknown := {row.target for row in rows} - classes.keys():
        known = tables.shorten(", ".join(classes), 100)
        raise UserError(f"{settings.data}: has the label {min(unknown)}, the model has {known}")
    targets = np.array([classes[row.target] for row in rows])
    n = metrics.confusion_matrix(targets, scores.argmax(dim=1).numpy(), len(classes))
    return {"rows": len(rows)} | metrics.classification_metrics(n)


if __name__ == "__main__":
    cli.run_command(main)
