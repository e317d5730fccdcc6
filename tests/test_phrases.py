"""A phrase file: choices and slots, and what is refused, with a line that says where."""

from __future__ import annotations

import random

import pytest
from conftest import BAKERY

from mingpt.data.phrases import expand, fill, read_phrases, slots_of
from mingpt.errors import UserError


def write(tmp_path, text):
    path = tmp_path / "phrases.ini"
    path.write_text(text, encoding="utf-8")
    return path


def test_choices_may_be_nested_and_empty():
    template = "(please|) cut (it (now|later)|the cake)"
    expected = {f"{a}cut {b}" for a in ("please ", "") for b in ("it now", "it later", "the cake")}
    assert {expand(random.Random(seed), template) for seed in range(200)} == expected


def test_slots_are_filled_and_those_without_a_value_stay():
    assert slots_of("{a} or {b}, not {a}") == ["a", "b", "a"]
    assert fill("{a} or {b}", {"a": "{b}"}) == "{b} or {b}"


def test_a_phrase_file_is_read(tmp_path):
    phrases = read_phrases(write(tmp_path, "\ufeff" + BAKERY))
    order, hours = phrases.intents[:2]
    assert (order.name, order.needs, order.user[1]) == ("order_cake", ["cake", "day"], "bake me a {cake} for {day}")
    assert hours.facts == ["open"] and hours.unknown == "Please look at our door."
    assert phrases.values["cake"] == ["{fruit} cake", "tart"] and phrases.invented == ["fruit"]
    assert phrases.facts == {"shop", "open", "tone"}
    assert phrases.synonyms["bun"] == ["bun", "bread roll"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("for {day}", "for {week}", "[intent order_cake] user: {week} has no [values]: bake me a {week}"),
        ("bake me", "(bake me", "[intent order_cake] user: unbalanced parentheses: (bake me a {cake} for {day}"),
        (
            "needs = cake day",
            "needs = cake date",
            "[intent order_cake] needs date, but there is no section [slot date]",
        ),
        ("ready on {day}", "at {open}", "[intent order_cake] assistant: {open} is not among its needs or facts"),
        ("[tones]", "[tone]", "lacks a section or a key: 'tones'"),
        ("assistant = The", "answer = The", "lacks a section or a key"),
        ("[system]\n", "", "is not a phrase file: "),
        ("[slot cake]", "[intent hours]", "is not a phrase file: "),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, old, new, problem):
    assert old in BAKERY
    path = write(tmp_path, BAKERY.replace(old, new).replace("me a {cake} for {week}", "me a {week}"))
    with pytest.raises(UserError) as error:
        read_phrases(path)
    assert any(line.startswith(f"{path}: ") and problem in line for line in error.value.problems), error.value.problems


def test_a_missing_file_and_one_that_is_not_utf8_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.ini: cannot be read \(No such file"):
        read_phrases(tmp_path / "none.ini")
    (tmp_path / "latin.ini").write_bytes("[x]\ny = caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.ini: is not a phrase file: 'utf-8' codec"):
        read_phrases(tmp_path / "latin.ini")
