"""Strategies, which choose the next configuration from space, seed, earlier trials and the new trial's number."""

from collections.abc import Iterator

import numpy as np

from mingpt.errors import UserError
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial


class Strategy:
    """Suggests the first of its proposals that was not tried; in general all configurations in order."""

    def __init__(self, space: Space, seed: int, is_local: bool = False):
        self.space, self.seed, self.is_local, self.tried, self.n = space, seed, is_local, set(), 0
        self.rest = iter(()) if space.size is None else space.configurations()
        self.first = next(self.rest, None)  # the first in order that may be new

    def suggest(self, trials: list[Trial], number: int) -> dict | None:
        """The configuration of trial `number` after the given ones; None where the space is used up."""
        self.tried.update(self.space.key(trial.config) for trial in trials[self.n :])
        self.n = len(trials)
        new = (config for config in self.proposals(trials, number) if self.space.key(config) not in self.tried)
        return next(new, None)

    def proposals(self, trials: list[Trial], number: int) -> Iterator[dict]:
        while self.first is not None:
            yield self.first
            self.first = next(self.rest, None)


class Grid(Strategy):
    """All configurations, the last parameter varying fastest."""

    def __init__(self, space: Space, seed: int, is_local: bool = False):
        continuous = [name for name, p in space.parameters.items() if p.k is None]
        if continuous:
            raise UserError(*(f"{name}: a grid needs values such as 0.1,0.2, or a step" for name in continuous))
        super().__init__(space, seed, is_local)


class Random(Strategy):
    """Uniformly drawn configurations."""

    def proposals(self, trials: list[Trial], number: int) -> Iterator[dict]:
        rng = np.random.default_rng([self.seed, number])
        yield from (self.space.config(rng.random(len(self.space.names))) for _ in range(1000))
        yield from super().proposals(trials, number)  # where hardly any are left


class Bayesian(Random):
    """Bayesian optimization with a Gaussian process."""

    def proposals(self, trials: list[Trial], number: int) -> Iterator[dict]:
        from mingpt.tuning.bayesian import suggestions  # here, for scipy is slow to import

        yield from suggestions(self.space, trials, self.seed, number, self.is_local)
        yield from super().proposals(trials, number)


STRATEGIES: dict[str, type[Strategy]] = {"grid": Grid, "random": Random, "gp": Bayesian}
