"""One parameter: its values on [0, 1], its written form, and what is refused."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Float, Int, parse_parameter

NUMBERS = st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12)
VALUE = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.lists(VALUE, min_size=1, max_size=4, unique_by=lambda value: (type(value) is bool, value))


@st.composite
def parameters(draw):
    when = draw(st.none() | st.dictionaries(st.text(max_size=6), VALUES, max_size=2))
    kind = draw(st.sampled_from([Float, Int, Choice]))
    if kind is Choice:
        return Choice(*draw(VALUES), when=when)
    low, high = sorted(draw(st.lists(st.integers(-1000, 1000), min_size=2, max_size=2)))
    scale = 1 if kind is Int else draw(st.sampled_from([1, 0.5, 1e-3, 1e6]))
    log = draw(st.booleans()) and low > 0
    step = None if log or low == high or draw(st.booleans()) else draw(st.integers(1, high - low)) * scale
    return kind(low * scale, high * scale, log, step, when)


@settings(max_examples=300, deadline=None)
@given(p=parameters(), u=st.floats(0, 1))
def test_each_value_belongs_and_each_parameter_reads_back(p, u):
    again = parse_parameter(str(p))
    assert again == p and type(again) is type(p) and str(again) == str(p)
    value = p.value(u)
    assert p.contains(value) and 0 <= p.coordinate(value) <= 1 and p.value(p.coordinate(value)) == value
    assert repr(again.value(u)) == repr(value)
    if p.k is not None:
        assert p.coordinate(value) == p.at(p.index(np.array([u])))[0]
        assert p.index(p.at(np.arange(min(p.k, 50)))).tolist() == list(range(min(p.k, 50)))


@pytest.mark.parametrize(
    "text, parameter",
    [
        ("1e-05..1 log", Float(1e-5, 1, log=True)),
        ("0.0..1.0", Float(0, 1)),
        ("16..256 step 16", Int(16, 256, step=16)),
        ("0..0.5 step 0.1", Float(0, 0.5, step=0.1)),
        ('8,"8","a, b","","x when y=1",true,null,"null"', Choice(8, "8", "a, b", "", "x when y=1", True, None, "null")),
        ("0.5..1 when kind=sgd and depth=1,2", Float(0.5, 1, when={"kind": ["sgd"], "depth": [1, 2]})),
    ],
)
def test_the_written_form(text, parameter):
    assert str(parameter) == text
    assert parse_parameter(text) == parameter
    assert parse_parameter(" 2, .5,4 ") == Choice(4, 2, 0.5) and Choice(1) != Choice(True) != Choice("true")


BAD_TEXT = ["", "1..2..3", "a..b", "1..8 logs", "1..8 step", "1..2 when a", "a b", "1e-5...1 log", '"a', "1,,2"]
BAD = [
    (lambda: Int(8, 1), "low must not exceed high"),
    (lambda: Float(0, 1, log=True), "above 0 with log"),
    (lambda: Float(0, math.inf), "finite number"),
    (lambda: Float(-1e308, 1e308), "too large"),
    (lambda: Float("0", 1), "must be numbers"),
    (lambda: Int(1, 2.5), "whole numbers"),
    (lambda: Float(0, 1, step=2), "step must be"),
    (lambda: Int(1, 8, log=True, step=2), "log and step cannot be combined"),
    (lambda: Choice(), "must have values"),
    (lambda: Choice(1, 1.0), "each of them once"),
    (lambda: Choice([1, 2], [3]), "must be text, a finite number"),
    (lambda: Choice(np.zeros((9, 9))), "must be text, a finite number"),
    *((lambda text=text: parse_parameter(text), "must be") for text in BAD_TEXT),
]


@pytest.mark.parametrize("make, words", BAD)
def test_what_makes_no_sense_is_one_line(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


def test_numpy_values_become_those_of_python():
    values = Choice(*np.logspace(-2, 0, 3), *np.array(["a"]), *np.array([True])).values
    assert values == (0.01, 0.1, 1.0, "a", True)
    assert [type(value) for value in values] == [float, float, float, str, bool]
    assert Int(np.int64(1), np.int64(8)) == Int(1, 8) and type(Int(np.int64(1), np.int64(8)).value(0.5)) is int
    assert Float(np.float64(0), 1) == Float(0, 1)


@given(low=st.integers(-100, 100), steps=st.integers(1, 50), step=st.sampled_from(["0.1", "0.007", "1e-9", "2.5"]))
def test_steps_are_exact_decimals(low, steps, step):
    first = Decimal(low) * Decimal(step)
    p = Float(float(first), float(first + steps * Decimal(step)), step=float(step))
    assert [p.value(u) for u in p.at(np.arange(p.k))] == [float(first + j * Decimal(step)) for j in range(steps + 1)]


def test_one_value_is_a_parameter():
    for p in (Int(3, 3), Float(2, 2), Int(3, 3, log=True), Float(0.1, 0.1, log=True)):
        assert p.k == 1 and p.value(0.0) == p.value(1.0) == p.low and p.coordinate(p.low) == 0.5


@given(u=st.floats(0, 1))
def test_many_values_cost_nothing(u):
    huge = math.factorial(50)
    sizes = [(Int(0, huge), huge + 1), (Int(1, huge, log=True), huge), (Float(0, 1, step=1e-9), 10**9 + 1)]
    for p, k in sizes:
        value = p.value(u)
        assert p.k == k and p.low <= value <= p.high and p.contains(value)
        assert abs(p.at(p.index(u)) - u) <= 1e-8 or p.log


@given(ends=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=2), u=st.floats(0, 1), log=st.booleans())
def test_continuous_values_are_short_and_stay_inside(ends, u, log):
    low, high = sorted(ends)
    p = Float(low, high, log)
    value = p.value(u)
    assert low <= value <= high
    if high > 1.01 * low:
        assert value in (low, high) or value == float(f"{value:.6g}")
        exact = math.exp(math.log(low) + u * math.log(high / low)) if log else low + u * (high - low)
        assert value == pytest.approx(exact, rel=1e-5)


def test_scales_are_even_in_the_value_or_in_its_logarithm():
    counts = np.bincount([Int(3, 6).value(u) for u in np.linspace(0, 1, 4001)])[3:]
    assert counts.max() - counts.min() <= 2  # both ends as often as the others
    assert [Int(1, 100, log=True).value(u) for u in (0, 0.5, 1)] == [1, 7, 100]  # 0.5 to 100.5: the middle is 7.09
    assert Float(1e-4, 1, log=True).value(0.5) == 0.01
