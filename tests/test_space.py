"""Parameters, conditions, and the way to the unit cube and back."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int
from mingpt.tuning.parsing import parse_parameter
from mingpt.tuning.space import Space

MIXED = {
    "lr": Float(1e-5, 1, log=True),
    "n_layer": Int(1, 8),
    "width": Int(16, 256, log=True, step=16),
    "optimizer": Choice("adamw", "sgd", "muon"),
    "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd", "muon"]}),
    "nesterov": Choice(True, False, when={"optimizer": ["sgd"]}),
    "dropout": Float(0.0, 0.5, step=0.1),
    "batch": Choice(32, 8, 16),
}


@settings(max_examples=200, deadline=None)
@given(u=st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_each_point_has_a_configuration_in_the_space_and_lies_where_snap_says(u):
    space, u = Space(MIXED), np.array(u)
    config = space.config(u)
    assert space.contains(config)
    np.testing.assert_allclose(space.point(config), space.snap(u[None])[0], atol=1e-12)
    again = space.config(space.point(config))
    assert {n: v for n, v in again.items() if n not in ("lr", "momentum")} == {
        n: v for n, v in config.items() if n not in ("lr", "momentum")
    }
    assert again["lr"] == pytest.approx(config["lr"])
    assert ("momentum" in config) == (config["optimizer"] in ("sgd", "muon"))
    assert ("nesterov" in config) == (config["optimizer"] == "sgd")
    assert Space.from_json(space.to_json()).config(u) == config


def test_scales_are_even_in_the_value_or_in_its_logarithm():
    space = Space({"a": Float(-2, 6), "b": Float(1e-4, 1, log=True), "c": Int(3, 6), "d": Choice("x", "y")})
    config = space.config(np.array([0.25, 0.5, 0.5, 0.6]))
    assert config == {"a": 0.0, "b": pytest.approx(1e-2), "c": 5, "d": "y"}
    counts = np.bincount([Int(3, 6).value(u) for u in np.linspace(0, 1, 4001)])[3:]
    assert counts.max() - counts.min() <= 2  # both ends as often as the others
    assert [Int(1, 100, log=True).value(u) for u in (0, 0.5, 1)] == [1, 7, 100]  # 0.5 to 100.5: the middle is 7.09


def test_values_are_those_written_down():
    step = Float(0.0, 0.5, step=0.1)
    assert {step.value(u) for u in np.linspace(0, 1, 101)} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert {Int(16, 64, step=16).value(u) for u in np.linspace(0, 1, 101)} == {16, 32, 48, 64}
    assert {Int(1, 10, step=4).value(u) for u in np.linspace(0, 1, 101)} == {1, 5, 9}
    assert Float(1e-4, 1, log=True).value(0.0) == 1e-4
    assert Float(1e-4, 1, log=True).value(1.0) == 1.0
    assert Choice(0.1, 1, 0.01).values == (0.01, 0.1, 1)  # numbers in their order
    assert Choice("b", "a").values == ("b", "a")


def test_a_configuration_belongs_only_with_the_right_names_types_and_values():
    space = Space(MIXED)
    good = dict(lr=0.1, n_layer=2, width=32, optimizer="adamw", dropout=0.3, batch=16)
    assert space.contains(good)
    for change in (
        {"lr": 2.0},
        {"n_layer": 2.0},
        {"n_layer": True},
        {"width": 33},
        {"optimizer": "lion"},
        {"optimizer": "sgd"},
        {"dropout": 0.25},
        {"batch": 64},
        {"momentum": 0.9},
    ):
        assert not space.contains({**good, **change}), change
    assert not space.contains({name: value for name, value in good.items() if name != "lr"})


def test_size_is_the_number_of_configurations_conditions_counted():
    space = Space(
        {
            "a": Int(1, 3),
            "kind": Choice("x", "y", "z"),
            "b": Choice(1, 2, when={"kind": ["y", "z"]}),
            "c": Choice("p", "q", when={"b": [2], "kind": ["z"]}),
        }
    )
    expected = []
    for a, kind in itertools.product((1, 2, 3), "xyz"):
        for b in (1, 2) if kind in "yz" else (None,):
            for c in "pq" if b == 2 and kind == "z" else (None,):
                config = dict(a=a, kind=kind, b=b, c=c)
                expected.append({name: value for name, value in config.items() if value is not None})
    assert list(space.configurations()) == expected
    assert space.size == len(expected) == 3 * (1 + 2 + 3)
    assert Space({**space.parameters, "x": Float(0, 1)}).size is None


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"a": Float(1, 1)}, "empty"),
        ({"a": Int(8, 1)}, "reversed"),
        ({"a": Float(0, 1, log=True)}, "logarithm"),
        ({"a": Float(0, float("inf"))}, "numbers"),
        ({"a": Int(1, 2.5)}, "whole number"),
        ({"a": Float(0, 1, step=2)}, "step"),
        ({"a": Choice()}, "needs values"),
        ({"a": Choice("x", "x")}, "twice"),
        ({"a": Int(1, 2, when={"b": [1]})}, "not searched"),
        ({"a": Int(1, 2, when={"b": [1]}), "b": Float(0, 1)}, "continuous"),
        ({"a": Int(1, 2, when={"b": [7]}), "b": Int(1, 3)}, "never"),
        ({"a": Int(1, 2, when={"b": [1]}), "b": Int(1, 3, when={"a": [1]})}, "circle"),
        ({}, "at least one"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters, words):
    with pytest.raises(UserError, match=words):
        Space(parameters)


def test_all_problems_are_named_together():
    with pytest.raises(UserError) as caught:
        Space({"a": Int(8, 1), "b": Choice(), "c": Float(0, 1, log=True)})
    assert [line.split(":")[0] for line in caught.value.problems] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text, parameter",
    [
        ("1e-5..1 log", Float(1e-5, 1.0, log=True)),
        ("1..8", Int(1, 8)),
        ("16..256 log step 16", Int(16, 256, log=True, step=16)),
        ("0..0.5 step 0.1", Float(0.0, 0.5, step=0.1)),
        ("-3..3", Int(-3, 3)),
        ("2,4,8", Choice(2, 4, 8)),
        ("1e-4,1e-3", Choice(1e-4, 1e-3)),
        ("adamw,sgd", Choice("adamw", "sgd")),
        ("true,false", Choice(True, False)),
        ("0.5..0.99 when optimizer=sgd", Float(0.5, 0.99, when={"optimizer": ["sgd"]})),
        ("1..2 when a=x,y and b=3", Int(1, 2, when={"a": ["x", "y"], "b": [3]})),
    ],
)
def test_what_is_typed_is_what_is_meant(text, parameter):
    assert parse_parameter(text) == parameter


@pytest.mark.parametrize(
    "text", ["", "1..2..3", "a..b", "1..8 logarithmic", "1..8 step", "1..2 when", "1..2 when a", "2, 4"]
)
def test_what_cannot_be_read_is_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_parameter(text)
    assert len(caught.value.problems) == 1
