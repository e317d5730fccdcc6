"""What the Gaussian process is given: values, forecasts, failures, running trials, warps."""

import math

import numpy as np
import pytest

from mingpt.tuning import bayesian
from mingpt.tuning.parameters import Float
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES
from mingpt.tuning.trial import Trial

LINE = Space({"x": Float(0, 1)})
SQUARE = Space({"x": Float(0, 1), "y": Float(0, 1)})


def test_evidence_of_done_stopped_failed_and_running_trials():
    trials = [
        Trial(0, {"x": 0.1}, "done", 1.0, [(10, 3.0), (20, 1.0)]),
        Trial(1, {"x": 0.2}, "done", 2.0, [(10, 3.0), (20, 2.0)]),
        Trial(2, {"x": 0.3}, "stopped", math.nan, [(10, 4.0)]),
        Trial(3, {"x": 0.4}, "stopped", math.nan, [(10, 1.5)]),
        Trial(4, {"x": 0.5}, "failed"),
        Trial(5, {"x": 0.6}),
    ]
    U, y, tau = bayesian.evidence(LINE, trials)
    np.testing.assert_allclose(U[:, 0], [0.1, 0.2, 0.3, 0.4, 0.5])
    # after step 10 the others gained 2 and 1; a forecast is not below the lowest value
    np.testing.assert_allclose(y, [1.0, 2.0, 4.0 - 1.5, 1.0, math.nan])
    np.testing.assert_allclose(tau, [0, 0, 0.5, 0.5, 0])


def test_of_a_long_history_the_best_and_the_newest_count():
    trials = [Trial(n, {"x": n / 500}, "done", float(n * 37 % 500)) for n in range(500)]
    _, y, _ = bayesian.evidence(LINE, trials)
    values = [trial.value for trial in trials]
    assert len(y) == 2 * bayesian.PER_KIND
    assert set(sorted(values[: -bayesian.PER_KIND])[:50]) | set(values[-bayesian.PER_KIND :]) <= set(y)


@pytest.mark.parametrize("ratio", bayesian.WARPS)
def test_warp_is_standardized_increasing_and_invertible(ratio):
    y = np.array([1.0, 1.1, 1.5, 3.0, 40.0])
    z, slope, unwarp = bayesian.warped(y, ratio)
    assert (z.mean(), z.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    assert (np.diff(z) > 0).all()
    np.testing.assert_allclose(unwarp(z), y)
    np.testing.assert_allclose((unwarp(z + 1e-6) - unwarp(z - 1e-6)) / 2e-6, 1 / slope, rtol=1e-6)


def test_likeliest_warp():
    U = np.random.default_rng(0).random((40, 2))
    long_tail = np.exp(8 * ((U - 0.5) ** 2).sum(1)) + 30 * (U[:, 0] > 0.8)
    linear = (U - 0.5) @ [1.0, 0.3]
    numbers = np.zeros(2, dtype=bool)
    assert bayesian.likeliest(U, long_tail, np.zeros(40), numbers, bayesian.WARPS)[0] is not None
    assert bayesian.likeliest(U, linear, np.zeros(40), numbers, bayesian.WARPS)[0] is None


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_posterior_is_in_the_unit_of_the_values(unit):
    trials = [Trial(n, {"x": n / 9}, "done", unit * (5 + (n / 9 - 0.4) ** 2)) for n in range(10)]
    posterior = bayesian.posterior(LINE, trials)
    low, median, high = (
        posterior.values(np.linspace(0, 1, 10)[:, None], deviations) / unit for deviations in (-2, 0, 2)
    )
    np.testing.assert_allclose(median, [trial.value / unit for trial in trials], atol=1e-3)
    assert (low < median).all() and (median < high).all()


def test_no_posterior_without_three_values_that_differ():
    done = [Trial(n, {"x": n / 9}, "done", 1.0) for n in range(5)]
    failed = [Trial(n, {"x": n / 9}, "failed") for n in range(5)]
    assert bayesian.posterior(LINE, []) is None
    assert bayesian.posterior(LINE, done) is None
    assert bayesian.posterior(LINE, failed) is None


def search(space, n, f):
    strategy, trials = STRATEGIES["gp"](space, 0), []
    for number in range(n):
        config = strategy.suggest(trials, number)
        trials.append(Trial(number, config, "failed" if math.isnan(f(config)) else "done", f(config)))
    return strategy, trials


def test_failures_are_avoided():
    _, trials = search(LINE, 20, lambda c: math.nan if c["x"] > 0.5 else -c["x"])
    assert min(trial.value for trial in trials if trial.state == "done") < -0.45  # at the edge of the failures
    assert np.mean([trial.config["x"] > 0.6 for trial in trials[8:]]) < 0.2


def test_running_trials_keep_workers_apart():
    strategy, trials = search(SQUARE, 6, lambda c: math.sin(9 * c["x"]) + (c["y"] - 0.6) ** 2)
    for number in range(6, 10):
        trials.append(Trial(number, strategy.suggest(trials, number)))
    points = np.array([SQUARE.point(trial.config) for trial in trials[6:]])
    assert np.abs(points[:, None] - points[None]).max(2)[np.triu_indices(4, 1)].min() > 0.001
