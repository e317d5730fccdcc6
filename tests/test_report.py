"""What a study's report says, beside indices known in closed form, the csv module, and numbers read back."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.tuning import Choice, Float, Int, Space, Trial, evidence, report

MIXED = Space(
    {
        "learning_rate": Float(1e-5, 1, log=True),
        "n_layer": Int(1, 8),
        "optimizer": Choice("adamw", "sgd", "muon"),
        "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd"]}),
        "n_embd": Int(16, 256, log=True, step=16),
        "bias": Choice(True, False),
    }
)


def trials_of(space, f, count, seed=0) -> list[Trial]:
    """Done trials of f(config), drawn evenly."""
    points = space.snap(np.random.default_rng(seed).random((count, len(space.names))))
    configs = [space.config(u) for u in points]
    return [Trial(i, config, "done", float(f(config)), seconds=1.5 * i) for i, config in enumerate(configs)]


def bowl(config) -> float:
    return (math.log10(config["learning_rate"]) + 2) ** 2 + config["n_layer"] / 8 + config.get("momentum", 0) + 1


def study_of(count, space=MIXED, f=bowl) -> list[Trial]:
    """Trials of every state, with curves."""
    history = trials_of(space, f, count)
    for trial in history:
        trial.curve = [(step, trial.value + 3 / step) for step in range(1, 11)]
        if trial.number % 5 == 3:
            trial.state, trial.value, trial.curve = "stopped", math.nan, trial.curve[:4]
        if trial.number % 7 == 5:
            trial.state, trial.value, trial.why = "failed", math.nan, "MemoryError: 3 GB"
            trial.curve = [(1, 9.0), (2, math.inf)]
    return [*history, Trial(count, space.config(np.full(len(space.names), 0.4)))]


# ---- What matters ----


def test_the_effects_of_ishigami_are_those_in_closed_form():
    a, b = 7, 0.1

    def ishigami(U):
        x = math.pi * (2 * U - 1)
        return np.sin(x[:, 0]) + a * np.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * np.sin(x[:, 0])

    of_13 = b**2 * math.pi**8 * (1 / 18 - 1 / 50)
    expected = [(1 + b * math.pi**4 / 5) ** 2 / 2 + of_13, a**2 / 8, of_13]
    assert report.total_effects(ishigami, 3) == pytest.approx(expected, rel=0.02)


def test_importance_of_an_additive_function_is_each_terms_variance():
    space = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Int(1, 3), "d": Choice("x", "y")})
    shift = {"x": 0.0, "y": 0.4}
    f = lambda p: 3 * p["a"] + math.log10(p["b"]) / 2 + p["c"] / 2 + shift[p["d"]]  # noqa: E731
    variances = {"a": 9 / 12, "b": 4 / 12, "c": (2 / 3) / 4, "d": 0.16 / 4}
    found = report.importance(space, trials_of(space, f, 40))
    assert list(found) == space.names
    assert sum(found.values()) == pytest.approx(1)
    assert found == pytest.approx({name: v / sum(variances.values()) for name, v in variances.items()}, abs=0.02)


def test_importance_of_a_condition():
    # -m where kind is a, else 0: E[Var(value | kind)] = E[Var(m)] / 2 = 1/24, E[Var(value | m)] = E[m^2] / 4 = 1/12
    space = Space({"m": Float(0, 1, when={"kind": ["a"]}), "kind": Choice("a", "b"), "nothing": Float(0, 1)})
    found = report.importance(space, trials_of(space, lambda p: -p.get("m", 0.0), 60))
    assert found == pytest.approx({"m": 1 / 3, "kind": 2 / 3, "nothing": 0}, abs=0.04)


def test_importance_is_the_same_each_time_and_empty_where_little_is_known():
    history = study_of(30)
    assert report.importance(MIXED, history) == report.importance(MIXED, history)
    known = [trial for trial in history if trial.state == "done"]
    assert report.importance(MIXED, known[:2]) == {}
    assert report.importance(MIXED, [Trial(t.number, t.config, "failed") for t in known]) == {}
    assert report.importance(MIXED, [Trial(t.number, t.config, "done", 2.5) for t in known]) == {}
    assert report.importance(Space({"other": Float(0, 1)}), history) == {}
    assert set(report.importance(MIXED, known[:3])) == set(MIXED.names)


@pytest.mark.parametrize("warp", evidence.WARPS)
def test_values_come_back_from_their_warp(warp):
    y = np.random.default_rng(1).lognormal(0, 2, 50) - 1
    z, _, _ = evidence.warped(y, warp)
    assert report.unwarped(z, y, warp) == pytest.approx(y, rel=1e-9, abs=1e-9)


def test_a_surface_goes_through_what_was_measured():
    history = trials_of(MIXED, bowl, 30)
    surface = report.surface(MIXED, history)
    X = np.array([MIXED.point(trial.config) for trial in history])
    values = np.array([trial.value for trial in history])
    assert surface.values(X) == pytest.approx(values, abs=0.05 * np.ptp(values))
    elsewhere = MIXED.snap(np.random.default_rng(5).random((20, len(MIXED.names))))
    assert (surface.values(elsewhere, -2) < surface.values(elsewhere)).all()
    assert (surface.values(elsewhere) < surface.values(elsewhere, 2)).all()


# ---- Lines ----


def test_a_table_is_aligned():
    table = report.Table(MIXED, "bits_per_byte")
    history = study_of(20)
    history += [
        Trial(100, {**history[0].config, "learning_rate": 1.2345e-05}, "done", 123456.789, seconds=12345.6),
        Trial(101, {"from": "another space"}, "done", -1.5e-12, seconds=0.0),
        Trial(102, {**history[0].config, "optimizer": "a" * 100}, "stopped", curve=[(1, 2.5)], seconds=3.0),
    ]
    header = table.header
    assert {len(table.line(trial).removesuffix("  MemoryError: 3 GB")) for trial in history} == {len(header)}
    for trial in history[:20]:
        line = table.line(trial)
        cells = dict(zip(["trial", "state", "value", "seconds", *MIXED.names], line.split(), strict=False))
        assert (cells["trial"], cells["state"]) == (str(trial.number), trial.state)
        for name in MIXED.names:
            text = cells[name]
            assert line[: header.index(name) + len(name)].endswith(text)  # to the right, below the name
            assert (text == "-") == (name not in trial.config)
            if type(trial.config.get(name)) is float:
                assert float(text) == pytest.approx(trial.config[name], rel=5e-3)
        decimals = header.index("bits_per_byte") + len("bits_per_byte")
        if trial.state == "done":
            assert float(line[:decimals].split()[-1]) == pytest.approx(trial.value, rel=1e-4)
        if trial.state == "stopped":
            assert line[: decimals + 1].split()[-1] == f"({report.as_value(min(v for _, v in trial.curve))})"
    assert sum("MemoryError: 3 GB" in table.line(trial) for trial in history) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0213456, "0.0213"), (1e-5, "1e-5"), (0.00012, "1.2e-4"), (0.001, "0.001"), (0.30000000000000004, "0.3"),
        (1000.0, "1000"), (12345.6, "12300"), (999600.0, "1e6"), (-2.5e-7, "-2.5e-7"), (0.0, "0"), (1e10, "1e10"),
        (256, "256"), (1234567, "1234567"), (True, "true"), (False, "false"), ("adamw", "adamw"), ("a\nb", "a b"),
    ],
)  # fmt: skip
def test_settings_are_short(value, text):
    assert report.short(value) == text


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False).filter(lambda x: abs(x) < 1e307))
def test_numbers_are_rounded_and_no_more(x):
    assert float(report.short(x)) == pytest.approx(x, rel=5.001e-3)
    assert float(report.as_value(x)) == pytest.approx(x, rel=5.001e-5)
    assert len(report.short(x)) <= 10
    if x == 0 or 1e-5 < abs(x) < 1e9:
        assert len(report.as_value(x)) <= 11


def test_the_best_are_sorted():
    values = [3.0, math.nan, 1.0, 2.0, 1.0]
    history = [Trial(i, {}, "failed" if math.isnan(v) else "done", v) for i, v in enumerate(values)]
    assert [trial.number for trial in report.best_trials(history, 3)] == [2, 4, 3]
    assert report.best_trials([]) == []


@pytest.mark.parametrize(
    ("first", "best", "expected"),
    [
        (2.0, 1.9, "5.0% lower than the defaults (trial 0): 2.0000 -> 1.9000 (trial 1)"),
        (2.0, 1.9999, "0.005% lower than the defaults (trial 0): 2.0000 -> 1.9999 (trial 1)"),
        (2000.0, 2.0, "1,000 times lower than the defaults (trial 0): 2000.0 -> 2.0000 (trial 1)"),
        (1.0, -2.0, "3.0000 lower than the defaults (trial 0): 1.0000 -> -2.0000 (trial 1)"),
        (1.0, 1.0, "nothing better than the defaults (trial 0) was found"),
        (1.0, 2.0, "nothing better than the defaults (trial 0) was found"),
    ],
)
def test_gain(first, best, expected):
    history = [Trial(0, {}, "done", first), Trial(1, {}, "done", best), Trial(2, {}, "failed")]
    assert report.gain(history, "the defaults") == expected


def test_gain_where_there_is_nothing_to_compare():
    assert report.gain([]) == "no trial has a value"
    assert (
        report.gain([Trial(0, {}, "failed"), Trial(1, {}, "done", 1.0)]) == "unknown: trial 0, the first trial, failed"
    )
    assert report.gain([Trial(0, {}), Trial(1, {}, "done", 1.0)]).endswith("has not ended")


def test_importance_in_a_line():
    assert report.importance_line({"a": 0.25, "b": 0.75, "c": 0.0}) == "b 75%, a 25%, c 0%"
    assert report.importance_line({}) == "not known yet"


# ---- trials.csv ----


def test_trials_are_read_back(tmp_path):
    history = study_of(20)
    history[5].why = 'ValueError: "a", b\nand \udcff'
    history[2].config["optimizer"] = "café, 日本"
    history.append(Trial(21, {"from": "another space"}, "done", 0.1 + 0.2, attempts=2, seconds=1 / 3))
    path = tmp_path / "trials.csv"
    path.write_text("older", encoding="utf-8")
    report.save_csv(MIXED, history, path)
    assert [file.name for file in tmp_path.iterdir()] == ["trials.csv"]
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["number", "state", "value", "seconds", "attempts", "why", *MIXED.names, "from"]
    assert len(rows) == len(history)
    for row, trial in zip(rows, history, strict=True):
        assert (int(row["number"]), row["state"], int(row["attempts"])) == (trial.number, trial.state, trial.attempts)
        for text, fact in ((row["value"], trial.value), (row["seconds"], trial.seconds)):
            assert math.isnan(fact) if text == "" else float(text) == fact  # to the last digit
        for name in [*MIXED.names, "from"]:
            value = trial.config.get(name, "")
            kinds = {bool: lambda text: {"true": True, "false": False}[text], str: str, int: int, float: float}
            assert kinds[type(value)](row[name]) == value
    assert rows[5]["why"] == 'ValueError: "a", b\nand \\udcff'
