"""What is searched: named parameters, and the way from a configuration to a point of the unit cube and back.

Notation:

    D        number of parameters
    u        a point of the unit cube [0, 1]^D: one coordinate for each parameter, in their order
    k        number of values of a discrete parameter; value j = 0 .. k-1 owns a stretch of [0, 1]
    active   a parameter whose condition `when` holds; one that is not is absent from the configuration

A continuous parameter lies at its share of the way from low to high, in the logarithm where log is
set. A whole number, or a number with a step, lies in the middle of its stretch; the stretches are
equally long, or with log as long as the logarithm makes them. Words lie in a row of equal stretches,
and only being equal or not means something. A coordinate that is not active is 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mingpt.errors import UserError

INACTIVE = 0.5
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


class Space:
    """Named parameters, in their order. Raises UserError with a line for each that makes no sense.

    >>> space = Space({"dropout": Float(0, 0.5), "optimizer": Choice("adamw", "sgd")})
    >>> space.config(np.array([0.5, 0.9])), space.point({"dropout": 0.0, "optimizer": "adamw"}).tolist()
    ({'dropout': 0.25, 'optimizer': 'sgd'}, [0.0, 0.25])
    """

    def __init__(self, parameters: Mapping[str, Parameter]):
        self.parameters = dict(parameters)
        problems = [f"{name}: {line}" for name, p in self.parameters.items() for line in p.problems()]
        problems += [line for name in self.parameters for line in self.problems_of_condition(name)]
        if not self.parameters:
            problems.append("a space needs at least one parameter")
        if problems:
            raise UserError(*problems)
        self.names = list(self.parameters)
        self.is_discrete = np.array([p.k is not None for p in self.parameters.values()])
        self.is_category = np.array(
            [isinstance(p, Choice) and not Choice.is_ordered_by_number(p.values) for p in self.parameters.values()]
        )
        self.parents_first = self.order()

    def problems_of_condition(self, name: str) -> list[str]:
        problems = []
        for parent, values in (self.parameters[name].when or {}).items():
            if parent == name or parent not in self.parameters:
                problems.append(f"{name}: its condition names {parent}, which is not searched")
            elif self.parameters[parent].k is None:
                problems.append(f"{name}: its condition names {parent}, which is continuous")
            else:
                wrong = [str(v) for v in values if not self.parameters[parent].contains(v)]
                problems += [f"{name}: its condition asks for {parent}={v}, which is never so" for v in wrong]
        return problems

    def order(self) -> list[str]:
        """Names, each after those that its condition names."""
        order: list[str] = []
        while len(order) < len(self.names):
            ready = [n for n in self.names if n not in order and set(self.parameters[n].when or {}) <= set(order)]
            if not ready:
                rest = ", ".join(n for n in self.names if n not in order)
                raise UserError(f"{rest}: their conditions hang on each other in a circle")
            order += ready
        return order

    def config(self, u: np.ndarray) -> dict[str, Any]:
        """The configuration at a point (D,)."""
        found: dict[str, Any] = {}
        for name in self.parents_first:
            if self.is_active(name, found):
                found[name] = self.parameters[name].value(float(u[self.names.index(name)]))
        return {name: found[name] for name in self.names if name in found}

    def is_active(self, name: str, config: Mapping[str, Any]) -> bool:
        when = self.parameters[name].when or {}
        return all(parent in config and config[parent] in values for parent, values in when.items())

    def point(self, config: Mapping[str, Any]) -> np.ndarray:
        """The point (D,) of a configuration that the space contains."""
        return np.array([p.coordinate(config[n]) if n in config else INACTIVE for n, p in self.parameters.items()])

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has exactly the active parameters, each at one of its values."""
        active = {name for name in self.names if self.is_active(name, config)}
        return set(config) == active and all(self.parameters[name].contains(config[name]) for name in active)

    def active(self, U: np.ndarray) -> np.ndarray:
        """Which coordinates of the points (n, D) count: (n, D) of bool."""
        active = np.ones(U.shape, dtype=bool)
        for name in self.parents_first:
            d = self.names.index(name)
            for parent, values in (self.parameters[name].when or {}).items():
                e, its = self.names.index(parent), self.parameters[parent]
                wanted = [its.index(its.coordinate(value)) for value in values]
                active[:, d] &= active[:, e] & np.isin(its.index(U[:, e]), wanted)
        return active

    def snap(self, U: np.ndarray) -> np.ndarray:
        """Points (n, D) moved to where their configurations lie: equal rows are equal configurations."""
        columns = [
            np.clip(U[:, d], 0.0, 1.0) if p.k is None else p.at(p.index(U[:, d]))
            for d, p in enumerate(self.parameters.values())
        ]
        return np.where(self.active(U), np.stack(columns, axis=1), INACTIVE)

    def levels(self, d: int) -> np.ndarray | None:
        """The coordinates (k,) that parameter d can have; None where it is continuous."""
        p = self.parameters[self.names[d]]
        return None if p.k is None else p.at(np.arange(p.k))

    @cached_property
    def size(self) -> int | None:
        """How many configurations there are; None where a parameter is continuous."""
        if not self.is_discrete.all():
            return None
        asked = {parent for p in self.parameters.values() for parent in p.when or {}}
        free = [name for name in self.names if name not in asked]
        return sum(
            math.prod(self.parameters[name].k for name in free if self.is_active(name, config))
            for config in self.configurations(asked)
        )

    def configurations(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """All configurations of a discrete space (of some of its parameters), the last varying fastest."""
        names = set(self.names if names is None else names)
        order = [name for name in self.parents_first if name in names]

        def from_here(i: int, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if i == len(order):
                yield {name: config[name] for name in self.names if name in config}
            elif not self.is_active(order[i], config):
                yield from from_here(i + 1, config)
            else:
                for j in range(self.parameters[order[i]].k):
                    value = self.parameters[order[i]].value(float(self.parameters[order[i]].at(j)))
                    yield from from_here(i + 1, {**config, order[i]: value})

        return from_here(0, {})

    def to_json(self) -> dict[str, dict[str, Any]]:
        """What from_json makes the same space of."""
        found = {}
        for name, p in self.parameters.items():
            fields = dict(values=list(p.values)) if isinstance(p, Choice) else dict(low=p.low, high=p.high, log=p.log)
            if isinstance(p, Number):
                fields["step"] = p.step
            when = {parent: list(values) for parent, values in p.when.items()} if p.when else None
            found[name] = {"kind": type(p).__name__, **fields, "when": when}
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Any]]) -> Space:
        parameters: dict[str, Parameter] = {}
        for name, fields in content.items():
            fields = dict(fields)
            kind = fields.pop("kind")
            if kind == "Choice":
                parameters[name] = Choice(*fields["values"], when=fields["when"])
            else:
                parameters[name] = {"Float": Float, "Int": Int}[kind](**fields)
        return cls(parameters)
