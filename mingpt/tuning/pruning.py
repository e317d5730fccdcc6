"""Early stopping of trials: rules, each a function of a trial's curve and of the finished trials alone.

Notation:

    y(s)    the value that a trial reported at step s; lower is better
    b(s)    min of y(s') over s' <= s: its best value until step s
    b_i(s)  the same for finished trial i; v_i its final value;  S  the last step of the finished trials
    g_i     b_i(s) - v_i: what trial i still gained after step s

Trials are compared at equal steps. Curves of one problem are nearly parallel, so that what others gained after s
forecasts what this one will (tests/benchmarks/early_stopping.py):

    forecast    stop where b(s) - mean(g) - 1.3 max(std(g), 0.15 mean(g)) > min v_i
    median      stop where b(s) > median of b_i(s), for at least 5 finished trials
                (Golovin et al. 2017, "Google Vizier", section 3.2.2, with bests in place of running averages)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from mingpt.tuning.trial import Curve, Trial

FIRST, LAST = 0.25, 0.75  # shares of S between which a trial may be stopped: later, little is left to save
MIN_FINISHED = {"forecast": 2, "median": 5}
DEVIATIONS, RELATIVE_DEVIATION = 1.3, 0.15

# Whether to stop a trial at the last step of its curve, given the finished trials that came as far.
Pruner = Callable[[Curve, list[Trial]], bool]


def should_prune(name: str, trial: Trial, trials: list[Trial]) -> bool:
    """Whether the rule `name` of PRUNERS stops a trial at the last step of its curve."""
    finished = [t for t in trials if t.state == "done" and t.curve]
    step, end = trial.curve[-1][0], max((t.curve[-1][0] for t in finished), default=0)
    if not FIRST * end <= step <= LAST * end:
        return False
    finished = [t for t in finished if t.curve[-1][0] >= step]
    return len(finished) >= MIN_FINISHED.get(name, 0) and PRUNERS[name](trial.curve, finished)


def none(curve: Curve, finished: list[Trial]) -> bool:
    """Never stop."""
    return False


def median(curve: Curve, finished: list[Trial]) -> bool:
    """Stop what is worse than the median of the finished trials at the same step."""
    step = curve[-1][0]
    return best_until(curve, step) > statistics.median(best_until(t.curve, step) for t in finished)


def forecast(curve: Curve, finished: list[Trial]) -> bool:
    """Stop what is not expected to come near the best finished trial."""
    value, deviation = final_value(curve, finished)
    return value - DEVIATIONS * deviation > min(t.value for t in finished)


PRUNERS: dict[str, Pruner] = {"none": none, "median": median, "forecast": forecast}


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
