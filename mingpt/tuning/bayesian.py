"""Bayesian optimization: the next configuration, and what the trials so far say of all others.

Notation, beside that of gp.py:

    y        (n,) values of the trials; lower is better
    tau      (n,) standard deviation of a value that is a forecast; 0 where it was measured
    b, s     the lowest value, and a scale

A loss has a long upper tail: most of its range is in settings that nobody wants. A warp magnifies differences near
the lowest value,

    z = (g(y) - mean) / deviation,    g(y) = ln((y - b) / s + 1)  or  g(y) = y

with s the median distance to b or a tenth of it. The likelihood of y decides, which is that of z times the product
of dz/dy (Snelson et al. 2003, "Warped Gaussian processes").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from mingpt.tuning.acquisition import Acquisition, maximize, reflect, sobol
from mingpt.tuning.gp import GP, fit
from mingpt.tuning.pruning import final_value
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

WARPS = (None, 1.0, 0.1)  # s as a multiple of the median distance to b; None: no warp
PER_KIND = 100  # of a long history count so many best trials, and so many newest
FEW, MANY = 30, 60  # values to which the hyperparameters are fitted under each warp, and then under the likeliest
# Every third suggestion is made without a warp: with one, the search sees little but the neighborhood of the
# incumbent, and some runs never leave the first local minimum (tests/benchmarks/LOG.md).
PLAIN_EACH = 3
# Of a local search: standard deviation of the belief, in the unit cube, and the number of trials after which it is
# outweighed.
SPREAD, BELIEF = 0.15, 10


@dataclass(frozen=True)
class Posterior:
    """What the trials say of the value at any point."""

    gp: GP
    unwarp: Callable[[np.ndarray], np.ndarray]

    def values(self, X: np.ndarray, deviations: float = 0.0) -> np.ndarray:
        """The median (m,) at X (m, D), or the value so many standard deviations above it, in the unit of y."""
        mu, variance = self.gp.predict(X)
        return self.unwarp(mu + deviations * np.sqrt(np.maximum(variance, 0)))


def suggestions(
    space: Space, trials: list[Trial], seed: int, number: int, is_local: bool = False
) -> Iterator[dict[str, Any]]:
    """Configurations with a large expected improvement, the largest first; a Sobol point while little is known.

    Where the search is local, the minimum is believed to lie near the incumbent, the less so the more trials there are.
    """
    D, n = len(space.names), len(trials)
    f = acquisition(space, trials, number, is_local)[1]
    if f is None:
        u = sobol(n + 1, D, np.random.default_rng(seed))[n]
        best = incumbent(trials) if is_local else None
        if best is not None:
            center = space.point(best.config)
            u = np.where(space.is_category, center, reflect(center + SPREAD * ndtri(u.clip(0.01, 0.99))))
        yield space.config(u)
        return
    yield from map(space.config, maximize(f, space, np.random.default_rng([seed, number])))


def acquisition(
    space: Space, trials: list[Trial], number: int, is_local: bool = False
) -> tuple[Posterior | None, Acquisition | None]:
    """What the trials say of all configurations, and what trial `number` maximizes; None while little is known."""
    D, n = len(space.names), len(trials)
    warps = WARPS[:1] if number % PLAIN_EACH == 0 else WARPS
    known = posterior(space, trials, warps) if n >= max(4, D + 1) else None
    if known is None:
        return None, None
    gp = known.gp
    best = incumbent(trials) if is_local else None
    center = np.full(D, 0.5) if best is None else space.point(best.config)
    precision = np.where(space.is_category, 0.0, BELIEF / n / SPREAD**2) * (best is not None)
    running = points(space, [trial for trial in trials if trial.state == "running"])
    if len(running):  # their values are taken to be what is expected: "Kriging believer" (Ginsbourger et al. 2010)
        z, tau2 = np.append(gp.z, gp.predict(running)[0]), np.append(gp.tau2, np.zeros(len(running)))
        gp = GP(np.concatenate([gp.U, running]), z, gp.is_category, gp.theta, tau2)
    return known, Acquisition(gp, gp.z.min(), center, precision)


def incumbent(trials: list[Trial]) -> Trial | None:
    """The finished trial with the lowest value."""
    return min((t for t in trials if t.state == "done"), key=lambda t: t.value, default=None)


def posterior(space: Space, trials: list[Trial], warps: Sequence[float | None] = WARPS) -> Posterior | None:
    """The posterior given the trials, under the likeliest warp; None with fewer than 3 values, or equal ones."""
    U, y, tau = evidence(space, trials)
    is_value = np.isfinite(y)
    if is_value.sum() < 3 or np.ptp(y[is_value]) == 0:
        return None
    y[~is_value] = y[is_value].max()  # failed: the search avoids the neighborhood, but may come near
    few, many = representatives(y, FEW), representatives(y, MANY)
    ratio, theta = likeliest(U[few], y[few], tau[few], space.is_category, warps)
    z, slope, unwarp = warped(y, ratio)
    tau2 = (tau * slope) ** 2
    theta, _ = fit(U[many], z[many], space.is_category, tau2[many], theta)
    return Posterior(GP(U, z, space.is_category, theta, tau2), unwarp)


def evidence(space: Space, trials: list[Trial]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (n, D), y (n,) and tau (n,) of the trials that have ended; y of a failed one is nan.

    Of more than 2 PER_KIND those count that have the lowest values, and the newest.
    """
    ended = [trial for trial in trials if trial.state != "running"]
    older, newest = ended[:-PER_KIND], ended[-PER_KIND:]
    older = sorted(older, key=lambda t: {"done": t.value, "stopped": t.lowest}.get(t.state, np.inf))[:PER_KIND]
    ended = sorted(older + newest, key=lambda t: t.number)
    done = [trial for trial in ended if trial.state == "done"]
    best = min((trial.value for trial in done), default=-np.inf)
    y, tau = np.full(len(ended), np.nan), np.zeros(len(ended))
    for i, trial in enumerate(ended):
        if trial.state == "done":
            y[i] = trial.value
        elif trial.state == "stopped":
            value, tau[i] = final_value(trial.curve, done)
            y[i] = max(value, best)  # a forecast is never the incumbent
    return points(space, ended), y, tau


def points(space: Space, trials: list[Trial]) -> np.ndarray:
    """The points (n, D) of the configurations of trials."""
    return np.array([space.point(trial.config) for trial in trials]).reshape(len(trials), len(space.names))


def representatives(y: np.ndarray, most: int) -> np.ndarray:
    """Which values stand for all, at most so many: half of them the best, the others evenly from better to worse."""
    n, half = len(y), most // 2
    ranks = np.append(np.arange(half), np.linspace(half, n - 1, most - half).astype(int)) if n > most else np.arange(n)
    return np.sort(np.argsort(y)[ranks])


def likeliest(
    U: np.ndarray, y: np.ndarray, tau: np.ndarray, is_category: np.ndarray, warps: Sequence[float | None]
) -> tuple[float | None, np.ndarray]:
    """The warp under which y is likeliest, and the theta fitted to it."""
    results = []
    for ratio in warps:
        z, slope, _ = warped(y, ratio)
        theta, loss = fit(U, z, is_category, (tau * slope) ** 2)
        results.append((loss - np.log(slope).sum(), ratio, theta))
    _, ratio, theta = min(results, key=lambda result: result[0])
    return ratio, theta


def warped(y: np.ndarray, ratio: float | None) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """z (n,), dz/dy (n,), and the function from z back to y; s is `ratio` of the median distance to b."""
    b, span = y.min(), np.ptp(y)
    g, slope, s = (y - b) / span, np.full(len(y), 1 / span), 0.0  # in units of the span, so that no square overflows
    if ratio is not None:
        s = ratio * np.median(g[g > 0])
        g, slope = np.log(g / s + 1), slope / (g + s)
    mean, deviation = g.mean(), g.std()

    def unwarp(z: np.ndarray) -> np.ndarray:
        g = mean + deviation * z
        return b + span * (g if ratio is None else s * np.expm1(g))

    return (g - mean) / deviation, slope / deviation, unwarp
