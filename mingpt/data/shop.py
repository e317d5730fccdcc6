"""Dialogues of a shop's customer service, generated from a phrase file: `--data shop`, which needs no download.

    data/shop.ini -> Phrases -> write_dialogue(phrases, seed, number) -> a row of JSONL

A dialogue is a pure function of the phrase file, the seed and its number. Each of its exchanges answers an intent, such
as cancel_order, whose answer needs slots, such as an order number: the user has told them, before or now, or is asked.
Facts, such as opening hours, come from the system message. data/README.md describes the phrase file.

An answer is annotated with its intent and with the values it must contain. Held-out dialogues test one of PARTS each.
"""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mingpt import cli
from mingpt.data.phrases import Intent, Phrases, expand, fill, is_held_out, read_phrases, slots_of
from mingpt.data.wording import Wording
from mingpt.files import atomic_write
from mingpt.settings import Settings, setting

PHRASES = Path(__file__).parents[2] / "data" / "shop.ini"
# What is held out in each part: values of slots; words, which are invented; phrasings; facts of the system message;
# and a value is asked for again after two other exchanges.
PARTS = ("values", "words", "phrasings", "facts", "memory")
REQUESTS = {"values": 2, "phrasings": 2}  # in a held-out dialogue; 1 in the others
EXCHANGES = (2, 2, 3, 3, 4, 5)  # of a dialogue

Row = dict[str, Any]


class ShopSettings(Settings):
    """A data set of generated dialogues."""

    group = "data"
    dialogues: int = setting(38_000, "dialogues for training", ge=1)
    held_out: int = setting(500, "dialogues for validation", ge=0)
    phrases: str = setting(str(PHRASES), "the phrase file", metavar="FILE")
    seed: int = setting(0, "random seed", ge=0)
    output: str = setting("shop.jsonl", "the file to write", metavar="FILE")


def main(argv: list[str]) -> int:
    settings = cli.parse(ShopSettings, argv, "python -m mingpt.data.shop", "Write dialogues made from a phrase file.")
    with atomic_write(Path(settings.output)) as temporary:
        write_file(temporary, settings)
    print(
        f"{settings.dialogues:,} dialogues for training and {settings.held_out:,} for validation in {settings.output}"
    )
    print(f"train         python train.py --task chat --data {shlex.quote(settings.output)}")
    return 0


def write_file(path: Path, settings: ShopSettings) -> None:
    phrases = read_phrases(Path(settings.phrases))
    with open(path, "w", encoding="utf-8") as file:
        rows = write_dialogues(phrases, settings.seed, settings.dialogues, settings.held_out)
        total = settings.dialogues + settings.held_out
        for row in tqdm(rows, "dialogues", total, leave=False, disable=None):  # no bar where there is no terminal
            print(json.dumps(row, ensure_ascii=False), file=file)


def write_dialogues(phrases: Phrases, seed: int, dialogues: int, held_out: int) -> Iterator[Row]:
    """Rows for training, then the held-out ones, as many of each part that the phrase file allows."""
    for number in range(dialogues):
        yield write_dialogue(phrases, seed, number)
    parts = [part for part in PARTS if any(is_tested_by(part, intent, phrases) for intent in phrases.intents)]
    for number in range(held_out if parts else 0):
        yield write_dialogue(phrases, seed, number, parts[number % len(parts)])


def write_dialogue(phrases: Phrases, seed: int, number: int, part: str | None = None) -> Row:
    """The row of dialogue `number`, for training or for a part of the held-out ones."""
    writer = Writer(phrases, random.Random(f"{seed} {part} {number}"), part)
    if part is None:
        writer.converse()
        return {"messages": writer.messages}
    writer.ask_held_out()
    return {"messages": writer.messages, "part": part}


class Writer:
    """Writes one dialogue."""

    def __init__(self, phrases: Phrases, rng: random.Random, part: str | None = None):
        self.phrases, self.rng, self.part = phrases, rng, part
        self.wording = Wording(phrases, rng, part)
        self.messages: list[Row] = []
        self.told: dict[str, str] = {}  # values of slots, by the user
        self.facts: dict[str, str] = {}  # by the system message
        self.last: Intent | None = None  # of the user's last request
        if part == "facts" or self.wording.chance(0.55):
            self.add_system_message()

    # The course of a dialogue.

    def converse(self) -> None:
        """Any exchanges, for training."""
        exchanges = self.rng.choice(EXCHANGES)
        while len(self.messages) // 2 < exchanges:
            moves = {self.request: 0.6}
            moves |= {self.request_two: 0.06} if any(intent.about for intent in self.phrases.intents) else {}
            moves |= {self.recall: 0.16} if any(slot.recall for slot in self.phrases.slots.values()) else {}
            moves |= {self.request_again: 0.15} if self.told else {}
            moves |= {self.correct: 0.06} if self.last and self.correctable() else {}
            self.rng.choices([*moves], [*moves.values()])[0]()

    def ask_held_out(self) -> None:
        """A request or two in which what the part names is held out."""
        for _ in range(REQUESTS.get(self.part, 1)):
            self.request(self.pick(lambda intent: is_tested_by(self.part, intent, self.phrases)))
        if self.part == "memory":  # two others, and a question about a value told before; only its answer counts
            slot = self.rng.choice([slot for slot in self.last.needs if self.phrases.slots[slot].recall])
            for _ in range(2):
                self.request(self.pick(lambda intent: slot not in intent.needs))
            for message in self.messages:
                message.pop("intent", None)
            self.recall(slot)

    # Exchanges.

    def request(self, intent: Intent | None = None) -> None:
        """The user wants something; the assistant asks for what is missing, and answers."""
        self.last = intent or self.pick(lambda intent: True)
        remembered = {slot.name for slot in self.phrases.slots.values() if slot.recall}
        self.told = {slot: value for slot, value in self.told.items() if slot in remembered}
        self.say(self.wording.phrasing(self.last))
        for slot in self.last.needs:
            if slot not in self.told:
                self.reply(f"ask {slot}", f"{self.last.opening} {self.phrases.slots[slot].ask}".strip())
                self.say(self.rng.choice(self.phrases.slots[slot].reply), is_plain=True)
        self.answer(self.last)

    def request_again(self) -> None:
        """A request that leans on a value told before."""
        intents = [i for i in self.phrases.intents if i.again and {*i.needs} <= self.told.keys()]
        if intents:
            self.last = self.rng.choice(intents)
            self.say(self.rng.choice(self.last.again))
            self.answer(self.last)

    def request_two(self) -> None:
        """Two requests in one message."""
        both = [self.pick(lambda intent: intent.about) for _ in range(2)]
        first, second = (self.wording.phrasing(intent).rstrip(".!?") for intent in both)
        slots = [*slots_of(first), *slots_of(second)]
        needed = {slot for intent in both for slot in intent.needs}
        if both[0].name != both[1].name and needed <= {*slots} and len({*slots}) == len(slots):
            self.last = None
            self.say(fill(self.rng.choice(self.phrases.noise["join"]), {"first": first, "second": second}))
            self.answer(*both)

    def recall(self, name: str | None = None) -> None:
        """The user asks for a value told before."""
        slots = [slot for slot in self.phrases.slots.values() if slot.recall and name in (None, slot.name)]
        known = [slot for slot in slots if slot.name in self.told]
        slot = self.rng.choice(known if known and self.wording.chance(0.8) else slots)
        self.say(self.rng.choice(slot.recall))
        self.reply(f"recall {slot.name}", slot.answer if slot.name in self.told else slot.unknown)

    def correct(self) -> None:
        """The user corrects a value, and the last request is answered anew."""
        self.say(self.rng.choice(self.phrases.slots[self.rng.choice(self.correctable())].correct), is_plain=True)
        self.answer(self.last)

    def correctable(self) -> list[str]:
        return [slot for slot in self.last.needs if self.phrases.slots[slot].correct]

    # Messages.

    def add_system_message(self) -> None:
        name, *others = self.phrases.system.values()
        templates = [self.rng.choice(lines) for lines in others if self.part == "facts" or self.wording.chance(0.65)]
        if self.wording.chance(0.3):
            self.rng.shuffle(templates)
        templates = [expand(self.rng, template) for template in [self.rng.choice(name), *templates]]
        self.facts = {fact: self.wording.value(fact) for template in templates for fact in slots_of(template)}
        self.messages.append({"role": "system", "content": fill(" ".join(templates), self.facts)})

    def answer(self, *intents: Intent) -> None:
        """The answer to one or two requests, in the tone that the system message asks for."""
        answers = [i.assistant if {*i.facts} <= self.facts.keys() else i.unknown for i in intents]
        is_small_talk = not any(intent.about for intent in intents)
        tone = "{answer}" if is_small_talk else self.phrases.tones.get(self.facts.get("tone", ""), "{answer}")
        template = fill(tone, {"answer": " ".join(answers)})
        self.reply(" + ".join(intent.name for intent in intents), template)

    def reply(self, intent: str, template: str) -> None:
        """A message of the assistant."""
        known = self.facts | self.told
        slots = {slot: known[slot] for slot in slots_of(template)}
        self.messages.append({"role": "assistant", "content": fill(template, slots), "intent": intent, "slots": slots})

    def say(self, template: str, is_plain: bool = False) -> None:
        """A message of the user, with new values in its slots, typed as people type."""
        template = expand(self.rng, template)
        if not is_plain:
            template = self.wording.decorate(template)
        values = {slot: self.wording.value(slot) for slot in slots_of(template)}
        if self.wording.chance(0.35):
            values = {slot: value.lower() if self.wording.chance(0.7) else value for slot, value in values.items()}
            template = template.lower()
        text = fill(" ".join(self.wording.mistype(template.split())) or template, values)
        if self.wording.chance(0.35):
            text = text.rstrip(".!?,") or text
        self.told |= values
        self.messages.append({"role": "user", "content": text})

    # Choices.

    def pick(self, condition: Callable[[Intent], Any]) -> Intent:
        intents = [intent for intent in self.phrases.intents if condition(intent)]
        return self.rng.choices(intents, [float(intent.weight) for intent in intents])[0]


def is_tested_by(part: str, intent: Intent, phrases: Phrases) -> bool:
    """Whether a part's dialogues may be about an intent."""
    return {
        "values": bool(intent.needs),
        "words": any(phrases.may_be_invented(slot) for slot in intent.needs),
        "phrasings": any(map(is_held_out, intent.user)),
        "facts": bool(intent.facts) and not intent.needs,
        "memory": any(phrases.slots[slot].recall for slot in intent.needs),
    }[part]


if __name__ == "__main__":
    cli.run_command(main)
