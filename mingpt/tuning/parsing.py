"""What a person types behind `--search NAME=`, as a parameter of a space."""

from __future__ import annotations

from typing import Any

from mingpt.errors import UserError
from mingpt.tuning.parameters import Choice, Float, Int, Parameter


def parse_parameter(text: str) -> Parameter:
    """What a person types: a range, a list of values, and perhaps a condition.

    >>> parse_parameter("1e-5..1 log")
    Float(low=1e-05, high=1.0, log=True, step=None, when=None)
    >>> parse_parameter("0.5..0.99 when optimizer=sgd").when
    {'optimizer': ['sgd']}
    >>> parse_parameter("2,4,8").values
    (2, 4, 8)
    """
    body, _, condition = text.partition(" when ")
    when = parse_condition(condition) if condition.strip() else None
    words = body.split()
    if ".." not in body:
        if len(words) != 1:
            raise UserError(f"{body.strip() or 'nothing'}: a list such as 2,4,8 or a range such as 1..8 is accepted")
        return Choice(*map(typed, words[0].split(",")), when=when)
    ends = [typed(end) for end in words[0].split("..")]
    log, step, rest = False, None, words[1:]
    while rest:
        word = rest.pop(0)
        if word == "log":
            log = True
        elif word == "step" and rest:
            step = typed(rest.pop(0))
        else:
            raise UserError(f"{word}: after a range only log, step NUMBER and when NAME=VALUE are accepted")
    numbers = ends if step is None else [*ends, step]
    if len(ends) != 2 or any(type(n) not in (int, float) for n in numbers):
        raise UserError(f"{words[0]}: a range is two numbers, such as 1..8 or 1e-5..1")
    if all(type(n) is int for n in numbers):
        return Int(*ends, log=log, step=step, when=when)
    return Float(*map(float, ends), log=log, step=None if step is None else float(step), when=when)


def parse_condition(text: str) -> dict[str, list[Any]]:
    """`optimizer=sgd,adam and n_layer=2`"""
    when = {}
    for part in text.split(" and "):
        name, equals, values = part.strip().partition("=")
        if not (name and equals and values):
            raise UserError(f"when {text.strip()}: a condition is NAME=VALUE, or NAME=VALUE,VALUE")
        when[name.strip()] = [typed(value) for value in values.strip().split(",")]
    return when


def typed(word: str) -> Any:
    """The number, the truth value or the text that a word stands for."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
