"""What the trials so far say, as the Gaussian process needs it.

Notation:

    U        (n, D) points of the trials that count
    y        (n,) their values; the lower the better
    tau      (n,) standard deviation of a value that is only estimated; 0 where it was measured
    z        (n,) the values, warped and standardised: what the process models
    b, s     the least value, and a spread of the others above it

A loss that is tuned has a long upper tail: most of its range is in settings that nobody wants. A warp
makes differences near the best value large beside those far above it,

    z = ln((y - b) / s + 1),    ln |dz/dy| = -ln(y - b + s)

with s from a tenth of the median distance to b up to no warp at all. Which one fits is decided by the
likelihood of y itself, that is of z times the product of dz/dy (Snelson et al. 2003, "Warped Gaussian
processes").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mingpt.tuning.space import Space
from mingpt.tuning.stopping import best_until
from mingpt.tuning.trial import Trial

WARPS = (None, 1.0, 0.1)  # s as a multiple of the median distance to b
KEPT = 100  # of a longer history: so many best trials, and so many newest


@dataclass
class Evidence:
    """U (n, D), y (n,) and tau (n,) of what was measured or estimated; failed (f, D), pending (p, D) without values."""

    U: np.ndarray
    y: np.ndarray
    tau: np.ndarray
    failed: np.ndarray
    pending: np.ndarray


def inside(space: Space, history: list[Trial]) -> list[Trial]:
    """The trials whose configurations lie in the space, which may have changed since they ran."""
    return [trial for trial in history if space.contains(trial.config)]


def gather(space: Space, history: list[Trial]) -> Evidence:
    """The evidence of trials whose configurations lie in the space.

    A trial stopped early gets the value that its curve would have come to, had it gone on like the
    average of the trials that ran to the end; how differently those went on is its uncertainty.
    """
    done = [trial for trial in history if trial.state == "done"]
    known = [(trial, trial.value, 0.0) for trial in done]
    known += [(trial, *final_value(trial.curve, done)) for trial in history if trial.state == "stopped" and trial.curve]
    known.sort(key=lambda entry: entry[0].number)
    known = subset(known)

    def points(trials: list[Trial]) -> np.ndarray:
        return np.array([space.point(trial.config) for trial in trials]).reshape(len(trials), len(space.names))

    return Evidence(
        U=points([trial for trial, _, _ in known]),
        y=np.array([value for _, value, _ in known]),
        tau=np.array([deviation for _, _, deviation in known]),
        failed=points([trial for trial in history if trial.state == "failed"][-KEPT:]),
        pending=points([trial for trial in history if trial.state == "running"]),
    )


def subset(known: list[tuple[Trial, float, float]]) -> list[tuple[Trial, float, float]]:
    """All of a short history; of a long one the best and the newest, so that a suggestion never takes longer."""
    if len(known) <= 2 * KEPT:
        return known
    best = {trial.number for trial, _, _ in sorted(known, key=lambda entry: entry[1])[:KEPT]}
    rest = [trial.number for trial, _, _ in known if trial.number not in best]
    kept = best | set(rest[-KEPT:])
    return [entry for entry in known if entry[0].number in kept]


def final_value(curve: list[tuple[float, float]], done: list[Trial]) -> tuple[float, float]:
    """What a stopped trial's best value would have become, and the standard deviation of that."""
    step, value = curve[-1][0], min(value for _, value in curve)
    gains = [best_until(trial.curve, step) - trial.value for trial in done]
    gains = [gain for gain in gains if np.isfinite(gain)]
    if not gains:
        return value, 0.0
    final = max(value - float(np.mean(gains)), min(trial.value for trial in done))
    return final, float(np.std(gains))


def warped(y: np.ndarray, warp: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    """z (n,), dz/dy (n,), and the sum of ln dz/dy, for values y (n,)."""
    slope = np.ones_like(y)
    z = y - y.min()
    if warp is not None and z.any():
        s = warp * np.median(z[z > 0])
        z, slope = np.log(z / s + 1), 1 / (z + s)
    deviation = z.std() or 1.0
    slope = slope / deviation
    return (z - z.mean()) / deviation, slope, float(np.log(slope).sum())
