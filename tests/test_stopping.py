"""The two rules of early stopping: against examples computed by hand, and what must hold for any curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.tuning.stopping import PRUNERS, should_stop
from mingpt.tuning.trial import Trial

NAN = math.nan


def curve(*values, steps=None):
    return list(zip(steps or range(1, len(values) + 1), map(float, values), strict=True))


def trial(number, *values, state="done", steps=None):
    points = curve(*values, steps=steps)
    return Trial(number, {}, state, min(values) if state == "done" else NAN, points)


# Bests at step 2: 5, 3, 4, 9, 1; their median is 4. All are done, and ended at step 4.
FIVE = [
    trial(i, *values) for i, values in enumerate([(5, 7, 2, 2), (8, 3, 3, 3), (4, 6, 1, 1), (9, 9, 9, 9), (1, 2, 3, 4)])
]


@pytest.mark.parametrize(
    ("mine", "stops"),
    [
        ((9, 4.1), True),
        ((9, 4.0), False),  # the median itself goes on
        ((3.9, 50), False),  # its best counts, not its last
        ((math.inf, math.inf), True),
        ((9, 9, 9), True),  # bests at step 3: 2, 3, 1, 9, 1
        ((9, 9, 2), False),
        ((9, 9, 9, 9), False),  # where the others ended, there is nothing to save
    ],
)
def test_median_by_hand(mine, stops):
    assert should_stop(PRUNERS["median"], 9, curve(*mine), FIVE) is stops
    assert not should_stop(PRUNERS["off"], 9, curve(*mine), FIVE)


def test_median_waits_for_five_finished_trials_that_came_as_far():
    mine = curve(9, 9)
    assert not should_stop(PRUNERS["median"], 9, mine, FIVE[:4])
    for other in (
        trial(4, 1, 1, state="running"),
        trial(4, 1, 1, state="failed"),
        trial(4, 1, state="stopped"),
        trial(9, 1, 1),  # itself
        Trial(4, {}, "done", 1.0),  # reported nothing
    ):
        assert not should_stop(PRUNERS["median"], 9, mine, [*FIVE[:4], other])
    assert should_stop(PRUNERS["median"], 9, mine, [*FIVE[:4], trial(4, 1, 1, state="stopped")])


def test_trials_that_report_at_other_steps_are_compared_at_this_one():
    others = [trial(i, 8, 5, 1, steps=[10, 20, 40]) for i in range(5)]
    assert should_stop(PRUNERS["median"], 9, curve(6, steps=[25]), others)  # until 25 their best is 5
    assert not should_stop(PRUNERS["median"], 9, curve(5, steps=[25]), others)
    assert not should_stop(PRUNERS["median"], 9, curve(7, steps=[15]), others)  # until 15 it is 8


# Rungs at steps 2, 6, 18 for trials that report at 2, 4, 6, ...; bests at step 6 are 1, 2, ..., 6.
STEPS = [2, 4, 6, 8]
SIX = [trial(i, 9, 8, i + 1, 0, steps=STEPS) for i in range(6)]


@pytest.mark.parametrize(
    ("mine", "stops"),
    [
        ((9, 9, 1.5), False),  # second of 7, and two go on
        ((9, 9, 2.0), False),  # as good as the second
        ((9, 9, 2.5), True),
        ((2, 9, 9), False),  # its best counts
        ((9, 99), False),  # step 4 is no rung
        ((9,), False),  # step 2 is, and it is as good as all
        ((9.1,), True),
        ((9, 9, 9, 9), False),  # step 8 is no rung
    ],
)
def test_halving_by_hand(mine, stops):
    longer = trial(6, 9, 8, 9, 9, 9, steps=[2, 4, 6, 8, 20])  # so that 8 is not where all ended
    others = [*SIX, longer] if len(mine) == 4 else SIX
    assert should_stop(PRUNERS["halving"], 9, curve(*mine, steps=STEPS[: len(mine)]), others) is stops


def test_halving_with_few_to_compare():
    mine = curve(5)
    assert not should_stop(PRUNERS["halving"], 0, mine, [])
    assert not should_stop(PRUNERS["halving"], 1, mine, [trial(0, 6, state="running")])
    assert should_stop(PRUNERS["halving"], 1, mine, [trial(0, 4, state="running")])  # one goes on, and it is the better
    assert not should_stop(PRUNERS["halving"], 1, mine, [trial(0, 4, state="failed")])
    assert should_stop(PRUNERS["halving"], 1, mine, [trial(0, 4, 4)])
    assert not should_stop(PRUNERS["halving"], 1, mine, [trial(0, 4)])


def test_rungs_at_steps_that_are_fractions_or_begin_at_zero():
    others = [trial(i, 1, 1, 1, 1, steps=[0, 0.1, 0.2, 0.3], state="running") for i in range(3)]
    mine = curve(2, 2, 2, 2, steps=[0, 0.1, 0.2, 0.3])
    stops = [should_stop(PRUNERS["halving"], 9, mine[:n], others) for n in (1, 2, 3, 4)]
    assert stops == [False, True, False, True]


def test_rungs_are_powers_of_three():
    others = [trial(i, *[1] * 300, state="running") for i in range(3)]
    found = [n for n in range(1, 300) if should_stop(PRUNERS["halving"], 9, curve(*[2] * n), others)]
    assert found == [1, 3, 9, 27, 81, 243]


# ---- For any curves ----

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)
STATES = st.sampled_from(["done", "stopped", "running"])
OTHERS = st.lists(st.tuples(VALUES, STATES), max_size=12).map(
    lambda rows: [trial(i, *values, state=state) for i, (values, state) in enumerate(rows)]
)
RULES = st.sampled_from(["median", "halving"])


def test_each_pruner_decides_otherwise():
    others = [trial(i, *[i] * 9, state="done") for i in range(9)] + [trial(9, *[9] * 20)]
    stops = {
        name: [[should_stop(prune, 99, curve(*[mine] * n), others) for n in range(1, 9)] for mine in (0, 3.5, 6)]
        for name, prune in PRUNERS.items()
    }
    assert len({str(decisions) for decisions in stops.values()}) == len(PRUNERS)


@settings(deadline=None)
@given(RULES, VALUES, OTHERS, st.randoms())
def test_the_best_goes_on_and_so_does_any_better_one(rule, mine, others, chance):
    stops = should_stop(PRUNERS[rule], 99, curve(*mine), others)
    best = [min([*mine, *(min(v for _, v in other.curve) for other in others)])] * len(mine)
    assert not should_stop(PRUNERS[rule], 99, curve(*best), others)
    if not stops:
        assert not should_stop(PRUNERS[rule], 99, curve(*(value - 1 for value in mine)), others)
    shuffled = chance.sample(others, len(others))
    assert should_stop(PRUNERS[rule], 99, curve(*mine), shuffled) is stops


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40, unique=True), st.integers(1, 4))
def test_of_trials_that_reach_a_rung_together_one_third_goes_on(values, length):
    group = [trial(i, *[value] * length, state="running") for i, value in enumerate(values)]
    goes_on = [t.curve[0][1] for t in group if not should_stop(PRUNERS["halving"], t.number, t.curve, group)]
    expected = max(1, len(values) // 3) if length in (1, 3) else len(values)
    assert sorted(goes_on) == sorted(values)[:expected]


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_of_trials_that_come_one_by_one_the_best_so_far_always_goes_on(values):
    """Asynchronous: each is judged among those that came before."""
    rung: list[Trial] = []
    for i, value in enumerate(values):
        stops = should_stop(PRUNERS["halving"], i, curve(value), rung)
        before = sorted([*values[:i], value])
        assert stops is (value > before[max(1, (i + 1) // 3) - 1])
        assert not (stops and value == min(values[: i + 1]))
        rung.append(trial(i, value, state="stopped" if stops else "running"))


@settings(deadline=None)
@given(VALUES, OTHERS)
def test_median_against_numpy(mine, others):
    step = len(mine)
    reached = [t for t in others if len(t.curve) >= step and t.state != "running"]
    bests = [np.minimum.accumulate([v for _, v in t.curve])[step - 1] for t in reached]
    ended = step >= max((len(t.curve) for t in others if t.state == "done"), default=math.inf)
    expected = len(bests) >= 5 and min(mine) > np.median(bests) and not ended
    assert should_stop(PRUNERS["median"], 99, curve(*mine), others) == expected
