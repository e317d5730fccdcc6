"""How the next configuration is chosen: grid, random, gp.

Each strategy is a function of the space, the history, a seed and the number of the trial, and of nothing
else: a study that is stopped and taken up again goes on with the same trials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mingpt.errors import UserError
from mingpt.tuning.points import first_unseen, generator, seen_points
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial


def grid(space: Space, history: list[Trial], seed: int, number: int) -> dict[str, Any] | None:
    """Every configuration, one after the other, the last parameter varying fastest."""
    tried = [trial.config for trial in history]
    return next((config for config in space.configurations() if config not in tried), None)


def grid_size(space: Space) -> int:
    """How many trials a grid has. Raises UserError where a parameter has no levels."""
    if space.size is None:
        names = [name for name, p in space.parameters.items() if p.k is None]
        raise UserError(*(f"{name}: a grid needs levels: values such as 0.1,0.2, or a step" for name in names))
    return space.size


def random(space: Space, history: list[Trial], seed: int, number: int) -> dict[str, Any] | None:
    """Drawn evenly from the space, and new."""
    u = first_unseen(space, seen_points(space, history), generator(seed, number))
    return None if u is None else space.config(u)


def gp(space: Space, history: list[Trial], seed: int, number: int) -> dict[str, Any] | None:
    """Bayesian optimization with a Gaussian process."""
    from mingpt.tuning.bayesian import suggest  # here, for scipy takes a second to import

    return suggest(space, history, seed, number)


# The configuration of trial `number`, given the trials in the space so far and a seed; None where none is left.
Strategy = Callable[[Space, list[Trial], int, int], dict[str, Any] | None]
STRATEGIES: dict[str, Strategy] = {"grid": grid, "random": random, "gp": gp}
