"""Tables: the rows of a .csv, .tsv or .jsonl file one after the other, each with the line on which it begins.

    .csv     values between commas, or between semicolons where the first line holds those and no comma
    .tsv     values between tabs
    .jsonl   an object of JSON in each line

The first row of .csv and .tsv names the columns. A value in quotes may hold separators, line breaks, and quotes
written twice. The text is UTF-8, with a byte order mark or without. A file is never held in memory as a whole.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from mingpt.errors import UserError
from mingpt.settings import nearest, shown

ENDINGS = (".csv", ".tsv", ".jsonl")
WHOLE_LINE = "line"  # the column of a line of .jsonl that is no object
LONGEST_VALUE = 2**31 - 1  # characters
HEAD_BYTES = 4096  # of a file, by which it is told from a text
CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"})  # bytes that few texts have; some encodings have an escape
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what stands for a byte that could not be decoded
ENCODED_OTHERWISE = "is not UTF-8"  # begins the problem of a row that has such a byte
RUN = re.compile(f"{NOT_UTF8.pattern}+")
WORD = re.compile("[A-Za-z]*[\udc80-\udcff][A-Za-z\udc80-\udcff]*")  # with such a byte
HALF = re.compile("[\ud800-\udfff]")  # of a character, which JSON can hold without the other half
SHOWN_COLUMNS = 20  # of a file, in a line that says what it has
SHOWN_CHARACTERS = 40  # of a value or a name


@dataclass(frozen=True)
class Row:
    """One row.

    number    the line of the file on which it begins, counted from 1
    fields    its values by the names of their columns: text, and in .jsonl whatever JSON has
    problem   why it cannot be read, or nothing. Its fields then hold all of it, as well as could be told.
    """

    number: int
    fields: dict[str, Any]
    problem: str = ""


def every_row(path: str | Path) -> Iterator[Row]:
    """The rows of a file, blank lines left out; those that cannot be read say why.

    Raises UserError where the file is at fault: it is missing, empty, binary, in UTF-16, or of another ending, or its
    first row names no columns.
    """
    with opened(path) as file:
        yield from objects(file) if ending(path) == ".jsonl" else records(path, file)


def columns_of(path: str | Path) -> list[str]:
    """The names of the columns; in .jsonl those of the first object. Raises UserError where the file is at fault."""
    if ending(path) == ".jsonl":
        return next((list(row.fields) for row in every_row(path) if not row.problem), [])
    with opened(path) as file:
        return header(path, values_in(file, separator(path)))


def at(path: str | Path, row: Row, problem: str) -> str:
    return f"{path}, row {row.number}: {problem}"


# ---- Values ----


def text_of(row: Row, column: str) -> str:
    """The text in a column. Raises UserError where there is none."""
    value = value_of(row, column)
    if not isinstance(value, str):
        raise UserError(f"{column} is {brief(value)}; a text is accepted")
    if not value.strip():
        raise UserError(f"{column} is empty")
    half = HALF.search(value)
    if half is not None:
        raise UserError(f"{column} holds half a character, U+{ord(half[0]):04X}")
    return value


def label_of(row: Row, column: str) -> str:
    """The label in a column, without the white space around it: a text, or in .jsonl a number, true or false."""
    value = value_of(row, column)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        value = json.dumps(value)
    return text_of(Row(row.number, {column: value}), column).strip()


def number_of(row: Row, column: str) -> float:
    """The number in a column. Raises UserError where it holds a word, nothing, or what is no finite number."""
    value = value_of(row, column)
    try:
        if isinstance(value, bool) or "_" in str(value):  # both would pass for numbers in Python
            raise ValueError
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{column} is {brief(value)}; a number such as 3.5 is accepted")
    return number


def value_of(row: Row, column: str) -> Any:
    if column not in row.fields:
        raise UserError(no_column(column, row.fields))
    return row.fields[column]


def no_column(column: str, there: Iterable[str]) -> str:
    """That a column is missing, and which there are."""
    there = list(there)
    return f"has no column {column}; it has {listed(there) or 'none'}{nearest(column, there)}"


def listed(names: list[str]) -> str:
    """The names of columns in a line; of many, the first."""
    more = len(names) - SHOWN_COLUMNS
    return ", ".join(map(brief, names[:SHOWN_COLUMNS])) + (f" and {more:,} more" if more > 0 else "")


def brief(value: Any) -> str:
    """A value of a row, on one line and of no great length.

    >>> brief("so good, so\\nwarm"), brief(""), brief(None)
    ('so good, so warm', '""', 'null')
    """
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value)
    return f"{text[:SHOWN_CHARACTERS]}..." if len(text) > SHOWN_CHARACTERS else text or '""'


# ---- Files ----


def ending(path: str | Path) -> str:
    """.csv, .tsv or .jsonl. Raises UserError where a file is called otherwise."""
    found = Path(path).suffix.lower()
    if found not in ENDINGS:
        raise UserError(f"{path}: accepted are files that end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    return found


def opened(path: str | Path) -> TextIO:
    """The file as text; a byte that is not UTF-8 becomes a character that NOT_UTF8 finds."""
    newline = "\n" if ending(path) == ".jsonl" else ""
    try:
        with open(path, "rb") as file:
            check_is_text(path, file.read(HEAD_BYTES))
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def check_is_text(path: str | Path, head: bytes) -> None:
    """Raise UserError where a file begins as no text in UTF-8 does."""
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise UserError(f"{path}: is empty")
    # of Latin letters every other byte is 0, and the ones between are not
    zeros = [head[half::2].count(0) * 4 > len(head) > head[1 - half :: 2].count(0) * 20 for half in (0, 1)]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or any(zeros):
        raise UserError(f"{path}: is UTF-16; {conversion(path, 'UTF-16')}")
    controls = len(head) - len(head.translate(None, CONTROLS))
    strange = len(NOT_UTF8.findall(head.decode("utf-8", errors="surrogateescape")))
    is_utf8 = strange <= 3  # of a character that is cut at the end
    if head.count(0) * 100 > len(head) or (controls * 100 > len(head) and not is_utf8):
        raise UserError(f"{path}: is a binary file; text in UTF-8 is accepted")


def conversion(path: str | Path, encoding: str) -> str:
    return (
        f"save it as UTF-8, or convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > utf8{ending(path)}"
    )


def encoding_problem(path: str | Path, text: str) -> str:
    """What is wrong with the bytes of a text; nothing where it is sound."""
    found = NOT_UTF8.search(text)
    if found is None:
        return "holds a zero byte" if "\0" in text else ""
    # In Western European text such a byte is a mark alone or a letter among others; in other scripts they are many.
    count, letters = len(NOT_UTF8.findall(text)), len("".join(WORD.findall(text)))
    is_western = count == len(RUN.findall(text)) or count * 5 < letters * 3
    guess = "most likely Windows-1252" if is_western else "but the encoding of another script"
    how = conversion(path, "WINDOWS-1252" if is_western else "ENCODING")
    return f"{ENCODED_OTHERWISE} (byte 0x{ord(found[0]) - 0xDC00:02X}), {guess}; {how}"


# ---- .jsonl ----


def objects(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            fields, problem = parsed(file.name, line)
            yield Row(number, fields, problem)


def parsed(path: str, line: str) -> tuple[dict[str, Any], str]:
    """The object in a line, and what is wrong with it."""
    problem = encoding_problem(path, line)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = problem or f"is no JSON ({'nested too deeply' if isinstance(error, RecursionError) else error})"
    else:
        if isinstance(found, dict):
            return found, problem
        problem = problem or f'is no object such as {{"text": "..."}} but {brief(line)}'
    return {WHOLE_LINE: line.rstrip("\r\n")}, problem


# ---- .csv and .tsv ----


def separator(path: str | Path) -> str:
    """What stands between two values of a .csv or .tsv file."""
    if ending(path) == ".tsv":
        return "\t"
    with opened(path) as file:
        first = file.readline()
    return ";" if ";" in first and "," not in first else ","


class Kept:
    """The lines of a file, of which those since the last `take` are kept."""

    def __init__(self, file: TextIO):
        self.file = file
        self.lines: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.lines.append(line)
            yield line

    def take(self) -> str:
        text = "".join(self.lines)
        self.lines.clear()
        return text


def values_in(lines: Iterable[str], between: str) -> csv.reader:
    """The values of each row; its line_num is how many lines have been read."""
    csv.field_size_limit(LONGEST_VALUE)  # Python's own is 131,072 characters
    return csv.reader(lines, delimiter=between, strict=True)


def header(path: str | Path, found: csv.reader) -> list[str]:
    """The names in the first row that is not blank. Raises UserError where they cannot be read, or told apart."""
    try:
        names = next(filter(None, found), [])
    except csv.Error as error:
        raise UserError(f"{path}, row 1: {unparsable(error)}") from None
    problem = encoding_problem(path, "".join(names))
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        problem = f"two columns are called {shown(twice[0])}; give each a name of its own"
    if problem:
        raise UserError(f"{path}, row {found.line_num}: {problem}")
    return names


def records(path: str | Path, file: TextIO) -> Iterator[Row]:
    between = separator(path)
    lines = Kept(file)
    found = values_in(lines, between)
    names = header(path, found)
    while True:
        lines.take()
        number = found.line_num + 1
        try:
            values = next(found)
        except StopIteration:
            return
        except csv.Error as error:
            values, problem = [lines.take().rstrip("\r\n")], unparsable(error)
        else:
            problem = misfit(names, values)
        if values:
            fields = dict(zip_longest(names, values[: len(names)], fillvalue=""))
            if len(values) > len(names):  # the last column takes what is too much, so that nothing is lost
                fields[names[-1]] = between.join(values[len(names) - 1 :])
            yield Row(number, fields, encoding_problem(path, "".join(values)) or problem)


def misfit(names: list[str], values: list[str]) -> str:
    if len(values) == len(names):
        return ""
    return f"has {len(values)} values, and there are {len(names)} columns ({listed(names)})"


def unparsable(error: csv.Error) -> str:
    reason = "a quote is opened and not closed" if "end of data" in str(error) else error
    return f"cannot be parsed ({reason})"
