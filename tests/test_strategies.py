"""Suggestions: functions of the seed, the number and the history; inside the space, new, and better than chance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int
from mingpt.tuning.bayesian import likeliest
from mingpt.tuning.evidence import gather, inside, subset, warped
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES, grid_size
from mingpt.tuning.trial import Trial

SPACE = Space(
    {
        "lr": Float(1e-5, 1, log=True),
        "optimizer": Choice("adamw", "sgd"),
        "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd"]}),
        "n_layer": Int(1, 8),
    }
)


def loss(config):
    centre = -3 if config["optimizer"] == "adamw" else -1
    value = (math.log10(config["lr"]) - centre) ** 2 + 0.05 * (config["n_layer"] - 5) ** 2
    value += 0.5 if config["optimizer"] == "sgd" else 0.0
    return math.nan if math.log10(config["lr"]) > centre + 1.5 else value


def played(strategy, trials, seed=0, space=SPACE, f=loss):
    history = []
    for number in range(trials):
        config = STRATEGIES[strategy](space, history, seed, number)
        if config is None:
            break
        value = f(config)
        history.append(Trial(number, config, "failed" if math.isnan(value) else "done", value))
    return history


def best(history):
    return min(trial.value for trial in history if trial.state == "done")


@pytest.mark.parametrize("strategy", ["random", "gp"])
def test_a_suggestion_follows_from_seed_number_and_history_alone(strategy):
    history = played(strategy, 14)
    again = played(strategy, 9)
    assert [t.config for t in again] == [t.config for t in history[:9]]
    played(strategy, 6, seed=5)  # another study in between leaves no trace
    assert STRATEGIES[strategy](SPACE, history[:13], 0, 13) == history[13].config
    assert [t.config for t in played(strategy, 5, seed=1)] != [t.config for t in history[:5]]


@pytest.mark.parametrize("strategy", ["random", "gp"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_every_suggestion_is_inside_its_space_and_new(strategy, seed):
    history = played(strategy, 14, seed)
    assert all(SPACE.contains(trial.config) for trial in history)
    assert len({str(trial.config) for trial in history}) == len(history)


def test_each_strategy_suggests_otherwise():
    space = Space({"a": Int(1, 9), "b": Choice("x", "y")})
    configs = {str([t.config for t in played(s, 6, space=space, f=lambda c: c["a"])]) for s in STRATEGIES}
    assert len(configs) == len(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_space_is_used_up_with_each_configuration_once(strategy):
    space = Space({"a": Int(1, 3), "b": Choice("x", "y"), "c": Choice(1, 2, when={"b": ["y"]})})
    history = played(strategy, 99, space=space, f=lambda config: config["a"] + len(config))
    assert len(history) == space.size == 9
    assert len({str(trial.config) for trial in history}) == 9


def test_a_grid_is_in_order_and_goes_round_what_was_tried():
    space = Space({"a": Choice(1e-4, 1e-3), "b": Choice(2, 4)})
    order = [dict(a=a, b=b) for a in (1e-4, 1e-3) for b in (2, 4)]
    assert [trial.config for trial in played("grid", 9, space=space, f=lambda config: 0.0)] == order
    assert STRATEGIES["grid"](space, [Trial(0, order[2]), Trial(1, order[0])], 0, 2) == order[1]
    assert grid_size(space) == 4
    with pytest.raises(UserError, match="lr"):
        grid_size(SPACE)


def test_gp_finds_in_thirty_trials_what_chance_does_not():
    ours = [best(played("gp", 30, seed)) for seed in range(3)]
    chance = [best(played("random", 30, seed)) for seed in range(3)]
    assert np.median(ours) < 0.1 * np.median(chance)


def test_failed_trials_push_the_search_away():
    def f(config):
        return math.nan if config["x"] > 0.5 else -config["x"]  # the best is at the edge of what fails

    history = played("gp", 20, space=Space({"x": Float(0, 1)}), f=f)
    late = history[8:]
    assert best(history) < -0.45
    assert np.mean([trial.config["x"] > 0.6 for trial in late]) < 0.2  # and not where it has long failed


def test_pending_trials_are_evidence_that_keeps_workers_apart():
    space = Space({"x": Float(0, 1), "y": Float(0, 1)})
    history = played("gp", 6, space=space, f=lambda c: math.sin(9 * c["x"]) + (c["y"] - 0.6) ** 2)
    for number in range(6, 10):
        history.append(Trial(number, STRATEGIES["gp"](space, history, 0, number)))
    points = np.array([space.point(trial.config) for trial in history[6:]])
    apart = np.abs(points[:, None] - points[None]).max(2)[np.triu_indices(4, 1)]
    assert apart.min() > 0.001  # with the pending ones hidden, three of the four are the same to 1e-5


def test_a_stopped_trial_counts_for_what_its_curve_would_have_come_to():
    space = Space({"x": Float(0, 1)})
    history = [
        Trial(0, {"x": 0.1}, "done", 1.0, [(10, 3.0), (20, 1.0)]),
        Trial(1, {"x": 0.2}, "done", 2.0, [(10, 3.0), (20, 2.0)]),
        Trial(2, {"x": 0.3}, "stopped", math.nan, [(10, 4.0)]),
        Trial(3, {"x": 0.4}, "stopped", math.nan, [(10, 1.5)]),
        Trial(4, {"x": 0.5}, "failed", math.nan),
        Trial(5, {"x": 0.6}),
        Trial(6, {"z": 0.6}, "done", 0.0),  # of another space
    ]
    evidence = gather(space, inside(space, history))
    # from step 10 on the others gained 2 and 1: 1.5 on average, with a deviation of 0.5
    np.testing.assert_allclose(evidence.y, [1.0, 2.0, 4.0 - 1.5, 1.0])  # and never below the best measured
    np.testing.assert_allclose(evidence.tau, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(evidence.failed, [[0.5]])
    np.testing.assert_allclose(evidence.pending, [[0.6]])


def test_warps_and_their_slopes():
    y = np.array([1.0, 1.1, 1.5, 3.0, 40.0])
    for warp in (None, 1.0, 0.1):
        z, slope, log_slope = warped(y, warp)
        assert z.mean() == pytest.approx(0, abs=1e-12)
        assert z.std() == pytest.approx(1)
        assert (np.diff(z) > 0).all()
        assert log_slope == pytest.approx(np.log(slope).sum())
        h = 1e-6
        later = warped(np.array([*y[:3], 3.0 + h, 40.0]), warp)[0]
        if warp is None:  # the others' spread follows from the middle value, which does not move
            continue
        unscaled = np.log((y - 1) / (warp * np.median(y[1:] - 1)) + 1)
        moved = np.log((3.0 + h - 1) / (warp * np.median(y[1:] - 1)) + 1)
        assert slope[3] == pytest.approx((moved - unscaled[3]) / h / unscaled.std(), rel=1e-3)
        assert np.isfinite(later).all()
    assert np.isfinite(warped(np.array([2.0, 2.0]), 0.1)[0]).all()


def test_a_long_tail_is_warped_and_a_parabola_is_not():
    U = np.random.default_rng(0).random((40, 2))
    centred = U - 0.5
    tail = np.exp(8 * (centred**2).sum(1)) + 30 * (U[:, 0] > 0.8)
    none = np.zeros(40)
    no_category = np.zeros(2, dtype=bool)
    assert likeliest(U, tail, none, no_category)[0] is not None
    assert likeliest(U, (centred * [1.0, 0.3]) @ [1.0, 1.0], none, no_category)[0] is None


def test_of_a_long_history_the_best_and_the_newest_stay():
    known = [(Trial(number, {}), float((number * 37) % 500), 0.0) for number in range(500)]
    kept = subset(known)
    numbers = [trial.number for trial, _, _ in kept]
    assert len(kept) == 200
    assert numbers == sorted(numbers)
    assert min(known, key=lambda entry: entry[1])[0].number in numbers
    assert set(range(460, 500)) <= set(numbers)
