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
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Float, Int, Number, Parameter

INACTIVE = 0.5


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
