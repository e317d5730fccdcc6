"""A study's table, CSV file and importance, against known functions, Monte Carlo and the csv module."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mingpt.tuning import Choice, Float, Int, Space, Trial, bayesian
from mingpt.tuning.output import Table, format_number, format_setting, importance, shorten

ORDERED = {"learning_rate": Float(1e-5, 1, log=True), "n_layer": Int(1, 8), "n_embd": Int(16, 256, log=True)}
CATEGORIES = {"optimizer": Choice("adamw", "sgd", "muon"), "bias": Choice(True, False)}
MIXED = Space({"momentum": Float(0.5, 0.99, when={"optimizer": ["sgd"]}), **ORDERED, **CATEGORIES})


def trials_of(space, f, count) -> list[Trial]:
    configs = [space.config(u) for u in np.random.default_rng(0).random((count, len(space.names)))]
    return [Trial(i, c, "done", float(f(c)), attributes={"seconds": i / 3}) for i, c in enumerate(configs)]


def bowl(config) -> float:
    return (math.log10(config["learning_rate"]) + 2) ** 2 / 8 + config["n_layer"] / 8 + config.get("momentum", 0) + 1


def study_of(count, space=MIXED, f=bowl) -> list[Trial]:
    trials = trials_of(space, f, count)
    for trial in trials:
        trial.curve = [(step, trial.value + 3 / step) for step in range(1, 11)]
        if trial.number % 5 == 3:
            trial.state, trial.value, trial.curve = "stopped", math.nan, trial.curve[:4]
        if trial.number % 7 == 5:
            trial.state, trial.value, trial.curve = "failed", math.nan, [(1, 9.0), (2, math.inf)]
            trial.attributes["error"] = 'MemoryError: "3, 4"\n\udcff GB'
    return [*trials, Trial(count, space.config(np.full(len(space.names), 0.4)))]


# In closed form: log10(b) is uniform on [-4, 0]; Var(m) / 2 = 1/24 and E[m^2] / 4 = 1/12
ADDITIVE = Space({"none": Float(0, 1), "a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Choice("x", "y")})
KNOWN = [
    (ADDITIVE, lambda p: 3 * p["a"] + math.log10(p["b"]) / 2 + (p["c"] == "y"), [0, 9 / 12, 4 / 12, 1 / 4]),
    (Space({"none": Float(0, 1), "a": Float(-1, 1), "b": Float(-1, 1)}), lambda p: p["a"] * p["b"], [0, 1, 1]),
    (Space({"m": Float(0, 1, when={"k": ["a"]}), "k": Choice("a", "b")}), lambda p: -p.get("m", 0.0), [1 / 24, 1 / 12]),
]


@pytest.mark.parametrize(("space", "f", "effects"), KNOWN)
def test_importance_of_known_functions(space, f, effects):
    shares = importance(space, trials_of(space, f, 60))
    assert [shares[name] for name in space.names] == pytest.approx(np.array(effects) / sum(effects), abs=0.03)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_importance_is_that_of_the_gaussian_process_by_monte_carlo():
    trials = study_of(40)
    gp, rng, V = bayesian.posterior(MIXED, trials).gp, np.random.default_rng(1), np.empty(6)
    for i in range(6):
        U = np.repeat(rng.random((1000, 6)), 20, axis=0)
        U[:, i] = rng.random(len(U))
        V[i] = gp.predict(MIXED.snap(U))[0].reshape(1000, 20).var(axis=1, ddof=1).mean()
    shares = importance(MIXED, trials)
    assert [shares[name] for name in MIXED.names] == pytest.approx(V / V.sum(), abs=0.03)
    assert importance(MIXED, [*trials, Trial(41, {"of": "another space"}, "done", 1e9)]) == shares
    assert importance(MIXED, trials_of(MIXED, bowl, 2)) == importance(MIXED, trials_of(MIXED, lambda _: 2.5, 9)) == {}


def test_the_table_is_aligned_and_its_numbers_are_short():
    table, trials = Table(MIXED, "bits_per_byte"), study_of(20)
    trials[1].config["optimizer"], trials[2].value = "a\nlong\x1bword", -1.23456e-100
    for trial in trials:
        line = table.line(trial)
        value = {"done": format_number(trial.value), "stopped": f"({format_number(trial.lowest)})"}
        cells = {"trial": str(trial.number), "state": trial.state, "bits_per_byte": value.get(trial.state, "-")}
        cells["seconds"] = f"{trial.attributes['seconds']:.1f}" if trial.attributes else "-"
        cells |= {name: shorten(format_setting(trial.config.get(name, "-")), 10) for name in MIXED.names}
        assert "".join(line.split("  MemoryError")[0].split()) == "".join("".join(cells.values()).split())
        assert ('MemoryError: "3, 4"' in line) == (trial.state == "failed")
        for name, text in cells.items():
            assert line[: table.header.index(name) + len(name) + 1].rstrip().endswith(text)
    settings = [0.0213456, 1e-5, 0.1 + 0.2, 1000.0, 12345.6, 256, 1234567, True, None, "adamw"]
    assert " ".join(map(format_setting, settings)) == "0.0213 1e-05 0.3 1000 12300 256 1234567 true null adamw"
    assert shorten("a\nlong\x1bword", 10) == "a lo..word"
    assert [format_number(x) for x in (1.7, 12345.6, -1.23456e-7)] == ["1.7000", "12346", "-1.2346e-07"]
