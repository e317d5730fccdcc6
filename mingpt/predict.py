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
from mingpt.errors import UserError
from mingpt.files import atomic_write
from mingpt.settings import Settings, setting

if TYPE_CHECKING:  # importing torch takes a second
    from mingpt.predictor import Predictor

DESCRIPTION = "Predict the class or the number of each text, with a model of --task classify or regress."
BLOCK = 1024  # rows read before the first of them is written, so that texts of similar length share a batch


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
    from mingpt.predictor import Predictor

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
