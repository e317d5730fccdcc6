"""Points of the unit cube that are new, and the random numbers of a trial."""

from __future__ import annotations

from typing import Any

import numpy as np

from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

SAME = 1e-7  # points closer than this are one


def is_new(u: np.ndarray, seen: np.ndarray) -> bool:
    """Whether u (D,) is none of the points seen (n, D)."""
    return not len(seen) or bool(np.abs(seen - u).max(1).min() > SAME)


def first_unseen(space: Space, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A random point that was not seen; in a space that is nearly used up, the first of those left."""
    for u in space.snap(rng.random((1000, len(space.names)))):
        if is_new(u, seen):
            return u
    if space.size is not None:
        for config in space.configurations():
            u = space.point(config)
            if is_new(u, seen):
                return u
    return None


def seen_points(space: Space, history: list[Trial]) -> np.ndarray:
    """Points (n, D) of all trials, whatever became of them."""
    points = [space.point(trial.config) for trial in history]
    return np.array(points).reshape(len(points), len(space.names))


def distinct(space: Space, points: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> dict[str, Any] | None:
    """The configuration at the first of some points that is new; where none is, any new one."""
    u = next((u for u in points if is_new(u, seen)), None)
    u = first_unseen(space, seen, rng) if u is None else u
    return None if u is None else space.config(u)


def generator(seed: int, number: int) -> np.random.Generator:
    """Random numbers for one trial; neighbouring seeds and trials have nothing in common."""
    return np.random.default_rng([seed, number])
