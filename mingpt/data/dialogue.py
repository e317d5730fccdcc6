"""Dialogues: their file, the chat template that turns them into token ids, and the mask of the ids that are learned.

A file is JSONL, one dialogue per row:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

A message of the assistant may be annotated with its "intent", and with its "slots": values by name that the answer must
contain. A row with a "part", a name, is held out for validation, and measured under that name (tasks/answers.py).

Each message becomes a turn: the marker of its role, a space, its content, the end marker. With the space, a word has
the same tokens at the beginning as elsewhere. The mask marks what the assistant says, with its end marker, so that a
model learns to answer and to stop. An evaluation counts these only, training a few others too (tasks/chat.py):

    ids   <|user|> _ H i <|end|> <|assistant|> _ H e l l o ! <|end|>
    mask     -     - - -    -          -       x x x x x x x    x

The markers are special tokens, and content is encoded as plain text: no content can forge a role. An exchange is what
the user says up to the end of the assistant's answer; dialogues are cut between exchanges only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.data.tables import Row, parse_rows, shorten, text_of, value_of
from mingpt.data.tokenizer import Tokenizer
from mingpt.errors import UserError

Message = dict[str, Any]  # {"role": ..., "content": ...}, and of an annotated answer "intent" and "slots"
Encoded = tuple[np.ndarray, np.ndarray]  # ids (T,) int64 and mask (T,) bool

MARKERS = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
END = "<|end|>"
SPACE = " "  # before each content

# The same in Jinja, for transformers' apply_chat_template; {% generation %} encloses what is learned. It writes all
# messages as one text, in which a special token is one whoever wrote it: a message that spells one is refused there.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ROLES %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% for token in SPECIAL_TOKENS %}{% if token in message['content'] %}"
    "{{ raise_exception('a message contains the special token ' + token) }}{% endif %}{% endfor %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ ' ' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Dialogue:
    messages: list[Message]
    part: str | None = None  # of the held-out ones; None: not held out by its file


def read_dialogues(path: str | Path) -> list[Dialogue]:
    """The dialogues of a .jsonl file, in order. UserError with a line `PATH, row N: ...` for each row that is none."""
    if Path(path).suffix.lower() != ".jsonl":
        raise UserError(f"{path}: is not a .jsonl file")
    return parse_rows(path, parse_dialogue)


def parse_dialogue(row: Row) -> Dialogue:
    """The dialogue of a row; keys other than those above are ignored."""
    messages = value_of(row, "messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"messages is {shorten(messages)}; it must be a list of objects")
    dialogue = []
    for number, message in enumerate(messages, start=1):
        try:
            role, content = (text_of(Row(row.number, message), key) for key in ("role", "content"))
            if role not in MARKERS:
                raise UserError(f"role is {shorten(role)}; accepted are {', '.join(MARKERS)}")
        except UserError as error:
            raise UserError(f"message {number}: {error}") from None
        dialogue.append({"role": role, "content": content} | parse_annotation(message, number))
    if not any(message["role"] == "assistant" for message in dialogue):
        raise UserError("has no message of the assistant, the only ones that are learned")
    return Dialogue(dialogue, text_of(row, "part") if "part" in row.fields else None)


def parse_annotation(message: dict[str, Any], number: int) -> dict[str, Any]:
    """The intent and slots of a message; none where it is not annotated."""
    if "intent" not in message:
        return {}
    intent, slots = message["intent"], message.get("slots", {})
    if (
        not isinstance(intent, str)
        or not isinstance(slots, dict)
        or not all(isinstance(v, str) for v in slots.values())
    ):
        raise UserError(f"message {number}: intent must be a text, and slots an object of texts")
    return {"intent": intent, "slots": slots}


def is_chat_tokenizer(tokenizer: Tokenizer) -> bool:
    """Whether it has the markers, as that of a model of --task chat."""
    return {*MARKERS.values(), END} <= tokenizer.special_ids.keys()


def add_markers(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the markers as special tokens, END as end of text, and the chat template."""
    markers = [*MARKERS.values(), END]
    special_tokens = sorted({*tokenizer.special_ids, *markers})
    template = CHAT_TEMPLATE.replace("SPECIAL_TOKENS", repr(special_tokens)).replace("ROLES", repr([*MARKERS]))
    return tokenizer.with_special(markers, chat_template=template, bos_token=END, eos_token=END)


def encode_dialogue(tokenizer: Tokenizer, messages: Sequence[Message]) -> Encoded:
    """Ids (T,) of a dialogue, and the mask (T,) of those that are learned."""
    special = tokenizer.special_ids
    ids, mask = [], []
    for message in messages:
        content = [*tokenizer.encode(SPACE + message["content"]), special[END]]
        ids += [special[MARKERS[message["role"]]], *content]
        mask += [False, *[message["role"] == "assistant"] * len(content)]
    return np.array(ids, dtype=np.int64), np.array(mask, dtype=bool)


def split_dialogue(tokenizer: Tokenizer, dialogue: Encoded, size: int) -> list[Encoded]:
    """An encoded dialogue in pieces of at most `size` ids, each of whole exchanges after the system message.

    A single exchange that is longer than `size` is a piece.
    """
    ids, mask = dialogue
    starts = [*exchange_starts(tokenizer, ids), len(ids)]
    head = starts[0]  # length of the system message
    pieces, first = [], head
    for start, end in itertools.pairwise(starts):
        if head + end - first > size and start > first:
            pieces.append(slice(first, start))
            first = start
    pieces.append(slice(first, len(ids)))
    return [(np.r_[ids[:head], ids[piece]], np.r_[mask[:head], mask[piece]]) for piece in pieces]


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message], size: int) -> tuple[list[int], int]:
    """The system message and the newest exchanges that fit in `size` ids, and how many older messages are left out.

    Raises UserError where not even the last exchange fits.
    """
    ids, _ = encode_dialogue(tokenizer, messages)
    starts = exchange_starts(tokenizer, ids)
    head = starts[0]
    room = size - head - 1  # one for the assistant's marker, after which the answer begins
    start = next((start for start in starts if len(ids) - start <= room), None)
    if start is None:
        beside = " beside the system message" if head else ""
        raise UserError(f"a message of {len(ids) - starts[-1]:,} tokens: at most {max(0, room):,} fit{beside}")
    left_out = int((ids[head:start] == tokenizer.special_ids[END]).sum())
    return [*ids[:head].tolist(), *ids[start:].tolist(), tokenizer.special_ids[MARKERS["assistant"]]], left_out


def exchange_starts(tokenizer: Tokenizer, ids: np.ndarray) -> list[int]:
    """Where each exchange of an encoded dialogue begins. The first follows the system message, if there is one."""
    roles = {tokenizer.special_ids[marker]: role for role, marker in MARKERS.items()}
    turns = [(i, roles[id]) for i, id in enumerate(ids.tolist()) if id in roles]
    if turns[0][1] == "system" and len(turns) > 1:
        turns = turns[1:]
    after_answer = [i for (_, before), (i, role) in itertools.pairwise(turns) if before == "assistant" != role]
    return [turns[0][0], *after_answer]
