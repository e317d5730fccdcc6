"""Early stopping of trials: rules, each a function of a trial's curve and of the finished trials alone.

Notation:

    b(s)    the lowest value that a trial reported until step s
    b_i(s)  the same for finished trial i; v_i its final value;  S  the last step of the finished trials
    g_i     b_i(s) - v_i: what trial i still gained after step s

Trials are compared at equal steps. Curves of one problem are nearly parallel, so that what others gained after s
forecasts what this one will:

    forecast    stop where b(s) - mean(g) - 1.3 max(std(g), 0.15 mean(g)) > min v_i

On real curves of a text, the part of its gains that a run makes after a quarter varies by an eighth between
configurations, after an eighth of the run by a quarter: a trial is not stopped before a quarter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from mingpt.tuning.trial import Curve, Trial

FIRST, LAST = 0.25, 0.75  # shares of S between which a trial may be stopped: later, little is left to save
MIN_FINISHED = 2
DEVIATIONS, RELATIVE_DEVIATION = 1.3, 0.15


def none(curve: Curve, finished: list[Trial]) -> bool:
    """Never stop."""
    return False


def forecast(curve: Curve, finished: list[Trial]) -> bool:
    """Stop what is not expected to come near the best finished trial."""
    step, end = curve[-1][0], max((t.curve[-1][0] for t in finished), default=0)
    finished = [t for t in finished if t.curve[-1][0] >= step]
    if len(finished) < MIN_FINISHED or not FIRST * end <= step <= LAST * end:
        return False
    value, deviation = final_value(curve, finished)
    return value - DEVIATIONS * deviation > min(t.value for t in finished)


# Whether to stop a trial at the last step of its curve, given the finished trials.
PRUNERS: dict[str, Callable[[Curve, list[Trial]], bool]] = {"none": none, "forecast": forecast}


def final_value(curve: Curve, finished: list[Trial]) -> tuple[float, float]:
    """The value that a trial would come to if it gained what others did after its last step; its standard deviation.

    >>> others = [Trial(i, {}, "done", 1.0, [(1, 1.5 + i / 10), (2, 1.0)]) for i in range(2)]
    >>> final_value([(1, 1.75)], others)
    (1.2, 0.0825)
    """
    step = curve[-1][0]
    gains = [best_until(t.curve, step) - t.value for t in finished if t.curve and t.curve[-1][0] >= step]
    gains = [gain for gain in gains if math.isfinite(gain)]
    value = best_until(curve, step)
    if not gains:
        return value, 0.0
    gain = statistics.fmean(gains)
    return value - gain, max(statistics.pstdev(gains), RELATIVE_DEVIATION * gain)


def best_until(curve: Curve, step: int) -> float:
    """The lowest value reported until a step; infinite where none was."""
    return min((value for at, value in curve if at <= step), default=math.inf)
