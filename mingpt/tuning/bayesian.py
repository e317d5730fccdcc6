"""Bayesian optimization: where the expected improvement under a Gaussian process of the values so far is largest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mingpt.tuning.acquisition import maximise
from mingpt.tuning.evidence import WARPS, Evidence, gather, warped
from mingpt.tuning.gp import GP, fit
from mingpt.tuning.points import distinct, generator, seen_points
from mingpt.tuning.sequence import evenly
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

FRESH = 40  # up to so many values the hyperparameters are found from scratch for each suggestion
REFIT_EVERY = 10  # beyond, when the number of values is a multiple of this
UPDATES = 5  # iterations that bring older hyperparameters up to date,
UPDATED_BY = 100  # over at most so many values
# Every third suggestion is made without a warp: a warp sees little but the neighbourhood of the best value, and
# some runs would never leave the first valley they come to (tests/benchmarks/LOG.md).
PLAIN_EACH = 3


def suggest(space: Space, history: list[Trial], seed: int, number: int) -> dict[str, Any] | None:
    """Where the logarithm of the expected improvement is largest under a Gaussian process of the values so far.

    The first few trials are evenly spread, as the process needs something to begin with.
    """
    rng = generator(seed, number)
    seen = seen_points(space, history)
    evidence = gather(space, history)
    if len(seen) < first_trials(space) or len(np.unique(evidence.y)) < 2:
        points = evenly(2 * len(seen) + 1, len(space.names), np.random.default_rng(seed))
        return distinct(space, space.snap(points[len(seen) :]), seen, rng)

    model, _ = posterior(space, evidence, is_plain=number % PLAIN_EACH == 0)
    best = model.z.min()
    if len(evidence.pending):  # what they are expected to become (Ginsbourger et al. 2010, "Kriging believer")
        believed, _ = model.predict(evidence.pending)
        best = min(best, believed.min())
        U, z = np.concatenate([model.U, evidence.pending]), np.concatenate([model.z, believed])
        extra = np.concatenate([model.extra, np.zeros(len(believed))])
        model = GP(U, z, space.is_category, model.theta, extra=extra)
    u = maximise(model, best, space, seen, rng)
    return None if u is None else space.config(u)


def posterior(space: Space, evidence: Evidence, is_plain: bool = False) -> tuple[GP, float | None]:
    """What is believed after the evidence, failed trials among it, and the warp of the values; none if is_plain."""
    U, y, tau = with_failures(evidence)
    warp, theta = likeliest(U, y, tau, space.is_category, is_plain)
    z, slope, _ = warped(y, warp)
    return GP(U, z, space.is_category, theta, extra=(tau * slope) ** 2), warp


def first_trials(space: Space) -> int:
    """Evenly spread trials before the model is asked."""
    return max(4, len(space.names) + 1)


def with_failures(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Failed trials among the others, as bad as the worst of them: the search keeps away, and may come near."""
    failed = len(evidence.failed)
    U = np.concatenate([evidence.U, evidence.failed])
    y = np.concatenate([evidence.y, np.full(failed, evidence.y.max())])
    return U, y, np.concatenate([evidence.tau, np.zeros(failed)])


def likeliest(
    U: np.ndarray, y: np.ndarray, tau: np.ndarray, is_category: np.ndarray, is_plain: bool = False
) -> tuple[float | None, np.ndarray]:
    """The likeliest warp, or none if is_plain, and the theta that goes with it.

    Of few values they are found from scratch. Of many they are found for a part, when their number is a
    multiple of REFIT_EVERY, and brought up to date with a few iterations over more: a function of the
    values alone, like the rest, and quick.
    """
    n = len(y) if len(y) <= FRESH else len(y) - len(y) % REFIT_EVERY
    part = part_of(y[:n], FRESH)
    found = hyperparameters(key(U[part]), key(y[part]), key(tau[part]), tuple(is_category))
    warp = None if is_plain else next(iter(found))
    theta = np.array(found[warp])
    if len(y) > FRESH:
        z, slope, _ = warped(y, warp)
        part = part_of(y, UPDATED_BY)
        theta, _ = fit(U[part], z[part], is_category, (tau * slope)[part] ** 2, theta, UPDATES)
    return warp, theta


def part_of(y: np.ndarray, most: int) -> np.ndarray:
    """Which values, at most so many, stand for all: the best, and others evenly from the better to the worse."""
    if len(y) <= most:
        return np.arange(len(y))
    best = most // 2
    rest = np.linspace(best, len(y) - 1, most - best).astype(int)
    return np.sort(np.argsort(y)[np.concatenate([np.arange(best), rest])])


@lru_cache(maxsize=4)
def hyperparameters(U: tuple, y: tuple, tau: tuple, is_category: tuple) -> dict[float | None, tuple]:
    """Each warp with its theta, the likeliest first."""
    U, y, tau = np.array(U), np.array(y), np.array(tau)
    found = []
    for warp in WARPS:
        z, slope, log_slope = warped(y, warp)
        theta, negative = fit(U, z, np.array(is_category), (tau * slope) ** 2)
        found.append((negative - log_slope, warp, tuple(theta)))
    return {warp: theta for _, warp, theta in sorted(found, key=lambda entry: entry[0])}


def key(array: np.ndarray) -> tuple:
    """An array as something that a cache can look up."""
    return tuple(map(tuple, array)) if array.ndim == 2 else tuple(array)
