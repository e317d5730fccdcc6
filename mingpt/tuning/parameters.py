"""Float, Int and Choice: one parameter of a search space, its values on [0, 1], and its written form.

    k   number of values; None of a continuous parameter
    j   index of a value, 0 .. k - 1 (in arrays a float64, for k may exceed 2^63); if continuous, the value itself
    u   coordinate in [0, 1], linear in j, or in the logarithm of the value with log; j owns j - 1/2 .. j + 1/2

A written form for each parameter; text that is more than a word is a JSON string:
    1e-05..1 log    1..8    0..0.5 step 0.1    adamw,sgd    8,"8","a, b",true    1..8 when optimizer=sgd and depth=1,2
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from mingpt.errors import UserError

LARGEST = int(np.finfo(float).max)
VALUE = r'(?:"(?:[^"\\]|\\.)*"|(?:(?!\.\.)[^\s,="])+)'
VALUES = rf"{VALUE}(?:\s*,\s*{VALUE})*"
RANGE = rf"(?P<low>{VALUE})\.\.(?!\.)(?P<high>{VALUE})(?P<log>\s+log)?(?:\s+step\s+(?P<step>{VALUE}))?"
CONDITION = rf"({VALUE})=({VALUES})"
FORM = re.compile(rf"(?:{RANGE}|(?P<values>{VALUES}))(?:\s+when\s+(?P<when>{CONDITION}(?:\s+and\s+{CONDITION})*))?")


class Parameter:
    """Evenly spaced numbers, or all, from low to high. `when={"optimizer": ["sgd"]}`: active if optimizer is sgd."""

    kind, is_ordered = float, True  # of values; whether near values are alike

    def __init__(self, low: float, high: float, log: bool = False, step: float | None = None, when: dict | None = None):
        numbers = [plain(n) for n in (low, high, 1 if step is None else step)]
        if not all(type(n) in (int, self.kind) for n in numbers):
            raise UserError(f"{low}..{high}: low, high and step must be {'whole ' * (self.kind is int)}numbers")
        self.low, self.high, spacing = (self.kind(n) + 0 for n in numbers)  # + 0: -0.0 is 0.0
        self.first, last, self.spacing = (Fraction(repr(n)) for n in (self.low, self.high, spacing))
        span = last - self.first  # exact, of the decimals as they are written
        rules = {
            "low must not exceed high": span >= 0,
            "low must be above 0 with log": self.first > 0 or not log,
            "log and step cannot be combined": step is None or not log,
            "step must be above 0 and at most high - low": step is None or 0 < self.spacing <= (span or self.spacing),
            "high - low is too large": span <= LARGEST * self.spacing,
        }
        if not all(rules.values()):
            raise UserError(f"{low}..{high}: {next(rule for rule, holds in rules.items() if not holds)}")
        texts = [repr(n) for n in (self.low, self.high, spacing)]
        if not all(text.endswith(".0") for text in texts):  # or it would read back as an Int
            texts = [text.removesuffix(".0") for text in texts]
        self.text = f"{texts[0]}..{texts[1]}{' log' * bool(log)}{'' if step is None else f' step {texts[2]}'}"
        self.step = None if step is None else spacing
        self.when = {name: list(Choice(*values).values) for name, values in (when or {}).items()}
        self.k = None if self.kind is float and step is None and span else span // self.spacing + 1
        self.log = bool(log) and span * 10**9 > self.first  # which is linear in a narrower range
        self.origin = self.low if self.log and self.k else 0  # the scale is linear in j, or logarithmic in origin + j
        ends = np.array([self.origin - 0.5, self.origin + self.k - 0.5] if self.k else [low, high], dtype=float)
        self.start, self.end = np.log(ends) if self.log else ends

    def at(self, j: np.ndarray) -> np.ndarray:
        x = np.asarray(j, dtype=float) + float(self.origin)
        return ((np.log(x) if self.log else x) - self.start) / (self.end - self.start)

    def index(self, u: np.ndarray) -> np.ndarray:
        x = self.start + np.asarray(u) * (self.end - self.start)
        j = (np.exp(x) if self.log else x) - float(self.origin)
        return np.clip(np.rint(j), 0.0, float(self.k - 1)) if self.k else j

    def coordinate(self, value: Any) -> float:
        return float(self.at(self.position(value)))

    def value(self, u: float) -> Any:
        return self.nth(self.index(u).item())

    def nth(self, j: float) -> Any:
        """Value j, exact in decimals: 0.1 + 2 * 0.1 is 0.3. A continuous one has 6 digits, so that it can be typed."""
        if self.k:
            return self.kind(self.first + min(int(j), self.k - 1) * self.spacing)
        digits = 6 if self.high - self.low > 1e-3 * max(-self.low, self.high) else 17
        return min(max(float(f"{j:.{digits}g}"), self.low), self.high)

    def position(self, value: Any) -> float:
        return round((Fraction(value) - self.first) / self.spacing) if self.k else value

    def contains(self, value: Any) -> bool:
        is_inside = type(value) in (int, float) and self.low <= value <= self.high
        return is_inside and (not self.k or self.nth(self.position(value)) == value)

    def __repr__(self) -> str:
        conditions = " and ".join(f"{write(name)}={Choice(*values)}" for name, values in self.when.items())
        return f"{self.text} when {conditions}" if conditions else self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parameter) and repr(self) == repr(other)


class Float(Parameter):
    """A number from low to high, evenly in its logarithm with `log`; with `step` only low, low + step, ..."""


class Int(Parameter):
    """A whole number from low to high, both included; with `step` only low, low + step, ..."""

    kind = int


class Choice(Parameter):
    """One of several values: text, numbers, booleans or None. Numbers are sorted, so that neighbours are alike."""

    def __init__(self, *values: Any, when: dict | None = None):
        values = [plain(value) for value in values]
        self.is_ordered = all(type(value) in (int, float) for value in values)
        self.values = tuple(sorted(values) if self.is_ordered else values)
        self.positions = {(value, isinstance(value, bool)): j for j, value in enumerate(self.values)}
        if not values or len(self.positions) < len(values):
            raise UserError(f"Choice({', '.join(map(write, values))}): must have values, each of them once")
        super().__init__(0, len(values) - 1, step=1, when=when)
        self.text = ",".join(map(write, self.values))

    def nth(self, j: float) -> Any:
        return self.values[int(j)]

    def position(self, value: Any) -> int | None:
        return self.positions.get((value, isinstance(value, bool)))  # 1 and 1.0 are equal, 1 and True are not

    def contains(self, value: Any) -> bool:
        return self.position(value) is not None


def parse_parameter(text: str) -> Parameter:
    """The parameter with a written form. Raises UserError."""
    if not (match := FORM.fullmatch(text.strip())):
        raise UserError(f"{text!r}: must be like 1..8, 1e-5..1 log, 0..0.5 step 0.1 or a,b [when NAME=VALUE]")
    when = {next(read(name)): list(read(values)) for name, values in re.findall(CONDITION, match["when"] or "")}
    if match["values"]:
        return Choice(*read(match["values"]), when=when)
    numbers = [number for name in ("low", "high", "step") for number in read(match[name] or "")]
    kind = Int if all(type(number) is int for number in numbers) else Float
    return kind(*numbers[:2], bool(match["log"]), *numbers[2:], when=when)


def read(text: str) -> Iterator[Any]:
    """The values of a list with commas: JSON numbers, strings and constants; any other word is itself."""
    for word in re.findall(VALUE, text):
        try:
            yield json.loads(re.sub(r"^(-?)(?=\.)", r"\g<1>0", word), strict=False)  # .5 is 0.5
        except ValueError:
            yield word


def write(value: Any) -> str:
    is_word = isinstance(value, str) and re.fullmatch(VALUE, value) and list(read(value)) == [value]
    return value if is_word else json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value as Python's, where it is numpy's. Raises UserError."""
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) in (str, bool, type(None)) or (type(value) in (int, float) and abs(value) <= LARGEST):
        return value
    raise UserError(f"{' '.join(repr(value)[:80].split())}: must be text, a finite number, a boolean or None")
