"""Dialogues: ids and loss mask as in transformers, no forged special token, prompts and pieces that fit, bad files."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer

from mingpt.data.dialogue import END, MARKERS, Dialogue, add_markers, encode_dialogue, encode_prompt, read_dialogues
from mingpt.data.dialogue import split_dialogue as split
from mingpt.data.tokenizer import TOKENIZERS, load_tokenizer
from mingpt.errors import UserError


def dialogue(*turns: str) -> list[dict[str, str]]:
    return [{"role": {"s": "system", "u": "user", "a": "assistant"}[turn[0]], "content": turn[2:]} for turn in turns]


DIALOGUES = [
    dialogue("u Hi", "a Hello!"),
    dialogue("s Be brief.", "u  Where is it?\n", "a It left on Monday.\r\n\r\nSorry!  ", "u ok", "a Good."),
    dialogue("a How can I help?", "u 中文吗 🎉", "u and é, twice", "a naïve\ttab", "a more"),
    dialogue("u a", "s b", "a c"),
]
SPECIAL = [*MARKERS.values(), END, "<|endoftext|>", "<|pad|>"]
TEXT = "".join([*SPECIAL, *(message["content"] for messages in DIALOGUES for message in messages)])
PLAIN = {name: TOKENIZERS[name]([TEXT] * 2, [], 300) for name in ("char", "byte", "bpe")}
CHAR = add_markers(PLAIN["char"])


@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_apply_chat_template_gives_equal_ids_and_mask(plain, tmp_path):
    tokenizer = add_markers(plain)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    again = add_markers(load_tokenizer(tmp_path))
    assert again.sha256() == tokenizer.sha256() and again.chat_template == tokenizer.chat_template
    for messages in DIALOGUES:
        expected = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = encode_dialogue(tokenizer, messages)
        assert ids.tolist() == expected["input_ids"]
        assert mask.astype(int).tolist() == expected["assistant_masks"]
        assert theirs.eos_token_id == tokenizer.eos_id == ids[-1]
        question = [*messages, *dialogue("u and then?")]
        prompt = theirs.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
        assert encode_prompt(tokenizer, question, 10_000) == (prompt["input_ids"], 0)


@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_in_transformers_a_message_that_spells_any_special_token_is_refused(plain, tmp_path):
    tokenizer = add_markers(plain.with_special(["<|pad|>", "[it's]", "a\\{{b}}"], pad_token="<|pad|>"))
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    special = [*tokenizer.special_ids]
    assert {*theirs.all_special_tokens} <= {*special} and {*SPECIAL, "[it's]"} - {"<|endoftext|>"} <= {*special}
    for token in special:
        with pytest.raises(TemplateError, match=f"contains the special token {re.escape(token)}"):
            theirs.apply_chat_template(dialogue("u Hi", "a Hello!", f"u a{token}l"))
    for role in ("end", "tool"):
        with pytest.raises(TemplateError, match=f"unknown role {role}"):
            theirs.apply_chat_template([{"role": role, "content": "Hi"}])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL, "<|", "|>", "user", " ", "é", "\n"]), min_size=1), st.sampled_from("sua"))
def test_no_text_forges_a_special_token(parts, role):
    content = "".join(parts)
    for tokenizer in map(add_markers, PLAIN.values()):
        special = {*tokenizer.special_ids.values()}
        ids = encode_dialogue(tokenizer, dialogue(f"{role} {content}", f"u {content}"))[0].tolist()
        assert sum(i in special for i in ids) == 4
        assert tokenizer.decode(ids[1 : ids.index(tokenizer.eos_id)]) == f" {content}"


# ---- Prompts and pieces that fit ----

TURNS = st.lists(
    st.sampled_from(["u Hi", "u Hello!", "a He", "a Hello Hello", "u H" + "i" * 20]), min_size=1, max_size=9
)


def exchanges(spoken: list[dict[str, str]]) -> list[int]:
    """Where each begins: at the first turn, and wherever the user speaks after the assistant."""
    return [
        i for i in range(len(spoken)) if i == 0 or (spoken[i - 1]["role"], spoken[i]["role"]) == ("assistant", "user")
    ]


@settings(max_examples=200, deadline=None)
@given(TURNS, st.booleans(), st.integers(1, 90))
def test_a_prompt_has_the_newest_exchanges_and_the_system_message(turns, has_system, size):
    system, spoken = dialogue("s Hell") if has_system else [], dialogue(*turns, "u H")
    fitting = [i for i in exchanges(spoken) if len(encode_dialogue(CHAR, system + spoken[i:])[0]) + 1 <= size]
    with nullcontext() if fitting else pytest.raises(UserError, match=r"a message of \d+ tokens: at most \d+ fit"):
        ids, left_out = encode_prompt(CHAR, system + spoken, size)
        assert left_out == fitting[0]
        assert ids == [*encode_dialogue(CHAR, system + spoken[left_out:])[0], CHAR.special_ids["<|assistant|>"]]


@settings(max_examples=200, deadline=None)
@given(TURNS, st.booleans(), st.integers(2, 90))
def test_a_long_dialogue_is_split_between_exchanges(turns, has_system, size):
    system, spoken = dialogue("s Hell") if has_system else [], dialogue(*turns)
    head = encode_dialogue(CHAR, system)[0].tolist()
    pieces = split(CHAR, encode_dialogue(CHAR, system + spoken), size)
    assert all(len(ids) == len(mask) and ids[: len(head)].tolist() == head for ids, mask in pieces)
    whole, whole_mask = (part.tolist() for part in encode_dialogue(CHAR, spoken))
    assert [i for ids, _ in pieces for i in ids[len(head) :].tolist()] == whole
    assert [m for _, mask in pieces for m in mask[len(head) :].tolist()] == whole_mask
    bounds = itertools.pairwise([*exchanges(spoken), len(spoken)])
    single = [encode_dialogue(CHAR, spoken[start:end])[0].tolist() for start, end in bounds]
    assert all(len(ids) <= size or ids[len(head) :].tolist() in single for ids, _ in pieces)
    # as few pieces as possible: no two neighbors fit into one
    assert all(len(a) + len(b) - len(head) > size for (a, _), (b, _) in itertools.pairwise(pieces))


# ---- Files ----


def row(*messages: object, **more: object) -> str:
    return json.dumps({"messages": list(messages), **more})


USER, ASSISTANT = dialogue("u Hi", "a Hello!")


def test_a_file_is_read_with_byte_order_mark_other_keys_and_blank_lines(tmp_path):
    path = tmp_path / "chat.jsonl"
    odd = {"role": "user", "content": "line\u2028separator é", "name": "Ann"}
    lines = [row(USER, ASSISTANT, topic="x"), "", "  ", row(odd, ASSISTANT), ""]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    expected = [[USER, ASSISTANT], [{"role": "user", "content": odd["content"]}, ASSISTANT]]
    assert read_dialogues(path) == [Dialogue(messages) for messages in expected]


def test_annotations_and_the_part_of_a_held_out_dialogue_are_read(tmp_path):
    path = tmp_path / "chat.jsonl"
    greeting, order = ASSISTANT | {"intent": "greeting"}, ASSISTANT | {"intent": "order", "slots": {"number": "4711"}}
    path.write_text("\n".join([row(USER, greeting), row(USER, order, part="numbers")]), encoding="utf-8")
    assert read_dialogues(path) == [
        Dialogue([USER, greeting | {"slots": {}}]),
        Dialogue([USER, order], part="numbers"),
    ]


BAD_ROWS = {
    '{"messages": [': "JSON",
    '{"message": []}': "has no column messages; it has message; did you mean message?",
    row("Hi"): 'messages is ["Hi"]; it must be a list of objects',
    row(USER, {"role": "assistant"}): "message 2: has no column content; it has role",
    row({"role": "asistant", "content": "a"}): "message 1: role is asistant; accepted are system, user, assistant",
    row(USER): "has no message of the assistant",
    row(USER, {"role": "assistant", "content": " \n"}): "message 2: content is empty",
    row({"role": "user", "content": ["Hi"]}, ASSISTANT): 'message 1: content is ["Hi"]; it must be a non-empty text',
    row({"role": ["user"], "content": "Hi"}, ASSISTANT): 'message 1: role is ["user"]; it must be a non-empty text',
    row(): "has no message of the assistant",
}


def test_rows_that_are_not_dialogues_are_named_the_first_ten_and_a_count(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join([row(USER, ASSISTANT), "", *BAD_ROWS, *["{}"] * 2]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_dialogues(path)
    *lines, count = caught.value.problems
    assert count == f"{path}: 2 more rows cannot be used"
    for number, (line, problem) in enumerate(zip(lines, BAD_ROWS.values(), strict=True), start=3):
        assert line.startswith(f"{path}, row {number}: ") and problem in line and "\n" not in line


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (row(USER, ASSISTANT | {"intent": 1}), "message 2: intent must be a text, and slots an object of texts"),
        (row(USER, ASSISTANT | {"intent": "a", "slots": {"b": 1}}), "message 2: intent must be a text, and slots"),
        (row(USER, ASSISTANT, part=1), "part is 1; it must be a non-empty text"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path, line, problem):
    path = tmp_path / "chat.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{path}, row 1: {problem}")):
        read_dialogues(path)
