"""The gain of a study's best settings over the defaults, against scipy's paired t-test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mingpt.confirmation import RHO, Confirmation, choose
from mingpt.tuning import Float, Space, Study
from mingpt.tuning.trial import Trial

DEFAULTS, BEST = Trial(0, {}, "done", 2.0), Trial(7, {}, "done", 1.9)


def confirmation(defaults, best, rho=0.0) -> Confirmation:
    runs = [[Trial(i, {}, "done", float(value)) for i, value in enumerate(values)] for values in (defaults, best)]
    return Confirmation(DEFAULTS, BEST, *runs, rho)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_interval_is_that_of_a_paired_t_test(seeds):
    rng = np.random.default_rng(seeds)
    for gain in (0.0, 0.05, 0.5):
        defaults, best = 2 + 0.05 * rng.standard_normal(seeds), 2 - gain + 0.05 * rng.standard_normal(seeds)
        result = confirmation(defaults, best)
        interval = stats.ttest_rel(defaults, best).confidence_interval(0.9)
        mean, margin = result.gain
        assert (mean - margin, mean + margin) == pytest.approx((interval.low, interval.high))
        assert result.winner is (BEST if interval.low > 0 else DEFAULTS)


@pytest.mark.parametrize("seeds", [2, 4, 8])
def test_chance_is_not_taken_for_a_gain(seeds):
    """Settings as good as the defaults win in about one study of twenty, also where seeds split the same rows anew."""
    rng, wins = np.random.default_rng(0), 0
    for _ in range(1000):
        wins += confirmation(*rng.standard_normal((2, seeds))).winner is BEST
    assert 25 < wins < 80
    rows, wins = 2000, 0
    for _ in range(1000):
        right = rng.random((2, rows)) < 0.8  # of two classifiers, equally good
        splits = [rng.choice(rows, rows // 10, replace=False) for _ in range(seeds)]
        wins += confirmation(*([1 - right[i][split].mean() for split in splits] for i in (0, 1)), RHO).winner is BEST
    assert 25 < wins < 80


def test_what_is_said_is_what_was_measured():
    won = confirmation([2.0, 2.02], [1.9, 1.91]).line()
    assert won.startswith("trial 7 is 0.1050 or 5.2 % lower than the defaults")
    assert "90 % interval of the gain: 0.0734 to 0.1366" in won
    assert confirmation([2.0, 1.8], [1.9, 1.91]).line().startswith("no gain is confirmed: trial 7 is")
    worse = confirmation([2.0, 2.02], [2.1, 2.13]).line()
    assert worse.startswith("no gain is confirmed: trial 7 is 0.1050 or 5.2 % higher")
    assert confirmation([0.0, 0.0], [0.0, 0.1]).line()  # an accuracy of 1
    nothing = Confirmation(DEFAULTS, DEFAULTS, [], [], 0.0)
    assert nothing.winner is DEFAULTS and "no trial is expected to be better" in nothing.line()
    result = confirmation([2.0, 2.02], [1.9, 1.91])
    result.best_again[1].state, result.best_again[1].attributes["error"] = "failed", "Diverged: nan"
    assert result.winner is DEFAULTS and "failed (Diverged: nan)" in result.line()


def test_the_candidate_is_truly_better_than_the_trial_with_the_lowest_value():
    """With noise the lowest of many values is mostly luck; on average over studies the posterior mean knows better."""
    regret = {"lowest": 0.0, "chosen": 0.0}
    for seed in range(12):
        study = Study(Space({"x": Float(0, 1)}), "random", seed=seed)
        rng = np.random.default_rng(seed)
        for _ in range(30):
            trial = study.ask()
            study.tell(trial, (trial.config["x"] - 0.3) ** 2 + 0.1 * rng.standard_normal())
        regret["lowest"] += (study.best.config["x"] - 0.3) ** 2
        regret["chosen"] += (choose(study).config["x"] - 0.3) ** 2
    assert regret["chosen"] < 0.7 * regret["lowest"]
    study.trials[0].value = study.best.value
    assert choose(study) is study.trials[0]  # none is better
