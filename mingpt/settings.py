"""Settings: a pydantic model whose fields carry their help text, range and group.

A class of settings derives from Settings and declares each field with `setting`. cli.py turns such a class into
flags, --help and the keys of a JSON file; pydantic checks types, ranges and choices.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from mingpt.errors import UserError


def setting(
    default: Any = PydanticUndefined, help: str = "", *, group: str = "", follows: str = "", metavar: str = "", **limits
) -> Any:
    """A field of a class of settings. Without a default it is a positional argument on the command line.

    help     what it is, and its unit
    group    the heading of --help under which it stands; left out: that of the class
    follows  what decides the value where none is given
    metavar  what --help shows in place of the value
    limits   ge, gt, le, lt as in pydantic
    """
    extra = {"group": group, "follows": follows, "metavar": metavar}
    return Field(default, description=help, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """Base of a class of settings. Raises UserError with a line for every problem at once."""

    group: ClassVar[str] = ""
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any):
        problems: dict[str, str] = {}
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = {str(e["loc"][0]): problem_line(type(self), str(e["loc"][0]), e) for e in error.errors()}
            # what is valid is still checked for conflicts, so that all problems are reported together
            valid = {name: value for name, value in values.items() if name not in problems}
            required = {name: ("",) if is_tuple(type(self), name) else "" for name in problems.keys() - values.keys()}
            super().__init__(**valid, **required)
        lines = [*problems.values(), *(line for names, line in self.conflicts() if problems.keys().isdisjoint(names))]
        if lines:
            raise UserError(*lines)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Settings that contradict each other: their names, and the problem in a line."""
        return iter(())

    def given(self) -> dict[str, Any]:
        """The settings that were asked for. None, where it is the default, asks for nothing."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in fields if name in self.model_fields_set}
        return {name: value for name, value in given.items() if value is not None or fields[name].default is not None}


def problem_line(settings: type[Settings], name: str, error: Any) -> str:
    """A pydantic error of the setting `name` as one line for a user."""
    if error["type"] == "missing":
        return f"{name.upper()}: is missing; {settings.model_fields[name].description}"
    if error["type"] == "extra_forbidden":
        return f"--{name}: unknown setting{nearest(name, settings.model_fields)}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"--{name} {format_value(error['input'])}: {message}{nearest(error['input'], choices(settings, name))}"


def value_type(settings: type[Settings], name: str) -> Any:
    """The type of a setting's value, apart from a None that it may be."""
    annotation = settings.model_fields[name].annotation
    is_optional = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation)[0] if is_optional else annotation


def is_tuple(settings: type[Settings], name: str) -> bool:
    return typing.get_origin(value_type(settings, name)) is tuple


def choices(settings: type[Settings], name: str) -> tuple[str, ...]:
    """The words that a setting accepts; empty where it is not a choice among words."""
    kind = value_type(settings, name)
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def validate_value(settings: type[Settings], name: str, value: Any) -> Any:
    """One setting's value with its type. Raises UserError where it is not accepted."""
    field = settings.model_fields[name]
    try:
        return TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
    except ValidationError as error:
        raise UserError(problem_line(settings, name, error.errors()[0])) from None


def format_value(value: Any) -> str:
    """A value as it would be typed: an empty text as '', true for True, null for None."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return ", ".join(map(format_value, value))
    return repr(value) if value == "" or not isinstance(value, str) else value


def nearest(name: Any, names: Iterable[str]) -> str:
    """A hint at the right name for a misspelt one, as the end of a sentence; empty where none is close.

    >>> nearest("n_layr", ["n_layer", "n_head"])
    '; did you mean n_layer?'
    """
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""
