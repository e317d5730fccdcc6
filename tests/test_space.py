"""Named parameters, conditions, and the map to the unit cube and back."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.errors import UserError
from mingpt.tuning import Choice, Float, Int, Space

MIXED = {
    "lr": Float(1e-5, 1, log=True),
    "momentum": Float(0.5, 0.99, when={"optimizer": ["sgd", "muon"]}),
    "width": Int(16, 256, step=16),
    "optimizer": Choice("adamw", "sgd", "muon"),
    "nesterov": Choice(True, False, when={"optimizer": ["sgd"]}),
    "decay": Int(1, 3, when={"dropout": [0], "nesterov": [True]}),
    "dropout": Float(0.0, 0.5, step=0.1),
}


def expected_names(config):
    names = set(MIXED) - {"momentum", "nesterov", "decay"}
    names |= {"momentum"} if config["optimizer"] in ("sgd", "muon") else set()
    names |= {"nesterov"} if config["optimizer"] == "sgd" else set()
    return names | ({"decay"} if config["dropout"] == 0 and config.get("nesterov") else set())


@settings(max_examples=200, deadline=None)
@given(u=st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_each_point_has_a_configuration_in_the_space_and_lies_where_snap_says(u):
    space, u = Space(MIXED), np.array(u)
    config = space.config(u)
    assert space.contains(config) and set(config) == expected_names(config)
    np.testing.assert_allclose(space.point(config), space.snap(u[None])[0], atol=1e-5)  # 6 digits of a value
    assert space.active(u[None])[0].tolist() == [name in config for name in space.names]
    assert space.config(space.point(config)) == config == Space.parse(space.as_text()).config(u)
    assert space.key(space.config(space.point(config))) == space.key(config)


def test_a_configuration_belongs_only_with_the_right_names_and_values():
    space = Space(MIXED)
    good = {"lr": 0.1, "width": 32, "optimizer": "adamw", "dropout": 0.3}
    assert space.contains(good) and space.contains({**good, "width": 32.0})
    changes = [{"lr": 2.0}, {"width": True}, {"width": 33}, {"width": "32"}, {"optimizer": "lion"}]
    for change in [*changes, {"optimizer": "sgd"}, {"dropout": 0.25}, {"momentum": 0.9}, {"other": 1}]:
        assert not space.contains({**good, **change}), change
    assert not space.contains({"width": 32, "optimizer": "adamw", "dropout": 0.3})


def test_keys_and_conditions_compare_numbers_by_value_and_nothing_else():
    children = {"y": Int(0, 1, when={"x": [1.0]}), "z": Int(2, 3, when={"x": [True]})}
    space = Space({"x": Choice(1, True, "1", None), **children})
    configs = list(space.configurations())
    assert [set(config) - {"x"} for config in configs] == [{"y"}, {"y"}, {"z"}, {"z"}, set(), set()]
    assert len({space.key(config) for config in configs}) == space.size == 6
    assert space.key({"x": 1, "y": 0}) == space.key({"y": 0.0, "x": 1.0})


def test_size_is_the_number_of_configurations():
    when = {"b": {"kind": ["y", "z"]}, "c": {"b": [2], "kind": ["z"]}}
    kinds = {"a": Int(1, 3), "kind": Choice("x", "y", "z"), "b": Choice(1, 2, when=when["b"])}
    space = Space({**kinds, "c": Choice("p", "q", when=when["c"])})
    expected = []
    for a, kind in itertools.product((1, 2, 3), "xyz"):
        for b in (1, 2) if kind in "yz" else (None,):
            for c in "pq" if b == 2 and kind == "z" else (None,):
                config = {"a": a, "kind": kind, "b": b, "c": c}
                expected.append({name: value for name, value in config.items() if value is not None})
    assert list(space.configurations()) == expected
    assert space.size == len(expected) == 3 * (1 + 2 + 3)
    assert Space({**space.parameters, "x": Float(0, 1)}).size is None
    huge = Space({"n": Int(1, 10**30), "m": Choice("a", "b"), "o": Int(1, 10**9, when={"m": ["b"]})})
    assert huge.size == 10**30 * (1 + 10**9) and next(huge.configurations()) == {"n": 1, "m": "a"}


RULE = "must name a discrete parameter of the space and one of its values"


@pytest.mark.parametrize(
    "parameters, lines",
    [
        ({"a": (0, 1), "b": [1, 2]}, ["a: must be Float, Int or Choice", "b: must be Float, Int or Choice"]),
        ({"a": Int(1, 2, when={"b": [1]})}, [f"a: its condition b=1 {RULE}"]),
        ({"a": Int(1, 2, when={"b": [1]}), "b": Float(0, 1)}, [f"a: its condition b=1 {RULE}"]),
        ({"a": Int(1, 2, when={"b": [3, 7, 8]}), "b": Int(1, 3)}, [f"a: its condition b={v} {RULE}" for v in (7, 8)]),
        ({"a": Int(1, 2, when={"a": [1]})}, ["a: conditions form a circle, a -> a"]),
        ({n: Int(1, 2, when={q: [1]}) for n, q in ("ab", "ba")}, ["a: conditions form a circle, a -> b -> a"]),
        ({}, ["a space must have parameters"]),
    ],
)
def test_what_makes_no_sense_is_a_line_each(parameters, lines):
    with pytest.raises(UserError) as caught:
        Space(parameters)
    assert list(caught.value.problems) == lines
