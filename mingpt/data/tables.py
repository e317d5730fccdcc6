"""Tables: the rows of a .csv, .tsv or .jsonl file, read one at a time, each with its line number.

The text is UTF-8, with or without a byte order mark. The delimiter of a .csv file is whichever of comma, semicolon and
tab its first line has most of outside quotes. That line may be `sep=;`, above the header.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt.errors import UserError
from mingpt.settings import nearest

MIN_EXAMPLES = 20
MAX_PROBLEMS = 10  # named per file; where a program wrote it, every row may have the same one
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
NOT_UTF8 = re.compile("[\0\udc80-\udcff]")  # the latter stand for bytes that cannot be decoded (surrogateescape)
SURROGATE = re.compile("[\ud800-\udfff]")  # lone surrogates, which JSON can spell


@dataclass(frozen=True)
class Row:
    number: int  # the line on which it begins
    fields: dict[str, Any]  # by column; strings, or in .jsonl any JSON values
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True)
class LabeledText:
    text: str
    target: Any


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file without blank lines, in constant memory. UserError where the whole file cannot be read."""
    row, suffix = None, Path(path).suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path}: the file name must end in {', '.join(READERS)}")
    for row in READERS[suffix](path):
        yield row
    if row is None:
        raise UserError(f"{path}: has no rows")


def parse_rows(path: str | Path, parse: Callable[[Row], Any]) -> list[Any]:
    """What `parse` returns for each row. UserError with a line for each of the first bad rows, and their count."""
    results, problems = [], []
    for row in read_rows(path):
        try:
            results.append(parse(row))
        except UserError as error:
            problems.append(f"{path}, row {row.number}: {error}")
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"{path}: {len(problems) - MAX_PROBLEMS:,} more rows cannot be used"]
    if problems:
        raise UserError(*problems)
    return results


def load_examples(
    path: Path, text_column: str, label_column: str, parse: Callable[[Row, str], Any], minimum: int = MIN_EXAMPLES
) -> list[LabeledText]:
    """All rows of a file, at least `minimum`; `parse` takes the target from a row: label_of or number_of.

    Raises UserError as parse_rows does.
    """
    names = column_names(path)
    for setting, column in (("text_column", text_column), ("label_column", label_column)):
        if names and column not in names:
            raise UserError(f"{path}: {missing_column(column, names)}; --{setting} names the column")
    examples = parse_rows(path, lambda row: LabeledText(text_of(row, text_column), parse(row, label_column)))
    if len(examples) < minimum:
        raise UserError(f"{path}: has {len(examples)} rows; at least {minimum} are needed")
    return examples


def column_names(path: str | Path) -> list[str]:
    """The names of the columns; in .jsonl the keys of the first object. Empty where no row can be read."""
    return next((list(row.fields) for row in read_rows(path) if not row.problem), [])


def text_of(row: Row, column: str) -> str:
    """The text in a column, unchanged. The errors of this and the next functions get path and row from parse_rows."""
    value = value_of(row, column)
    if not isinstance(value, str) or not value.strip() or SURROGATE.search(value):
        raise UserError(f"{column} is {shorten(value)}; it must be a non-empty text")
    return value


def label_of(row: Row, column: str) -> str:
    """The label in a column, without surrounding white space; in .jsonl numbers and booleans are labels too."""
    value = value_of(row, column)
    is_number = isinstance(value, int | float) and value == value  # NaN stands for a missing value
    return json.dumps(value) if is_number else text_of(row, column).strip()


def number_of(row: Row, column: str) -> float:
    """The finite number in a column."""
    value = value_of(row, column)
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    if not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise UserError(f"{column} is {shorten(value)}; it must be a number such as 3.5")
    return float(text)


def value_of(row: Row, column: str) -> Any:
    if row.problem or column not in row.fields:
        raise UserError(row.problem or missing_column(column, row.fields))
    return row.fields[column]


def missing_column(column: str, names: Iterable[str]) -> str:
    return f"has no column {column}; it has {shorten(', '.join(names), 200)}{nearest(column, names)}"


def shorten(value: Any, most: int = 40) -> str:
    """The first characters of a value, on one line."""
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value)
    return f"{text[:most]}..." if len(text) > most else text or "empty"


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their line breaks as they are."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(file, start=1):
            if wrong := NOT_UTF8.search(line):
                raise UserError(f"{path}, row {number}: is not UTF-8 (byte 0x{ord(wrong[0]) & 0xFF:02X})")
            yield line


def read_jsonl(path: str | Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                fields = json.loads(line)
                problem = "" if isinstance(fields, dict) else f"is {shorten(line)}; it must be a JSON object"
            except (ValueError, RecursionError) as error:
                problem = f"is not valid JSON ({error})"
            yield Row(number, {} if problem else fields, problem)


def detect_format(path: str | Path) -> dict[str, Any]:
    """The arguments of csv.reader for a file: its delimiter, and whether spaces follow it, by the first line alone."""
    first_line = next((line for line in read_lines(path) if line.strip()), "")
    unquoted = re.sub('"[^"]*("|$)', "", first_line)
    delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else max(",;\t", key=unquoted.count)
    return {"delimiter": delimiter, "skipinitialspace": f"{delimiter} " in unquoted}


def read_delimited(path: str | Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 24)  # characters; a quote that is never closed ends there, not in exhausted memory
    reader = csv.reader(read_lines(path), strict=True, **detect_format(path))
    names, number = [], 1
    try:
        for values in reader:
            if names and values:
                problem = "" if len(values) == len(names) else f"has {len(values)} values for {len(names)} columns"
                yield Row(number, dict(zip(names, values, strict=False)), problem)
            elif values not in ([], ["sep=", ""]):
                names = [" ".join(name.split()) or f"column {i}" for i, name in enumerate(values, start=1)]
                if repeated := [name for name in names if names.count(name) > 1]:
                    raise UserError(f"{path}, row {number}: has two columns {repeated[0]}")
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, row {number}: cannot be parsed ({error})") from None


READERS = {".csv": read_delimited, ".tsv": read_delimited, ".jsonl": read_jsonl}
