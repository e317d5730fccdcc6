"""Generated dialogues: a pure function of the seed, annotated rightly, and nothing held out is used for training."""

from __future__ import annotations

import json
import re

import pytest
from conftest import BAKERY, ROOT

from mingpt.data import shop
from mingpt.data.phrases import is_held_out, read_phrases, slots_of
from mingpt.data.shop import PARTS, PHRASES, write_dialogue, write_dialogues
from mingpt.errors import UserError


@pytest.fixture(scope="module")
def bakery(tmp_path_factory):
    path = tmp_path_factory.mktemp("bakery") / "bakery.ini"
    path.write_text(BAKERY, encoding="utf-8")
    return read_phrases(path)


@pytest.fixture(scope="module")
def rows(bakery):
    """400 dialogues for training and 200 of the held-out ones."""
    return list(write_dialogues(bakery, seed=1, dialogues=400, held_out=200))


def answers(rows):
    return [message for row in rows for message in row["messages"] if "intent" in message]


def test_a_dialogue_is_a_function_of_seed_and_number(bakery, rows):
    again = [write_dialogue(bakery, 1, number) for number in range(400)]
    assert again == rows[:400] != [write_dialogue(bakery, 2, number) for number in range(400)]
    assert [row.get("part") for row in rows[400:]] == [*PARTS] * 40


def test_turns_alternate_and_no_slot_stays_unfilled(rows):
    for row in rows:
        roles = [m["role"] for m in row["messages"] if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert not any(re.search(r"[{}#@|]", message["content"]) for message in row["messages"])


def test_answers_contain_their_slots_which_user_or_system_message_told_before(rows):
    for row in rows:
        text = ""
        for message in row["messages"]:
            for value in message.get("slots", {}).values():
                assert value in message["content"] and value.lower() in text.lower()
            text += message["content"] + "\n"


def test_the_tone_of_the_system_message_is_obeyed(rows):
    seen = set()
    for row in rows:
        system = row["messages"][0]["content"]
        tone = next((tone for tone in ("brief", "warm") if f"Be {tone}." in system), None)
        for answer in answers([row]):
            if answer["intent"] == "order_cake":
                assert answer["content"].endswith("It is fresh. Come soon!" if tone == "warm" else "It is fresh.")
                seen.add(tone)
    assert seen == {"brief", "warm", None}


def test_a_fact_is_answered_from_the_system_message_alone(rows):
    for row in rows:
        opens = re.search(r"Open at (.*?)\.", row["messages"][0]["content"])
        for answer in answers([row]):
            if answer["intent"] == "hours":
                expected = f"We open at {opens[1]}." if opens else "Please look at our door."
                assert answer["content"].startswith(expected)


def test_every_move_occurs(rows):
    """Asked for a slot, two requests at once, recalled, and not recalled, corrected, repeated."""
    intents = {answer["intent"] for answer in answers(rows[:400])}
    assert intents >= {"ask cake", "ask day", "order_cake", "hours", "hello", "recall cake", "hours + order_cake"}
    contents = [answer["content"] for answer in answers(rows[:400])]
    assert any(text.startswith("You ordered the") for text in contents) and "You have ordered nothing yet." in contents
    users = [message["content"].lower() for row in rows for message in row["messages"] if message["role"] == "user"]
    assert any(text.startswith("no, the ") for text in users) and any("the same again" in text for text in users)


def test_what_is_held_out_is_never_in_training(bakery, rows):
    training, held_out = rows[:400], rows[400:]
    told = [
        {a["slots"]["cake"].lower() for a in answers(part) if "cake" in a["slots"]} for part in (training, held_out)
    ]
    assert not any(is_held_out(cake) for a in answers(training) for name, cake in a["slots"].items() if name == "cake")
    assert told[1] - told[0]
    tested = [line for intent in bakery.intents for line in intent.user if is_held_out(line)]
    assert tested
    plain = [line for line in tested if not slots_of(line) and "(" not in line]
    texts = ["\n".join(m["content"].lower() for r in part for m in r["messages"]) for part in (training, held_out)]
    assert not any(re.search(rf"^{re.escape(line)}\W*$", texts[0], re.MULTILINE) for line in plain)


def test_a_memory_is_asked_for_after_two_other_exchanges(rows):
    for row in rows:
        if row.get("part") == "memory":
            [answer] = answers([row])
            assert answer is row["messages"][-1] and answer["intent"] == "recall cake" and answer["slots"]
            before = [m["content"].lower() for m in row["messages"][:-1]]
            told = [i for i, text in enumerate(before) if answer["slots"]["cake"].lower() in text]
            assert len(before) - 1 - max(told) >= 4  # two exchanges, and the question


def test_the_shipped_phrases_are_rich_and_answerable():
    phrases = read_phrases(PHRASES)
    assert len(phrases.intents) >= 45 and sum(len(intent.user) for intent in phrases.intents) >= 600
    assert {"order", "product", "day", "hour", "colour", "town", "name", "code", "price"} <= phrases.slots.keys()
    for part in (None, *PARTS):
        for number in range(20):
            assert write_dialogue(phrases, 0, number, part)["messages"]
    assert sum(path.stat().st_size for path in (ROOT / "data").iterdir()) < 2e6


def test_the_command_writes_a_file_for_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bakery.ini").write_text(BAKERY, encoding="utf-8")
    assert shop.main(["--phrases", "bakery.ini", "--dialogues", "30", "--held_out", "5", "--output", "a b.jsonl"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a b.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 35 and rows[0] == write_dialogue(read_phrases(tmp_path / "bakery.ini"), 0, 0)
    assert "python train.py --task chat --data 'a b.jsonl'" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none\.ini: cannot be read"):
        shop.main(["--phrases", "none.ini"])


def test_the_worked_example_of_the_readme_makes_dialogues(tmp_path):
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    path = tmp_path / "library.ini"
    path.write_text(text.split("```ini\n")[1].split("```")[0], encoding="utf-8")
    rows = list(write_dialogues(read_phrases(path), seed=0, dialogues=200, held_out=50))
    assert {answer["intent"] for answer in answers(rows)} >= {"renew", "reserve", "hours", "other", "recall card"}
