"""A study: what ask, report and tell do, `minimize`, and a study that is interrupted and continued."""

from __future__ import annotations

import math
import random

import pytest

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int, Space, Study, minimize

PLANE = {"x": Float(0, 1), "y": Float(-1, 1), "kind": Choice("a", "b")}


def bowl(config, report=lambda step, value: True):
    value = (config["x"] - 0.3) ** 2 + config["y"] ** 2 + (config["kind"] == "b")
    for step in range(1, 9):
        if not report(step, value + 1 / step):
            return None
    return value + 1 / 8


def outcomes(study) -> list[tuple]:
    return [(t.number, t.config, t.state, repr(t.value), t.curve) for t in study.trials]


@pytest.mark.parametrize("strategy", ["grid", "random", "gp"])
def test_every_configuration_of_a_small_space_is_tried_once(strategy):
    study = minimize(lambda config: config["n"], {"n": Int(1, 7), "on": Choice(True, False)}, strategy, trials=99)
    assert len(study.trials) == 14 == len({(t.config["n"], t.config["on"]) for t in study.trials})
    assert study.best.config["n"] == study.best.value == 1


def test_gp_comes_closer_than_random_search():
    regret = {s: [minimize(bowl, PLANE, s, 20, seed).best.value - 1 / 8 for seed in range(3)] for s in ("gp", "random")}
    assert max(regret["gp"]) < min(regret["random"])


def test_first_configurations_come_first_and_count_only_inside_the_space():
    first = [{"x": 0.5}, {"x": 7.0}, {"x": 0.25}]
    study = Study(Space({"x": Choice(0.25, 0.5, 0.75)}), "grid", first=first)
    asked = [study.ask().config for _ in range(4)]
    assert asked == [*first, {"x": 0.75}] and study.ask() is None
    assert [trial.config for trial in study.in_space] == [{"x": 0.5}, {"x": 0.25}, {"x": 0.75}]


def test_a_search_that_begins_with_given_configurations_stays_near_the_best_of_them_at_first():
    """In many dimensions it finds in a few trials what a search of the whole space does not."""
    space = Space({f"x{i}": Float(0, 1) for i in range(6)})
    start = {name: 0.75 if i < 3 else 0.5 for i, name in enumerate(space.names)}

    def bowl(config):
        return sum((x - 0.6) ** 2 for x in config.values())

    best = {}
    for first in ([start], []):
        study = Study(space, "gp", seed=1, first=first)
        for _ in range(12):
            trial = study.ask()
            study.tell(trial, bowl(trial.config))
        best[bool(first)] = study.best.value
    assert best[True] < min(0.5 * best[False], 0.5 * bowl(start))


def test_what_f_does_decides_the_state_of_its_trial():
    def f(config, report):
        n = config["n"]
        if n == 1:
            raise RuntimeError("too bad\nindeed")
        if n == 2:
            return math.nan
        if n == 3:
            return "no number"
        for step in range(1, 9):
            if not report(step, n + 1 / step):
                return None if n % 2 else 1 / 0
        return n

    study = minimize(f, {"n": Choice(0, 1, 2, 3, 4, 5, 6, 7)}, "grid", pruner="forecast")
    assert [trial.state for trial in study.trials] == ["done", "failed", "failed", "failed", "done", *["stopped"] * 3]
    errors = [trial.attributes.get("error") for trial in study.trials[1:4]]
    assert errors == [
        "RuntimeError: too bad",
        "its value is nan",
        "ValueError: could not convert string to float: 'no number'",
    ]
    assert all(len(trial.curve) == 2 for trial in study.trials[5:]) and study.best.number == 0
    assert all(trial.attributes["seconds"] >= 0 for trial in study.trials)


@pytest.mark.parametrize(("strategy", "trials"), [("random", 30), ("gp", 14), ("grid", 12)])
def test_interrupted_anywhere_it_is_the_study_that_was_not(tmp_path, strategy, trials):
    space = (
        {"x": Choice(0.1, 0.2, 0.3), "y": Choice(-0.5, 0.5), "kind": Choice("a", "b")} if strategy == "grid" else PLANE
    )
    chance, interrupts = random.Random(strategy), 0

    def interrupted(config, report):
        if chance.random() < 0.3:
            raise KeyboardInterrupt

        def report_or_interrupt(step, value):
            if chance.random() < 0.03:
                raise KeyboardInterrupt
            return report(step, value)

        return bowl(config, report_or_interrupt)

    while True:
        try:
            study = minimize(interrupted, space, strategy, trials, seed=2, pruner="forecast", folder=tmp_path)
            break
        except KeyboardInterrupt:
            interrupts += 1
    whole = minimize(bowl, space, strategy, trials, seed=2, pruner="forecast")
    assert outcomes(study) == outcomes(whole) and interrupts > 3
    again = minimize(lambda config: 1 / 0, space, strategy, trials, seed=2, folder=tmp_path)  # nothing is left to do
    assert outcomes(again) == outcomes(whole)


def test_a_long_study_costs_little_for_each_trial(tmp_path):
    """The file grows by a few lines a trial, and no call reads it again."""
    study = minimize(lambda c: c["a"], {"a": Int(0, 99), "b": Int(0, 49)}, "grid", 5000, folder=tmp_path)
    assert len(study.trials) == 5000 and study.best.config == {"a": 0, "b": 0}
    content = (tmp_path / "journal.jsonl").read_bytes()
    assert content.count(b"\n") < 4 * 5000 and len(content) < 1000 * 5000


def test_mistakes_are_named():
    with pytest.raises(KeyError, match="halving"):
        Study(Space(PLANE), pruner="halving")
    with pytest.raises(KeyError, match="annealing"):
        Study(Space(PLANE), "annealing")
    with pytest.raises(UserError, match="x: "):
        minimize(bowl, PLANE, "grid")
