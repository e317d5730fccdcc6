"""A phrase file: the wording from which dialogues are generated, for anyone to edit. data/shop.ini is one.

    [intent cancel_order]
    needs = order
    user =
        (please|) cancel order {order}
        i changed my mind and do not want it
    assistant = Order {order} is cancelled.

It is read by configparser. A key has one phrase per line; (a|b|) is a choice, possibly of nothing, and {slot} is
replaced by a value. data/README.md describes all sections.
"""

from __future__ import annotations

import configparser
import functools
import random
import re
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mingpt.errors import UserError

CHOICE, SLOT = re.compile(r"\(([^()]*)\)"), re.compile(r"\{(\w+)\}")
LISTS = ("user", "again", "about", "reply", "recall", "correct", "needs", "facts")  # the other keys are one text
TEXTS = ("user", "again", "about", "reply", "recall", "correct", "assistant", "unknown", "answer")


@dataclass(frozen=True)
class Intent:
    """What a user may want: [intent NAME]."""

    name: str
    user: list[str]
    assistant: str
    unknown: str = ""  # the answer where a fact is unknown
    opening: str = ""  # before the assistant asks for a slot
    again: list[str] = field(default_factory=list)  # phrasings that lean on values told before
    about: list[str] = field(default_factory=list)  # noun phrases
    needs: list[str] = field(default_factory=list)  # slots that the answer needs, asked for where they are missing
    facts: list[str] = field(default_factory=list)  # of the system message
    weight: str = "1"  # how often it comes, relative to others


@dataclass(frozen=True)
class Slot:
    """A value that users tell: [slot NAME]."""

    name: str
    ask: str
    reply: list[str]
    correct: list[str] = field(default_factory=list)
    recall: list[str] = field(default_factory=list)  # questions for a value told before
    answer: str = ""  # to these questions
    unknown: str = ""  # the same, where it has not been told


@dataclass(frozen=True)
class Phrases:
    """All of a phrase file."""

    intents: list[Intent]
    slots: dict[str, Slot]
    values: dict[str, list[str]]  # of slots, facts and of the lists that they consist of
    invented: list[str]  # names of values for which words may be invented
    system: dict[str, list[str]]  # the sentences of the system message
    tones: dict[str, str]
    noise: dict[str, list[str]]  # opener, closer, frame, join, dropped
    synonyms: dict[str, list[str]]  # of each word or group of words

    @functools.cached_property
    def facts(self) -> set[str]:
        """The slots of the system message."""
        return {slot for lines in self.system.values() for line in lines for slot in slots_of(line)}

    @functools.cached_property
    def split_user(self) -> dict[str, tuple[list[str], list[str]]]:
        """By intent, the phrasings of users: those for training, and those held out."""
        return {
            intent.name: tuple([line for line in intent.user if is_held_out(line) == part] for part in (False, True))
            for intent in self.intents
        }

    def may_be_invented(self, name: str) -> bool:
        """Whether a value may contain an invented word."""
        lists = {slot for value in self.values[name] for slot in slots_of(value)}
        return name in self.invented or any(map(self.may_be_invented, lists))

    @functools.cached_property
    def synonym_pattern(self) -> re.Pattern:
        words = sorted(self.synonyms, key=len, reverse=True)  # the longest that fits
        return re.compile(rf"(?<![\w{{])({'|'.join(map(re.escape, words))})(?![\w}}'])", re.IGNORECASE)


def expand(rng: random.Random, template: str) -> str:
    """A template with its choices made.

    >>> expand(random.Random(1), "(please|) cancel (it|that (one|thing))")
    'please cancel that one'
    """
    while "(" in template:
        template = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return " ".join(template.split())


def fill(template: str, values: dict[str, str]) -> str:
    """A template with those of its slots replaced that have a value.

    >>> fill("Order {order} is cancelled.", {"order": "4711"})
    'Order 4711 is cancelled.'
    """
    return SLOT.sub(lambda match: values.get(match[1], match[0]), template)


def slots_of(template: str) -> list[str]:
    """The slots of a template, in order.

    >>> slots_of("send {order} to {town}")
    ['order', 'town']
    """
    return SLOT.findall(template)


def is_held_out(text: str) -> bool:
    """Whether a phrasing, a value or an invented word never occurs in training: a tenth of all."""
    return zlib.crc32(text.encode()) % 10 == 0


def read_phrases(path: Path) -> Phrases:
    """Parse and check a phrase file. UserError where it is missing or not valid."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes=";", interpolation=None)
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a phrase file: {str(error).splitlines()[0]}") from None
    kinds: dict[str, dict[str, dict[str, Any]]] = {"intent": {}, "slot": {}}
    for section in parser.sections():
        kind, _, name = section.partition(" ")
        kinds.setdefault(kind, {})[name] = {key: lines_of(value) for key, value in parser[section].items()}
    try:
        phrases = build(kinds)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: lacks a section or a key: {error}") from None
    if problems := find_problems(phrases):
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    return phrases


def lines_of(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]


def build(kinds: dict[str, dict[str, dict[str, list[str]]]]) -> Phrases:
    def create(kind: type, name: str, section: dict[str, list[str]]) -> Any:
        values = {key: lines if key in LISTS else " ".join(lines) for key, lines in section.items()}
        values |= {key: values[key][0].split() for key in ("needs", "facts") if key in values}
        return kind(name=name, **values)

    values = {
        name: [v.strip() for line in lines for v in line.split(" | ")] for name, lines in kinds["values"][""].items()
    }
    groups = [[word.strip() for word in line.split("|")] for line in kinds["synonyms"][""]["words"]]
    return Phrases(
        intents=[create(Intent, name, section) for name, section in kinds["intent"].items()],
        slots={name: create(Slot, name, section) for name, section in kinds["slot"].items()},
        values=values,
        invented=" ".join(values.pop("invented")).split(),
        system=kinds["system"][""],
        tones={name: " ".join(lines) for name, lines in kinds["tones"][""].items()},
        noise=kinds["noise"][""],
        synonyms={word: group for group in groups for word in group},
    )


def find_problems(phrases: Phrases) -> list[str]:
    """What does not fit together: slots without values, choices without an end."""
    problems = []
    for intent in phrases.intents:
        for key, known in (("assistant", {*intent.needs, *intent.facts}), ("unknown", {*intent.needs})):
            if others := {*slots_of(getattr(intent, key))} - known:
                problems.append(f"[intent {intent.name}] {key}: {{{min(others)}}} is not among its needs or facts")
    for item in [*phrases.intents, *phrases.slots.values()]:
        kind = type(item).__name__.lower()
        for name in getattr(item, "needs", []):
            if name not in phrases.slots:
                problems.append(f"[{kind} {item.name}] needs {name}, but there is no section [slot {name}]")
        for key in (f.name for f in fields(item) if f.name in TEXTS):
            texts = getattr(item, key)
            for text in [texts] if isinstance(texts, str) else texts:
                unknown = {*slots_of(text)} - {*phrases.values, *phrases.system}
                if unknown:
                    problems.append(f"[{kind} {item.name}] {key}: {{{min(unknown)}}} has no [values]: {text}")
                if text.count("(") != text.count(")"):
                    problems.append(f"[{kind} {item.name}] {key}: unbalanced parentheses: {text}")
    return problems
