"""Learning rate schedules: pure functions of the fraction t in [0, 1] of the updates after warm-up that are done.

A schedule returns the fraction of the way from min_learning_rate to the peak learning rate. Another schedule is another
function, and its line in SCHEDULES.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(t: float) -> float:
    """No decay: for runs without a planned end."""
    return 1.0


def linear(t: float) -> float:
    """Linear decay (the default)."""
    return 1.0 - t


def cosine(t: float) -> float:
    """Cosine decay (Loshchilov and Hutter 2017)."""
    return (1.0 + math.cos(math.pi * t)) / 2


def wsd(t: float) -> float:
    """Warm-up, stable, decay (Hu et al. 2024): constant, then linear over the last 30 %."""
    return 1.0 - max(0.0, (t - 0.7) / 0.3)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
}
