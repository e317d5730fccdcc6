"""A class of settings becomes a command line: flags, --help, a JSON config file, and errors in one line each.

    flags override the config file, which overrides the defaults

All problems are collected before any is reported, so that a user can fix them in one go.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from mingpt import files
from mingpt.errors import UserError, problems_of
from mingpt.settings import Settings, choices, format_value, is_tuple, nearest, value_type

MISSING = "\0"  # stands for the value of a flag that was typed without one; no shell can pass it
CANCELLED = 130  # exit code of a program that Ctrl-C ended
BROKEN_PIPE = 141  # and of one that ended because nobody reads its output
METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT"}

S = TypeVar("S", bound=Settings)


def parse(settings: type[S], argv: list[str], prog: str, description: str) -> S:
    """The settings that a command line asks for. --help prints and exits; UserError has a line for each problem."""
    parser = build_parser(settings, prog, description)
    namespace, unknown = parser.parse_known_args(list(join_values(settings, argv)))
    flags: dict[str, Any] = vars(namespace)
    problems = [unknown_argument(settings, token) for token in unknown]
    missing = [name for name, value in flags.items() if value == MISSING or (type(value) is list and MISSING in value)]
    problems += [f"--{name}: needs a value" for name in missing]
    flags = {name: value for name, value in flags.items() if name not in missing}
    try:
        values = files.read_json(Path(flags["config"])) if "config" in flags else {}
    except (UserError, OSError) as error:
        problems += (f"--config {problem}" for problem in problems_of(error))
        values = {}
    try:
        result = settings(**values | flags)
    except UserError as error:
        for problem in error.problems:
            name = problem.removeprefix("--").replace(":", " ").partition(" ")[0]
            is_in_file = name in values and name not in flags
            problems.append(f"--config {flags['config']}: {problem.removeprefix('--')}" if is_in_file else problem)
    if problems:
        raise UserError(*problems)
    return result


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's main with the arguments typed. What a user can fix ends as lines on stderr and exit code 2."""
    for output in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        output.reconfigure(errors="replace")  # a terminal that lacks a character shows a ?
    try:
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a broken pipe is caught
    except KeyboardInterrupt:
        print_error("\nstopped")
        code = CANCELLED
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        sys.stdout = None
        code = 0
    except (UserError, OSError) as error:
        for problem in problems_of(error):
            print_error(f"error: {problem}")
        code = 2
    sys.exit(code)


def print_error(line: str) -> None:
    """Print a line on stderr, once where torchrun started several processes (distributed.py)."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(line, file=sys.stderr)


class StopRequest:
    """A context in which the first Ctrl-C or SIGTERM only sets `is_set` and prints a notice; a second Ctrl-C stops.

    SIGTERM is what a cluster sends before it takes a machine back.
    """

    def __init__(self, notice: str):
        self.notice = notice
        self.is_set = False

    def __enter__(self) -> StopRequest:
        self.previous = {number: signal.signal(number, self.set) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])
        if not self.is_set:  # else the program is about to end, and does so undisturbed
            signal.signal(signal.SIGTERM, self.previous[signal.SIGTERM])

    def set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a cluster may send it to us and to torchrun, which passes it on
        print_error(f"\n{self.notice} (Ctrl-C again to stop at once)")


def build_parser(settings: type[Settings], prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    groups: dict[str, Any] = {}
    for name, f in settings.model_fields.items():
        if f.is_required():
            count = "*" if is_tuple(settings, name) else "?"
            parser.add_argument(name, nargs=count, metavar=name.upper(), help=help_text(settings, name))
            continue
        group = f.json_schema_extra["group"] or group_of(settings, name)
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        metavar = "|".join(choices(settings, name)) or f.json_schema_extra["metavar"]
        groups[group].add_argument(
            f"--{name}",
            metavar=metavar or METAVARS.get(value_type(settings, name), "TEXT"),
            action="append" if type(f.default) is tuple else "store",
            help=help_text(settings, name),
        )
    return parser


def group_of(settings: type[Settings], name: str) -> str:
    """The group of the class that declares a setting."""
    return next(c.group for c in reversed(settings.__mro__) if name in inspect.get_annotations(c))


def help_text(settings: type[Settings], name: str) -> str:
    """The description, with the range and the default."""
    f = settings.model_fields[name]
    symbols = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    notes = [f"{symbols[key]} {getattr(limit, key)}" for limit in f.metadata for key in symbols if hasattr(limit, key)]
    if f.json_schema_extra["follows"]:
        notes.append(f"default: from {f.json_schema_extra['follows']}")
    elif not f.is_required() and f.default not in (None, "", ()):
        notes.append(f"default: {format_value(f.default)}")
    return f"{f.description} ({', '.join(notes)})".removesuffix(" ()").replace("%", "%%")


def join_values(settings: type[Settings], argv: list[str]) -> Iterator[str]:
    """Each flag as `--name=value`, so that a value may begin with a dash; a boolean flag alone means true."""
    switches = {f"--{name}" for name in settings.model_fields if value_type(settings, name) is bool}
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        following = tokens[0] if tokens and not tokens[0].startswith("--") else None
        if not token.startswith("--") or "=" in token or token in ("--", "--help"):
            yield token
        elif token in switches and following not in ("true", "false"):
            yield f"{token}=true"
        else:
            yield f"{token}={MISSING if following is None else tokens.pop(0)}"


def unknown_argument(settings: type[Settings], token: str) -> str:
    name = token.partition("=")[0]
    if not token.startswith("-"):
        return f"{token}: unexpected argument; flags begin with --"
    return f"{name}: unknown flag{nearest(name, [f'--{field}' for field in settings.model_fields])}"
