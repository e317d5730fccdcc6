"""A class of settings becomes a command line: flags, --help, a JSON file, and errors that help.

    flags win over the file, the file over the defaults

All problems are found before any is reported, so that a user mends them in one go.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from mingpt import files
from mingpt.errors import UserError
from mingpt.settings import Settings, accepted, as_kind, flag, from_text, is_repeated, nearest, shown, type_of

MISSING = "\0"  # stands for the value of a flag that was typed without one; no shell can pass it
CANCELLED = 130  # the exit code of a program that Ctrl-C ended
UNREAD = 141  # and of one that ended because nobody reads its output

S = TypeVar("S", bound=Settings)


def parse(
    settings: type[S],
    argv: list[str],
    prog: str,
    description: str,
    check: Callable[[S], Iterable[str]] = Settings.problems,
) -> tuple[S, set[str]]:
    """The settings that a command line asks for, and the names of those it (or its file) set.

    --help prints and exits. Raises UserError with a line for each problem, those that `check` finds
    in the settings among them: a command that has only a part of its settings from here gives a
    `check` of that part.
    """
    parser = build_parser(settings, prog, description)
    texts, unknown = parser.parse_known_args(list(with_equals_signs(settings, argv)))
    problems = [unknown_flag(settings, token) for token in unknown]
    path = getattr(texts, "config", None)
    values = from_file(settings, path, problems) if path not in (None, MISSING) else {}
    for f in dataclasses.fields(settings):
        text = getattr(texts, f.name)
        if text == MISSING or (is_repeated(f) and MISSING in (text or ())):
            problems.append(f"{flag(f.name)}: needs a value; {accepted(f, type_of(settings, f.name))}")
        elif is_repeated(f) and text is not None:
            values[f.name] = tuple(text)
        elif text is not None:
            values[f.name] = from_text(type_of(settings, f.name), text)
    missing = [f for f in dataclasses.fields(settings) if is_positional(f) and f.name not in values]
    problems += [f"{f.name.upper()}: is missing; {f.metadata['help']}" for f in missing]
    stand_ins = {f.name: f.name.upper() for f in missing}  # so that the others can be checked too
    result = settings(**stand_ins, **values)
    problems += check(result)
    if problems:
        raise UserError(*problems)
    return result, set(values)


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's main with the arguments typed; what a user can mend ends as lines and exit code 2."""
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(errors="replace")  # a terminal that lacks a character shows a ? and does not end the run
    try:
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it is caught that nobody reads it
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        code = CANCELLED
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stdout = None
        code = 0
    sys.exit(code)


class CtrlC:
    """While it lasts, the first Ctrl-C only asks for an end, and says so; the second ends at once, as usual."""

    def __init__(self, answer: str):
        self.answer = answer
        self.is_pressed = False

    def __enter__(self) -> CtrlC:
        self.before = signal.signal(signal.SIGINT, self.press)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def press(self, number: int, frame: FrameType | None) -> None:
        self.is_pressed = True
        signal.signal(signal.SIGINT, self.before)
        tqdm.write(f"\n{self.answer} (Ctrl-C again: end at once)", file=sys.stderr)


def build_parser(settings: type[Settings], prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    groups: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        text = help_of(f)
        if is_positional(f):
            parser.add_argument(f.name, nargs="?", metavar=f.name.upper(), help=text)
            continue
        name = f.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        usual = {int: "N", float: "X", str: "TEXT", bool: "true|false"}[type_of(settings, f.name)]
        metavar = "|".join(f.metadata["choices"]) or f.metadata["metavar"] or usual
        action = "append" if is_repeated(f) else "store"
        groups[name].add_argument(flag(f.name), metavar=metavar, help=text, action=action)
    return parser


def help_of(f: dataclasses.Field) -> str:
    default = f"follows {f.metadata['follows']}" if f.metadata["follows"] else shown(f.default)
    parts = [f.metadata["help"]]
    if f.metadata["within"]:
        parts.append(f.metadata["within"])
    if f.default not in (dataclasses.MISSING, "", ()) and (f.default is not None or f.metadata["follows"]):
        parts.append(f"(default: {default})")
    return " ".join(parts).replace("%", "%%")


def is_positional(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING


def with_equals_signs(settings: type[Settings], argv: list[str]) -> Iterator[str]:
    """Each flag as `--name=value`, so that a value may begin with a dash; a yes-or-no flag alone means true."""
    switches = {flag(f.name) for f in dataclasses.fields(settings) if type_of(settings, f.name) is bool}
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        following = tokens[0] if tokens and not tokens[0].startswith("--") else None
        if not token.startswith("--") or "=" in token or token in ("--", "--help"):
            yield token
        elif token in switches and following not in ("true", "false"):
            yield f"{token}=true"
        elif following is None:
            yield f"{token}={MISSING}"
        else:
            yield f"{token}={tokens.pop(0)}"


def from_file(settings: type[Settings], path: str, problems: list[str]) -> dict[str, Any]:
    """The settings in a JSON file; what is wrong with it is added to `problems`."""
    try:
        values = files.read_json_object(Path(path))
    except OSError as error:
        problems.append(f"--config {path}: cannot be read ({error.strerror})")
        return {}
    except ValueError as error:
        problems.append(f'--config {path}: is not JSON such as {{"n_layer": 6}} ({error})')
        return {}
    names = [f.name for f in dataclasses.fields(settings)]
    problems += [f"--config {path}: unknown key {key}{nearest(key, names)}" for key in values if key not in names]
    repeated = [f.name for f in dataclasses.fields(settings) if is_repeated(f)]
    return {
        name: tuple(value) if name in repeated and type(value) is list else as_kind(type_of(settings, name), value)
        for name, value in values.items()
        if name in names
    }


def unknown_flag(settings: type[Settings], token: str) -> str:
    names = [flag(f.name) for f in dataclasses.fields(settings)]
    name = token.split("=")[0]
    if not token.startswith("-"):
        return f"{token}: not expected here; flags begin with --"
    return f"{name}: unknown flag{nearest(name, names)}"
