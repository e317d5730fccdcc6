"""The search space: named parameters, and the map between configurations and points of the unit cube.

u        a point of the unit cube [0, 1]^D: coordinates of the D parameters (see parameters.py); U: n points (n, D)
active   a parameter whose condition holds; an inactive one is not in the configuration, and has coordinate 0.5
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import cached_property, reduce
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Parameter, parse_parameter


class Space:
    """Named parameters, in their order. Raises UserError with a line for each problem.

    >>> Space.parse({"dropout": "0..0.5", "optimizer": "adamw,sgd"}).config(np.array([0.5, 0.9]))
    {'dropout': 0.25, 'optimizer': 'sgd'}
    """

    def __init__(self, parameters: Mapping[str, Parameter]):
        self.parameters, self.names = dict(parameters), list(parameters)
        problems = [f"{n}: must be Float, Int or Choice" for n, p in parameters.items() if not isinstance(p, Parameter)]
        problems = problems or [
            f"{name}: its condition {parent}={value} must name a discrete parameter of the space and one of its values"
            for name, p in parameters.items()
            for parent, values in p.when.items()
            for value in values
            if parent not in parameters or not parameters[parent].k or not parameters[parent].contains(value)
        ]
        if problems or not self.names:
            raise UserError(*problems or ["a space must have parameters"])
        self.when = {n: {q: Choice(*values) for q, values in p.when.items()} for n, p in parameters.items()}
        try:
            self.parents_first = list(TopologicalSorter(self.when).static_order())
        except CycleError as error:
            raise UserError(f"{error.args[1][0]}: conditions form a circle, {' -> '.join(error.args[1])}") from None
        self.is_category = np.array([not p.is_ordered for p in parameters.values()])

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Space:
        return cls({name: parse_parameter(text) for name, text in texts.items()})

    def as_text(self) -> dict[str, str]:
        return {name: str(p) for name, p in self.parameters.items()}

    def is_active(self, name: str, config: Mapping[str, Any]) -> bool:
        parents = self.when[name].items()
        return all(q in config and c.contains(config[q]) and self.is_active(q, config) for q, c in parents)

    def config(self, u: np.ndarray) -> dict[str, Any]:
        values = {name: p.value(x) for (name, p), x in zip(self.parameters.items(), u, strict=True)}
        return {name: value for name, value in values.items() if self.is_active(name, values)}

    def point(self, config: Mapping[str, Any]) -> np.ndarray:
        return np.array([p.coordinate(config[name]) if name in config else 0.5 for name, p in self.parameters.items()])

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has exactly the active parameters, each at one of its values."""
        active = {name for name in self.names if self.is_active(name, config)}
        return set(config) == active and all(self.parameters[name].contains(config[name]) for name in active)

    def key(self, config: Mapping[str, Any]) -> Hashable:
        return tuple((name, p.position(config[name])) for name, p in self.parameters.items() if name in config)

    def active(self, U: np.ndarray) -> np.ndarray:
        """Which coordinates of points are active: (n, D) of bool."""
        active = dict.fromkeys(self.names, np.ones(len(U), dtype=bool))
        for name in self.parents_first:
            for parent, choice in self.when[name].items():
                p, u = self.parameters[parent], U[:, self.names.index(parent)]
                holds = np.isin(p.index(u), [p.index(p.coordinate(value)) for value in choice.values])
                active[name] = active[name] & active[parent] & holds
        return np.stack(list(active.values()), axis=1)

    def snap(self, U: np.ndarray) -> np.ndarray:
        """Points (n, D) moved to those of their configurations, continuous coordinates unchanged."""
        columns = [u if p.k is None else p.at(p.index(u)) for u, p in zip(U.T, self.parameters.values(), strict=True)]
        return np.where(self.active(U), np.stack(columns, axis=1), 0.5)

    def levels(self, d: int) -> np.ndarray:
        p = self.parameters[self.names[d]]
        return p.at(np.arange(p.k))  # (k,)

    @cached_property
    def size(self) -> int | None:
        """Number of configurations, None where a parameter is continuous."""
        if any(p.k is None for p in self.parameters.values()):
            return None
        parents = [name for name in self.parents_first if any(name in c for c in self.when.values())]
        ks = {name: p.k for name, p in self.parameters.items() if name not in parents}
        configs = reduce(self.extend, parents, [{}])
        return sum(math.prod(k for name, k in ks.items() if self.is_active(name, config)) for config in configs)

    def configurations(self) -> Iterator[dict[str, Any]]:
        """All configurations of a discrete space, the last parameter varying fastest."""
        return iter(reduce(self.extend, self.parents_first, [{}]))

    def extend(self, configs: Iterable[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
        p = self.parameters[name]
        for config in configs:
            extended = ({**config, name: p.nth(j)} for j in range(p.k))
            yield from extended if self.is_active(name, config) else [config]
