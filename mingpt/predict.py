"""Label texts: `python -m mingpt.predict out/NAME --file new.csv --output labelled.csv`, or with --text "..."."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from mingpt import cli, files
from mingpt.data import rows
from mingpt.errors import UserError
from mingpt.settings import Settings, setting, shown

if TYPE_CHECKING:  # torch takes a second to import
    import numpy as np

    from mingpt.data.tokenizer import Tokenizer
    from mingpt.model import GPT

DESCRIPTION = "Label texts, or give them numbers, with a model that --task classify or regress has trained."
AHEAD = 1024  # rows that are read before the first of them is written: texts of like length go together;
AHEAD_CHARACTERS = 1 << 24  # fewer where they are long, since memory has an end
BATCH = 64  # of them that are computed side by side
SHOWN_PROBLEMS = 20  # rows that are named where they could not be read
UNWRITABLE = "surrogateescape"  # bytes that are not UTF-8 are written to a .csv or .tsv as they were read
FIGURES = 6  # of a number or a probability that are written


@dataclass(kw_only=True)
class PredictConfig(Settings):
    """What is labelled, and where to."""

    folder: str = setting(help="a model's folder, such as out/reviews, or a name on the hub")
    text: str | None = setting(None, group="text", help="the text to label")
    file: str | None = setting(None, group="text", help="a .csv, .tsv or .jsonl file of texts", metavar="FILE")
    text_column: str | None = setting(
        None, group="text", follows="the model", help="the column of the text in the file"
    )
    output: str | None = setting(
        None,
        group="text",
        metavar="FILE",
        help="where to write the file with the columns prediction and probability added; else standard output",
    )
    device: str = setting(
        "auto", group="machine", choices=("auto", "cpu", "cuda", "mps"), help="auto: a GPU where there is one"
    )

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if (self.text is None) == (self.file is None):
            yield ("text", "file"), "--text or --file: one of the two is needed"
        if self.output is not None and self.file is None:
            yield ("output", "file"), "--output: needs --file; a single text is labelled on standard output"
        elif self.output is not None and Path(self.output).suffix.lower() != Path(self.file).suffix.lower():
            yield ("output", "file"), f"--output {self.output}: must end as {self.file} does"
        elif self.output is not None and Path(self.output).is_dir():
            yield ("output",), f"--output {self.output}: is a folder; the name of a file is accepted"


def main(argv: list[str]) -> int:
    config, _ = cli.parse(PredictConfig, argv, "python -m mingpt.predict", DESCRIPTION)
    if config.file is not None:
        rows.columns_of(config.file)  # what is wrong with it is said before the model is opened
    predictor = Predictor(config.folder, config.device)
    if config.file is None:
        print_one(predictor, config.text)
    else:
        label_file(predictor, config.file, config.text_column or predictor.text_column, config.output)
    if predictor.cut:
        size = predictor.model.config.block_size
        print(
            f"note: texts of more than {size:,} tokens, of which the end was read: {predictor.cut:,}", file=sys.stderr
        )
    return 0


class Predictor:
    """A model of --task classify or regress, and what its folder says of it."""

    def __init__(self, name: str, device: str):
        """Raises UserError where the folder holds a model of another task, or none."""
        from mingpt import hub
        from mingpt.data.tokenizer import load_tokenizer
        from mingpt.device import choose_device
        from mingpt.model import GPT

        folder = hub.locate(name)
        self.model: GPT = GPT.from_pretrained(folder).to(choose_device(device))
        settings = files.read_json_object(folder / "config.json")
        ours = (settings.get("task_specific_params") or {}).get("mingpt") or {}
        count, kind = self.model.config.num_labels, settings.get("problem_type")
        if not count or kind == "multi_label_classification":
            what = kind or f"--task {ours.get('task', 'text')}"
            raise UserError(f"{name}: is a model of {what}; one of --task classify or regress is needed")
        if count > 1 and kind == "regression":
            raise UserError(f"{name}: gives {count} numbers for a text; a model that gives one is needed")
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        tokens, room = len(self.tokenizer.pieces), self.model.config.vocab_size
        if tokens > room:
            raise UserError(f"{name}: the tokenizer has {tokens} tokens and the model {room}")
        names = settings.get("id2label") or {}
        self.labels = [names.get(str(i), f"LABEL_{i}") for i in range(count)]
        self.is_number = kind == "regression" or count == 1
        self.mean, self.std = settings.get("target_mean", 0.0), settings.get("target_std", 1.0)
        self.text_column = ours.get("text_column", "text")
        self.cut = 0  # texts that were longer than the model reads

    def encode(self, text: str) -> np.ndarray:
        """The ids that the model reads: of a long text, its end. Raises UserError where it has an unknown character."""
        from mingpt.data.labelled import encode

        ids, size = encode(self.tokenizer, text), self.model.config.block_size
        self.cut += len(ids) > size
        return ids[-size:]

    def predictions(self, texts: list[np.ndarray]) -> list[dict[str, Any]]:
        """For each text {"prediction": ...}, and of a label its "probability". Texts of like length go together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[dict[str, Any]] = [{} for _ in texts]
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            for i, prediction in zip(part, self.of_batch([texts[i] for i in part]), strict=True):
                found[i] = prediction
        return found

    def of_batch(self, texts: list[np.ndarray]) -> Iterator[dict[str, Any]]:
        import torch

        from mingpt.data.labelled import padded

        idx, last = (torch.from_numpy(part).to(self.model.wte.weight.device) for part in padded(texts, pad=0))
        with torch.inference_mode():
            scores = self.model.scores(idx, last).double()  # (B, num_labels)
        if self.is_number:
            for value in (scores[:, 0] * self.std + self.mean).tolist():
                yield {"prediction": figures(value)}
        else:
            for probability, label in zip(*(part.tolist() for part in scores.softmax(dim=1).max(dim=1)), strict=True):
                yield {"prediction": self.labels[label], "probability": figures(probability)}

    @property
    def columns(self) -> tuple[str, ...]:
        """What is added to a row."""
        return ("prediction",) if self.is_number else ("prediction", "probability")


def figures(value: float) -> float:
    """A number as it is written.

    >>> figures(3.14159265)
    3.14159
    """
    return float(f"{value:.{FIGURES}g}")


# ---- One text ----


def print_one(predictor: Predictor, text: str) -> None:
    if not text.strip():
        raise UserError("--text: is empty")
    try:
        ids = predictor.encode(text)
    except UserError as error:
        raise UserError(f"--text {shown(text)}: {error}") from None
    print(*predictor.predictions([ids])[0].values(), sep="\t")


# ---- A file of texts ----


class Problems:
    """The rows that could not be read, of which the first are named on standard error as they come."""

    def __init__(self, path: str):
        self.path, self.count = path, 0

    def add(self, row: rows.Row, problem: str) -> None:
        self.count += 1
        if self.count <= SHOWN_PROBLEMS:
            tqdm.write(f"note: {rows.at(self.path, row, problem)}", file=sys.stderr)  # above the progress bar

    def report(self, total: int) -> None:
        if self.count:
            print(f"note: {self.count:,} of {total:,} rows could not be read and have no prediction", file=sys.stderr)


def label_file(predictor: Predictor, path: str, column: str, output: str | None) -> None:
    """Write the rows of a file again, in order, with the prediction of each.

    Raises UserError where none of them could be read; nothing is left in `output` then.
    """
    there = rows.columns_of(path)
    if rows.ending(path) != ".jsonl" and column not in there:  # where each row may have others
        raise UserError(f"{path}, row 1: {rows.no_column(column, there)}; --text_column names the one to read")
    problems, total = Problems(path), 0
    is_silent = True if output is None else None  # None: where there is no terminal
    found = tqdm(rows.every_row(path), desc=path, unit=" rows", delay=1, leave=False, disable=is_silent)
    with opened(output) as file:
        write = writer(file, path, [*there, *(name for name in predictor.columns if name not in there)])
        for ahead in in_blocks(found):
            for fields in labelled(predictor, ahead, column, problems):
                write(fields)
            total += len(ahead)
        if total and problems.count == total:
            raise UserError(f"{path}: none of its {total:,} rows could be read")
    problems.report(total)
    if output is not None:
        print(f"{output}: {total:,} {'row' if total == 1 else 'rows'}")


def in_blocks(found: Iterable[rows.Row]) -> Iterator[list[rows.Row]]:
    """The same rows, some at a time."""
    block, size = [], 0
    for row in found:
        block.append(row)
        size += sum(len(value) for value in row.fields.values() if isinstance(value, str))
        if len(block) == AHEAD or size > AHEAD_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def labelled(predictor: Predictor, ahead: list[rows.Row], column: str, problems: Problems) -> Iterator[dict[str, Any]]:
    """The fields of some rows, each with its prediction; with an empty one where its text cannot be read."""
    texts: dict[int, np.ndarray] = {}
    for i, row in enumerate(ahead):
        try:
            if row.problem:
                raise UserError(row.problem)
            texts[i] = predictor.encode(rows.text_of(row, column))
        except UserError as error:
            problems.add(row, str(error))
    found = dict(zip(texts, predictor.predictions(list(texts.values())), strict=True))
    nothing = dict.fromkeys(predictor.columns)
    for i, row in enumerate(ahead):
        yield row.fields | found.get(i, nothing)


@contextmanager
def opened(output: str | None) -> Iterator[TextIO]:
    """A file to write to, which is there as a whole at the end or not at all; or standard output."""
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8", errors=UNWRITABLE, newline="")
        yield sys.stdout
        return
    try:
        with (
            files.written_whole(Path(output)) as beside,
            open(beside, "w", encoding="utf-8", errors=UNWRITABLE, newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None


def writer(file: TextIO, path: str, columns: list[str]) -> Callable[[dict[str, Any]], object]:
    """What writes the fields of a row, in the format of the file at `path`."""
    if rows.ending(path) == ".jsonl":
        return lambda fields: file.write(json_line(fields))
    table = csv.DictWriter(file, columns, delimiter=rows.separator(path), lineterminator="\n")
    table.writeheader()
    return table.writerow


def json_line(fields: dict[str, Any]) -> str:
    """The fields as a line of .jsonl, in which half a character is written as JSON's escape, such as \\ud83d."""
    line = json.dumps(fields, ensure_ascii=False)
    return f"{json.dumps(fields) if rows.HALF.search(line) else line}\n"


if __name__ == "__main__":
    cli.run_command(main)
