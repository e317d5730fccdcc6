"""What a setting is: a dataclass field that knows its help, range and unit, and can check itself.

A class of settings is a dataclass that derives from Settings and declares each field with
`setting`. cli.py turns such a class into flags, --help and the keys of a JSON file.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator
from typing import Any

LARGEST = 2**53  # a whole number beyond it counts as infinite: floats, and much of torch, no longer tell it apart


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    group: str = "",
    within: str = "",
    choices: Iterable[str] = (),
    follows: str = "",
    metavar: str = "",
) -> Any:
    """A field of a class of settings. Without a default it is positional on the command line.

    help     what it is, and its unit
    group    the heading of --help under which it stands
    within   the accepted interval as mathematicians write it: "[0, 1)" has 0 and not 1
    choices  the accepted words, where the value is one of a few
    follows  for a default of None: what decides it instead
    metavar  what --help shows in place of the value
    """
    metadata = dict(help=help, group=group, within=within, choices=tuple(choices), follows=follows, metavar=metavar)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Base of a class of settings. Knows what is wrong with them; a subclass adds what does not fit together."""

    def problems(self) -> list[str]:
        """A line for everything that is wrong; empty where all is well."""
        wrong = self.out_of_range()
        usable = copy.copy(self)
        for f in dataclasses.fields(self):
            if f.name in wrong:
                setattr(usable, f.name, f.default)
        return [*wrong.values(), *(line for names, line in usable.misfits() if wrong.keys().isdisjoint(names))]

    def out_of_range(self) -> dict[str, str]:
        """A line for each setting that is wrong on its own, whatever the others are, by its name."""
        found = {}
        for f in dataclasses.fields(self):
            kind, value = type_of(type(self), f.name), getattr(self, f.name)
            if not is_accepted(f, kind, value):
                is_quoted = type(value) is str and type(from_text(kind, value)) is not str  # in a file: "6" for 6
                note = ", not a text" if is_quoted else nearest(value, f.metadata["choices"])
                given = ", ".join(map(shown, value)) if type(value) is tuple else shown(value)
                found[f.name] = f"{flag(f.name)} {given}: {accepted(f, kind)}{note}"
        return found

    def misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Settings that do not fit together: their names, and what is wrong in a line.

        Called with every setting in its range; what is said of one that was not is dropped.
        """
        return iter(())


def flag(name: str) -> str:
    return f"--{name}"


def type_of(settings: type, name: str) -> type:
    """int, float, str or bool: the type of a setting's value, apart from a None that it may be.

    >>> from mingpt.config import TrainConfig
    >>> type_of(TrainConfig, "learning_rate")
    <class 'float'>
    """
    hint = typing.get_type_hints(settings)[name]
    return next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)


def from_text(kind: type, text: str) -> Any:
    """A typed value of a flag's text; the text itself where it is none, for `out_of_range` to name."""
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    try:
        return kind(text)
    except ValueError:
        return text


def as_kind(kind: type, value: Any) -> Any:
    """A whole number as a float where one is meant: neither JSON nor a reader tells 1 from 1.0."""
    is_whole = kind is float and type(value) is int and abs(value) <= LARGEST
    return float(value) if is_whole else value


def is_accepted(f: dataclasses.Field, kind: type, value: Any) -> bool:
    """Whether a setting takes a value, which may be of any type."""
    if is_repeated(f):
        return type(value) is tuple and all(type(part) is str and part for part in value)
    value = as_kind(kind, value)
    if value is None:
        return f.default is None
    if type(value) is not kind or (kind is int and abs(value) > LARGEST):
        return False
    if f.metadata["choices"]:
        return value in f.metadata["choices"]
    if value == "":
        return f.default == ""
    return not f.metadata["within"] or is_within(value, f.metadata["within"])


def is_repeated(f: dataclasses.Field) -> bool:
    """Whether a flag may be typed several times; its value is then a tuple of texts."""
    return type(f.default) is tuple


def is_within(value: float, interval: str) -> bool:
    """
    >>> is_within(0, "[0, 1)"), is_within(1, "[0, 1)"), is_within(float("inf"), "(0, inf)")
    (True, False, False)
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def accepted(f: dataclasses.Field, kind: type) -> str:
    """What a setting takes, for a person: "a whole number in [1, inf)"."""
    if f.metadata["choices"]:
        return "accepted are " + ", ".join(f.metadata["choices"])
    if is_repeated(f):
        return "a text of at least one character is accepted"
    noun = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
    return f"{noun} in {f.metadata['within']} is accepted" if f.metadata["within"] else f"{noun} is accepted"


def shown(value: Any) -> str:
    """A value as it would be typed: an empty text as '', true as true; nothing as null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" or not isinstance(value, str) else value


def nearest(name: Any, names: Iterable[str]) -> str:
    """The right name for a misspelt one, as the end of a sentence; nothing where none is near.

    >>> nearest("n_layr", ["n_layer", "n_head"])
    '; the nearest is n_layer'
    """
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; the nearest is {near[0]}" if near else ""
