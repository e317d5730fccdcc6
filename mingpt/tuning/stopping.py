"""When to give up on a trial early: two rules, each a function of its curve and the other trials' alone.

Notation:

    y(s)     the value that a trial reported at step s; the lower the better
    b(s)     min of y(s') over s' <= s: its best until step s
    b_i(s)   the same for another trial i, among those that came as far as s
    n        how many trials came as far as s

Trials are compared at equal steps, and one that failed is no measure for another.

median   (Golovin et al. 2017, "Google Vizier", section 3.2.2)

    stop at s where at least 5 finished trials came as far, and b(s) > median of their b_i(s)

The paper takes the median of running averages. Here it is of bests, since the best is what a trial is
judged by in the end.

halving  (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the variant that stops)

    rungs lie at steps r, 3 r, 9 r, 27 r, ..., where r is the first step that the trial reported
    on reaching a rung, stop unless b(s) is among the lowest max(1, floor(n / 3)) of the n bests, itself among them

The paper's own variant pauses a trial at its rung and may promote it later. Here it goes on or ends:
nothing is kept waiting, and a trial that came early, with few to compare, had it easier.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from mingpt.tuning.trial import Curve, Trial

LEAST_FINISHED = 5  # a median of fewer says little; Optuna's MedianPruner waits for as many
REDUCTION = 3  # one in three goes on; e = 2.7 would be best in theory (Li et al. 2018, "Hyperband", section 2.6)
ROUNDING = 1e-9  # for steps that are fractions: 3 * 0.1 is a little more than 0.3


def should_stop(prune: Pruner, trial_number: int, curve: Curve, others: list[Trial]) -> bool:
    """Whether trial `trial_number` should end at the last step of its curve, which is in order of step."""
    others = [t for t in others if t.number != trial_number and t.curve and t.state != "failed"]
    step = curve[-1][0]
    longest = max((t.curve[-1][0] for t in others if t.state == "done"), default=math.inf)
    if step >= longest:  # where others ended, there is nothing left to save
        return False
    return prune(curve, [t for t in others if t.curve[-1][0] >= step])


# A rule: whether to stop at the last step of a curve, given the other trials that came as far.
Pruner = Callable[[Curve, list[Trial]], bool]


def off(curve: Curve, others: list[Trial]) -> bool:
    """Never stop."""
    return False


def median(curve: Curve, others: list[Trial]) -> bool:
    """Stop what is worse than the median of the finished trials."""
    step = curve[-1][0]
    bests = [best_until(t.curve, step) for t in others if t.state in ("done", "stopped")]
    return len(bests) >= LEAST_FINISHED and best_until(curve, step) > statistics.median(bests)


def halving(curve: Curve, others: list[Trial]) -> bool:
    """At a rung, stop what is not among the best third."""
    if not reaches_a_rung(curve):
        return False
    step = curve[-1][0]
    mine = best_until(curve, step)
    bests = sorted([mine, *(best_until(t.curve, step) for t in others)])
    return mine > bests[max(1, len(bests) // REDUCTION) - 1]


PRUNERS: dict[str, Pruner] = {"off": off, "median": median, "halving": halving}


def best_until(curve: Curve, step: float) -> float:
    """The lowest value reported until a step; infinite where none was."""
    return min((value for at, value in curve if at <= step), default=math.inf)


def reaches_a_rung(curve: Curve) -> bool:
    """Whether a rung lies after the last step but one, and not after the last."""
    steps = [step for step, _ in curve if step > 0]
    return len(steps) == 1 or (len(steps) > 1 and rung(steps[-1], steps[0]) > rung(steps[-2], steps[0]))


def rung(step: float, first: float) -> int:
    """The largest k with first * 3^k <= step."""
    return math.floor(math.log(step / first, REDUCTION) + ROUNDING)
