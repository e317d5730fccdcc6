"""Suggestions are functions of their arguments, lie in the space, never repeat, and are better than chance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Float, Int
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES
from mingpt.tuning.trial import Trial

MOMENTUM = Float(0.5, 0.99, when={"optimizer": ["sgd"]})
LR, OPTIMIZER = Float(1e-5, 1, log=True), Choice("adamw", "sgd")
SPACE = Space({"lr": LR, "optimizer": OPTIMIZER, "momentum": MOMENTUM, "n": Int(1, 8)})
DISCRETE = Space({"a": Int(1, 9), "b": Choice("x", "y"), "c": Choice(1, 2, when={"b": ["y"]})})


def loss(config):
    distance = math.log10(config["lr"]) - (-3 if config["optimizer"] == "adamw" else -1)
    value = distance**2 + 0.05 * (config["n"] - 5) ** 2 + 0.5 * (config["optimizer"] == "sgd")
    return math.nan if distance > 1.5 else value


def run(name, n, seed=0, space=SPACE, f=loss):
    strategy, trials = STRATEGIES[name](space, seed), []
    while len(trials) < n and (config := strategy.suggest(trials, len(trials))) is not None:
        trials.append(Trial(len(trials), config, "failed" if math.isnan(f(config)) else "done", f(config)))
    return trials


def lowest(trials):
    return min(trial.value for trial in trials if trial.state == "done")


@pytest.mark.parametrize("name", ["random", "gp"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_suggestions_lie_in_the_space_and_do_not_repeat(name, seed):
    trials = run(name, 14, seed)
    assert all(SPACE.contains(trial.config) for trial in trials)
    assert len({SPACE.key(trial.config) for trial in trials}) == 14


@pytest.mark.parametrize("name", STRATEGIES)
def test_new_object_suggests_the_same(name):
    trials = run(name, 16, 0, DISCRETE, lambda config: config["a"] + len(config))
    for n in (0, 3, 8, 15):
        assert STRATEGIES[name](DISCRETE, 0).suggest(trials[:n], n) == trials[n].config


def test_strategies_and_seeds_differ():
    runs = [
        run(*chosen, DISCRETE, len) for chosen in (("grid", 5, 0), ("random", 5, 0), ("random", 5, 1), ("gp", 5, 0))
    ]
    assert len({str([trial.config for trial in trials]) for trials in runs}) == len(runs)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_configuration_of_a_finite_space_is_suggested_once(name):
    trials = run(name, 99, 0, DISCRETE, lambda config: config["a"] + len(config))
    assert len({DISCRETE.key(trial.config) for trial in trials}) == len(trials) == DISCRETE.size == 27


def test_grid_is_in_order_and_skips_what_was_tried():
    space = Space({"a": Choice(1, 2), "b": Choice("x", "y")})
    order = [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]
    assert [trial.config for trial in run("grid", 9, 0, space, lambda config: 0.0)] == order
    grid = STRATEGIES["grid"](space, 0)
    trials = [Trial(0, order[2]), Trial(1, order[0])]
    assert grid.suggest(trials, 2) == grid.suggest(trials, 2) == order[1]
    with pytest.raises(UserError) as error:
        STRATEGIES["grid"](SPACE, 0)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["lr", "momentum"]


@pytest.mark.parametrize(("name", "most"), [("grid", 3), ("random", 30)])
def test_long_studies_look_at_few_configurations_a_trial(name, most, monkeypatch):
    looks = []
    monkeypatch.setattr(Space, "key", lambda self, config: looks.append(1) or tuple(config.values()))
    assert len(run(name, 2000, 0, Space({"a": Int(1, 40), "b": Int(1, 50)}), lambda config: 0.0)) == 2000
    assert len(looks) < most * 2000


@pytest.mark.parametrize("name", STRATEGIES)
def test_wide_ranges(name):
    space = Space({"a": Int(1, 10**9), "b": Float(0, 1, step=1e-9), "c": Int(0, math.factorial(50))})
    trials = run(name, 8, 0, space, lambda config: config["a"] / 1e9 + config["b"])
    assert all(space.contains(trial.config) for trial in trials)


def test_gp_is_better_than_random():
    gp, random = ([lowest(run(name, 30, seed)) for seed in range(3)] for name in ("gp", "random"))
    assert np.median(gp) < 0.1 * np.median(random)
