"""The gain of a study's best settings over the defaults, against scipy's paired t-test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mingpt.confirmation import Confirmation, choose
from mingpt.tuning import Float, Space, Study
from mingpt.tuning.trial import Trial

DEFAULTS, BEST = Trial(0, {}, "done", 2.0), Trial(7, {}, "done", 1.9)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_interval_is_that_of_a_paired_t_test(seeds):
    rng = np.random.default_rng(seeds)
    for gain in (0.0, 0.05, 0.5):
        defaults, best = 2 + 0.05 * rng.standard_normal(seeds), 2 - gain + 0.05 * rng.standard_normal(seeds)
        result = Confirmation(DEFAULTS, BEST, {0: defaults.tolist(), 7: best.tolist()})
        interval = stats.ttest_rel(defaults, best).confidence_interval(0.9)
        mean, margin = result.gain
        assert (mean - margin, mean + margin) == pytest.approx((interval.low, interval.high))
        assert result.winner is (BEST if interval.low > 0 else DEFAULTS)


def test_chance_is_not_taken_for_a_gain():
    """Settings as good as the defaults win in about one study of twenty, whatever the search said."""
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2000, 2, 4))
    wins = sum(Confirmation(DEFAULTS, BEST, {0: a.tolist(), 7: b.tolist()}).winner is BEST for a, b in pairs)
    assert 60 < wins < 145


def test_what_is_said_is_what_was_measured():
    won = "\n".join(Confirmation(DEFAULTS, BEST, {0: [2.0, 2.02], 7: [1.9, 1.91]}).lines())
    assert "2.0000 2.0200" in won and "1.9000 1.9100" in won and "trial 7 is 5.2 % lower than the defaults" in won
    lost = "\n".join(Confirmation(DEFAULTS, BEST, {0: [2.0, 1.8], 7: [1.9, 1.91]}).lines())
    assert "no gain is confirmed" in lost and "best.json holds the defaults" in lost
    nothing = Confirmation(DEFAULTS, DEFAULTS, {})
    assert nothing.winner is DEFAULTS and "no trial is better than the defaults" in nothing.lines()[0]


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
    assert choose(Study(study.space)) is None
