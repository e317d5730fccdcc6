"""Early stopping: when each rule stops a trial, by hand and on curves whose end is known."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from mingpt.tuning import Float, Space, Study, Trial
from mingpt.tuning.pruning import PRUNERS, final_value, forecast


def done(number, curve, value=None):
    return Trial(number, {}, "done", min(v for _, v in curve) if value is None else value, curve)


def exponential(end, scale=1.0, steps=8):
    """A curve that falls to `end`."""
    return [(s, end + scale * math.exp(-s / 2)) for s in range(1, steps + 1)]


def test_forecast_is_the_formula_of_its_file():
    others = [done(i, exponential(1 + i, 1 + i / 2)) for i in range(4)]
    curve = exponential(2.2)[:3]
    gains = [t.curve[2][1] - t.value for t in others]
    mean, deviation = statistics.fmean(gains), statistics.pstdev(gains)
    value, spread = final_value(curve, others)
    assert value == pytest.approx(curve[-1][1] - mean)
    assert spread == pytest.approx(max(deviation, 0.15 * mean))
    assert forecast(curve, others) == (value - 1.3 * spread > others[0].value)


def test_forecast_stops_what_ends_far_above_the_best_and_never_what_ends_below_it():
    chance = random.Random(0)
    others = [done(i, exponential(chance.uniform(1, 3), chance.uniform(0.9, 1.1))) for i in range(6)]
    best = min(trial.value for trial in others)
    for steps in range(2, 7):
        assert not forecast(exponential(best - 0.1)[:steps], others)
        assert forecast(exponential(best + 2)[:steps], others)


def test_nothing_is_stopped_before_a_quarter_or_after_three_quarters_or_without_evidence():
    others = [done(i, exponential(1)) for i in range(6)]
    bad = exponential(50)
    stopped = {name: [prune(bad[:steps], others) for steps in range(1, 9)] for name, prune in PRUNERS.items()}
    assert stopped == {"none": [False] * 8, "forecast": [2 <= steps <= 6 for steps in range(1, 9)]}
    assert [forecast(bad[:4], others[:n]) for n in range(4)] == [False, False, True, True]
    shorter = [done(i, exponential(1)[:3]) for i in range(6)]
    assert not forecast(bad[:4], [others[0], *shorter])  # only one came as far


def test_a_trial_without_a_finite_value_is_stopped():
    others = [done(i, exponential(1)) for i in range(6)]
    assert forecast([(s, math.inf) for s in range(1, 5)], others)


def test_the_first_trial_of_a_study_is_the_reference_and_is_never_stopped():
    study = Study(Space({"x": Float(0, 1)}), "random", pruner="forecast")
    trials = [study.ask() for _ in range(4)]
    for trial in trials[1:3]:
        assert all(study.report(trial, step, value) for step, value in exponential(1))
        study.tell(trial, 1.0)
    for trial in (trials[0], trials[3]):
        goes_on = [study.report(trial, step, value) for step, value in exponential(50)]
        assert all(goes_on) == (trial is trials[0])
