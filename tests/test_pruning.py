"""Early stopping: when each rule stops a trial, by hand and on curves whose end is known."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from mingpt.tuning.pruning import PRUNERS, final_value, should_prune
from mingpt.tuning.trial import Trial


def done(number, curve, value=None):
    return Trial(number, {}, "done", min(v for _, v in curve) if value is None else value, curve)


def exponential(end, scale=1.0, steps=8):
    """A curve that falls to `end`."""
    return [(s, end + scale * math.exp(-s / 2)) for s in range(1, steps + 1)]


def running(curve):
    return Trial(99, {}, curve=curve)


def test_forecast_is_the_formula_of_its_file():
    others = [done(i, exponential(1 + i, 1 + i / 2)) for i in range(4)]
    curve = exponential(2.2)[:3]
    gains = [t.curve[2][1] - t.value for t in others]
    mean, deviation = statistics.fmean(gains), statistics.pstdev(gains)
    value, spread = final_value(curve, others)
    assert value == pytest.approx(curve[-1][1] - mean)
    assert spread == pytest.approx(max(deviation, 0.15 * mean))
    assert should_prune("forecast", running(curve), others) == (value - 1.3 * spread > others[0].value)


def test_forecast_stops_what_ends_far_above_the_best_and_never_what_ends_below_it():
    chance = random.Random(0)
    others = [done(i, exponential(chance.uniform(1, 3), chance.uniform(0.9, 1.1))) for i in range(6)]
    best = min(trial.value for trial in others)
    for steps in range(2, 7):
        assert not should_prune("forecast", running(exponential(best - 0.1)[:steps]), others)
        assert should_prune("forecast", running(exponential(best + 2)[:steps]), others)


@pytest.mark.parametrize("name", PRUNERS)
def test_nothing_is_stopped_before_a_quarter_or_after_three_quarters_or_without_evidence(name):
    others = [done(i, exponential(1)) for i in range(6)]
    bad = exponential(50)
    stopped = [should_prune(name, running(bad[:steps]), others) for steps in range(1, 9)]
    assert stopped == [name != "none" and 2 <= steps <= 6 for steps in range(1, 9)]
    assert not should_prune(name, running(bad[:4]), [])
    failed = [Trial(i, {}, "failed", curve=exponential(1)) for i in range(9)]
    stopped_early = [Trial(i, {}, "stopped", curve=exponential(1)[:4]) for i in range(9)]
    assert not should_prune(name, running(bad[:4]), [*failed, *stopped_early, others[0]])
    needed = {"forecast": 2, "median": 5}.get(name, 99)
    assert [should_prune(name, running(bad[:4]), others[:n]) for n in range(1, 7)] == [n >= needed for n in range(1, 7)]


def test_median_compares_the_best_until_the_same_step():
    others = [done(i, [(1, 9.0), (2, float(i)), (3, 20.0), (4, -5.0)]) for i in range(5)]
    assert not should_prune("median", running([(1, 2.0), (2, 7.0)]), others)  # its best until then is the median, 2
    assert should_prune("median", running([(1, 2.1), (2, 7.0)]), others)


def test_a_trial_without_a_finite_value_is_stopped():
    others = [done(i, exponential(1)) for i in range(6)]
    curve = [(s, math.inf) for s in range(1, 5)]
    assert should_prune("forecast", running(curve), others) and should_prune("median", running(curve), others)
