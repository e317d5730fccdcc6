"""Float, Int, Choice: one parameter of a search, and where its values lie on [0, 1]. Notation: see space.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

When = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Number:
    """What Float and Int share. `when={"optimizer": ["sgd"]}`: active only where optimizer is sgd."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = None

    @property
    def grid(self) -> float | None:
        """Distance between neighbouring values; None where it is continuous."""
        return self.step

    @cached_property
    def k(self) -> int | None:
        return None if self.grid is None else math.floor((self.high - self.low) / self.grid + 1e-9) + 1

    @cached_property
    def ends(self) -> tuple[float, float]:
        """What u = 0 and u = 1 stand for, in the logarithm with log: half a step beyond the outer values."""
        low, high = self.low, self.high
        if self.k is not None:
            high = low + self.grid * (self.k - 1) + self.grid / 2
            low = max(low - self.grid / 2, low / 2) if self.log else low - self.grid / 2
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def problems(self) -> list[str]:
        numbers = (self.low, self.high) if self.step is None else (self.low, self.high, self.step)
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            return [f"{self.low}..{self.high}: the ends of a range, and its step, are numbers"]
        problems = []
        if self.low >= self.high:
            problems.append(f"{self.low}..{self.high}: is {'empty' if self.low == self.high else 'reversed'}")
        if self.log and self.low <= 0:
            problems.append(f"{self.low}..{self.high} log: the logarithm needs numbers above 0")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            problems.append(f"{self.low}..{self.high} step {self.step}: the step is above 0 and fits into the range")
        return problems

    def index(self, u: np.ndarray) -> np.ndarray:
        """Which of the k values owns each coordinate."""
        low, high = self.ends
        value = low + u * (high - low)
        value = np.exp(value) if self.log else value
        return np.clip(np.rint((value - self.low) / self.grid), 0, self.k - 1)

    def at(self, j: np.ndarray) -> np.ndarray:
        """The coordinates of values j."""
        low, high = self.ends
        value = self.low + j * self.grid
        return ((np.log(value) if self.log else value) - low) / (high - low)

    def value(self, u: float) -> float:
        if self.k is not None:
            return self.low + int(self.index(u)) * self.grid
        low, high = self.ends
        value = low + u * (high - low)
        return min(max(math.exp(value) if self.log else value, self.low), self.high)

    def coordinate(self, value: float) -> float:
        low, high = self.ends
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def contains(self, value: Any) -> bool:
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return False
        if self.k is None:
            return True
        j = (value - self.low) / self.grid
        return abs(j - round(j)) < 1e-6


@dataclass(frozen=True)
class Float(Number):
    """A number from low to high; with `step` only low, low + step, ..."""

    def value(self, u: float) -> float:
        if self.step is None and u in (0.0, 1.0):
            return float(self.high if u else self.low)  # exactly, whatever the logarithm rounds to
        value = float(super().value(u))
        return value if self.step is None else float(f"{value:.12g}")  # 0.1 + 2 * 0.1 is 0.3


@dataclass(frozen=True)
class Int(Number):
    """A whole number from low to high, both among them."""

    @property
    def grid(self) -> int:
        return 1 if self.step is None else self.step

    def problems(self) -> list[str]:
        fractions = [n for n in (self.low, self.high, self.grid) if type(n) is not int]
        return [f"{n}: a whole number is accepted" for n in fractions] or super().problems()

    def value(self, u: float) -> int:
        return int(super().value(u))

    def contains(self, value: Any) -> bool:
        return type(value) is int and super().contains(value)


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few values. Numbers keep their order, so that neighbours are alike; words have none."""

    values: tuple[Any, ...]
    when: When | None = None

    def __init__(self, *values: Any, when: When | None = None):
        if self.is_ordered_by_number(values):
            values = tuple(sorted(values))
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", when)

    @staticmethod
    def is_ordered_by_number(values: Sequence[Any]) -> bool:
        return all(type(value) in (int, float) for value in values)

    @property
    def k(self) -> int:
        return len(self.values)

    def problems(self) -> list[str]:
        shown = ",".join(map(str, self.values))
        if not self.values:
            return ["a choice needs values"]
        return [f"{shown}: a value stands twice"] if len(set(self.values)) < self.k else []

    def index(self, u: np.ndarray) -> np.ndarray:
        return np.clip(np.floor(u * self.k), 0, self.k - 1)

    def at(self, j: np.ndarray) -> np.ndarray:
        return (j + 0.5) / self.k

    def value(self, u: float) -> Any:
        return self.values[int(self.index(u))]

    def coordinate(self, value: Any) -> float:
        return (self.values.index(value) + 0.5) / self.k

    def contains(self, value: Any) -> bool:
        return any(value == mine and type(value) is type(mine) for mine in self.values)


Parameter = Float | Int | Choice
