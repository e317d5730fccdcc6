"""Predict classes or numbers of texts: `python -m mingpt.predict out/NAME --file new.csv --output predicted.csv`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from tqdm import tqdm

from mingpt import cli
from mingpt.data import tables
from mingpt.device import choose_device
from mingpt.errors import UserError
from mingpt.files import atomic_write, read_json
from mingpt.settings import Settings, setting

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor

DESCRIPTION = "Predict the class or the number of each text, with a model of --task classify or regress."
BLOCK = 1024  # rows read before the first of them is written, so that texts of similar length share a batch
BATCH = 64


class PredictSettings(Settings):
    folder: str = setting(help="a model's folder, such as out/reviews, or its name on the hub")
    text: str | None = setting(None, group="text", min_length=1, help="a single text")
    file: str | None = setting(None, group="text", metavar="FILE", help="a .csv, .tsv or .jsonl file of texts")
    text_column: str | None = setting(None, group="text", follows="the model", help="column of the text in the file")
    output: str | None = setting(None, group="text", metavar="FILE", help="predicted rows; without it, standard output")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", group="machine", help="auto: a GPU if available")

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if (self.text is None) == (self.file is None):
            yield ("text", "file"), "--text or --file: one of the two is needed"
        elif self.output is not None and Path(self.output).suffix.lower() != Path(self.file or "").suffix.lower():
            yield ("output", "file"), f"--output {self.output}: needs a --file with the same suffix"


def main(argv: list[str]) -> int:
    config = cli.parse(PredictSettings, argv, "python -m mingpt.predict", DESCRIPTION)
    # The file is read once before the model is loaded: for the names of all columns, and to report errors at once.
    rows = () if config.file is None else tables.read_rows(config.file)
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    predictor = Predictor(config.folder, config.device)
    if config.file is None:
        print(*predictor.predict([predictor.encode(config.text)])[0], sep="\t")
    else:
        predict_file(predictor, config.file, columns, config.text_column or predictor.text_column, config.output)
    if predictor.truncated:
        size = predictor.model.config.block_size
        print(f"note: {predictor.truncated:,} texts exceed {size:,} tokens; the end of each was read", file=sys.stderr)
    return 0


class Predictor:
    """A model of --task classify or regress with its tokenizer and class names. UserError where it is none."""

    def __init__(self, name: str, device: str):
        from mingpt import GPT, load_tokenizer, pretrained

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
        import torch
        from torch.nn.utils.rnn import pad_sequence

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


def predict_file(predictor: Predictor, path: str, columns: list[str], text_column: str, output: str | None) -> None:
    """Write the rows of a file in order, each with its prediction. `output` is complete, or not written at all."""
    if columns and text_column not in columns:
        raise UserError(f"{path}: {tables.missing_column(text_column, columns)}; --text_column names the column")
    names, total = predictor.columns, 0
    while not set(names).isdisjoint(columns):  # columns of the file's own
        names = [f"{name}_2" for name in names]
    rows = iter(tqdm(tables.read_rows(path), path, unit=" rows", leave=False, disable=None if output else True))
    with open_output(output) as file:
        write = row_writer(file, path, [*columns, *names])
        while block := list(islice(rows, BLOCK)):
            predictions = predictor.predict([predictor.encode_row(path, row, text_column) for row in block])
            for row, prediction in zip(block, predictions, strict=True):
                write(row.fields | dict(zip(names, prediction, strict=True)))
            total += len(block)
        if predictor.unreadable == total:
            raise UserError(f"{path}: none of its {total:,} rows can be read")
    if predictor.unreadable:
        print(f"note: {predictor.unreadable:,} of {total:,} rows have no prediction", file=sys.stderr)
    if output is not None:
        print(f"{output}: {total:,} rows")


@contextmanager
def open_output(output: str | None) -> Iterator[TextIO]:
    """The file to write, or standard output. Half a character is written as JSON's escape."""
    form: dict[str, Any] = dict(encoding="utf-8", errors="backslashreplace", newline="")
    if output is None:
        sys.stdout.reconfigure(**form)
        yield sys.stdout
    else:
        with atomic_write(Path(output)) as temporary, open(temporary, "w", **form) as file:
            yield file


def row_writer(file: TextIO, path: str, columns: list[str]) -> Callable[[dict[str, Any]], object]:
    """A function that writes the fields of a row in the format of `path`, so that they are read back equal."""
    if Path(path).suffix.lower() == ".jsonl":
        return lambda fields: file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    options = tables.detect_format(path)
    writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n", **options)
    writer.writeheader()
    return writer.writerow


if __name__ == "__main__":
    cli.run_command(main)
