"""Conversations: their file, the template that makes ids of them, and what is learned of those.

A file is JSONL, a conversation in each row:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Each message becomes a turn: the marker of its role, its content, the marker of the end. A model reads
all of it, and learns what the assistant says, marked here by ^:

    <|user|> H i <|end|> <|assistant|> H e l l o ! <|end|>
                                       ^ ^ ^ ^ ^ ^ ^

So it never learns to speak for the user, and it learns when to stop. The markers are special tokens, and
content is encoded as plain text: whoever types <|system|> into a message has typed ten characters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mingpt.data import rows
from mingpt.data.tokenizer import Tokenizer, of_vocabulary
from mingpt.errors import UserError
from mingpt.settings import nearest

Message = dict[str, str]  # {"role": ..., "content": ...}
Turn = tuple[list[int], list[bool]]  # ids, and whether each is learned

ROLES = ("system", "user", "assistant")
MARKERS = {role: f"<|{role}|>" for role in ROLES}
END = "<|end|>"

# The same for transformers' apply_chat_template. Its {% generation %} encloses what is learned. It writes a text
# first, in which a marker is a marker whoever typed it: content that spells one is refused there.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% for marker in {[*MARKERS.values(), END]} %}}"
    "{% if marker in message['content'] %}{{ raise_exception('a message holds the marker ' + marker) }}{% endif %}"
    "{% endfor %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

EXAMPLE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'
SHOWN_PROBLEMS = 10  # of a file; where a program wrote it, every row may have the same one


# ---- From a file to conversations ----


def read_dialogues(path: str | Path) -> list[list[Message]]:
    """The conversations in a .jsonl file, in order; keys other than those above are left out.

    Raises UserError with a line `PATH, row N: ...` for each row that holds none.
    """
    if Path(path).suffix.lower() != ".jsonl":
        raise UserError(f"{path}: conversations come as .jsonl, with rows such as {EXAMPLE}")
    dialogues, problems = [], []
    for row in rows.every_row(path):
        try:
            dialogues.append(dialogue_of(row))
        except UserError as error:
            problems.append(rows.at(path, row, str(error)))
    if len(problems) > SHOWN_PROBLEMS:
        problems[SHOWN_PROBLEMS:] = [f"{path}: {len(problems) - SHOWN_PROBLEMS:,} more rows cannot be used"]
    if problems:
        raise UserError(*problems)
    return dialogues


def dialogue_of(row: rows.Row) -> list[Message]:
    """The messages in a row. Raises UserError that says what is wrong with it."""
    if row.problem:
        raise UserError(row.problem)
    messages = row.fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"has no messages; accepted is {EXAMPLE}")
    dialogue = [checked(message, f"message {number}") for number, message in enumerate(messages, start=1)]
    if all(message["role"] != "assistant" for message in dialogue):
        raise UserError("has no turn of the assistant, from which alone is learned")
    return dialogue


def checked(message: Any, name: str) -> Message:
    """Role and content of a message. Raises UserError, which calls it `name`, where it has not both."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise UserError(f'{name} is no object with "role" and "content"')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(
            f"{name} has the role {rows.brief(role)}; accepted are {', '.join(ROLES)}{nearest(role, ROLES)}"
        )
    if not isinstance(content, str):
        raise UserError(f"the content of {name} is {rows.brief(content)}; a text is accepted")
    if not content.strip():
        raise UserError(f"the content of {name} is empty")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the content of {name} holds half a character, U+{ord(content[error.start]):04X}") from None
    return {"role": role, "content": content}


# ---- From conversations to ids ----


def with_markers(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the markers of turns as special tokens, of which END closes a text, and the template."""
    vocabulary = tokenizer.vocabulary.with_special([*MARKERS.values(), END], bos_token=END, eos_token=END)
    return of_vocabulary(dataclasses.replace(vocabulary, chat_template=CHAT_TEMPLATE))


def encode_turn(tokenizer: Tokenizer, message: Message) -> Turn:
    ids = tokenizer.vocabulary.ids
    content = [*tokenizer.encode(message["content"]), ids[END]]
    return [ids[MARKERS[message["role"]]], *content], [False, *[message["role"] == "assistant"] * len(content)]


def encode(tokenizer: Tokenizer, messages: Iterable[Message]) -> Turn:
    """The ids of a conversation, and which of them are learned: what the assistant says, and that it ends."""
    return joined(encode_turn(tokenizer, message) for message in messages)


def joined(turns: Iterable[Turn]) -> Turn:
    ids: list[int] = []
    learned: list[bool] = []
    for turn, is_learned in turns:
        ids += turn
        learned += is_learned
    return ids, learned


def pieces(tokenizer: Tokenizer, messages: Sequence[Message], size: int) -> list[Turn]:
    """A conversation in pieces of at most `size` ids, cut between two exchanges; most are of one piece.

    Each piece begins with the system's turn, as a prompt does (see `prompt`). Where an exchange alone is
    longer, so is its piece.
    """
    system, exchanges = split(tokenizer, messages)
    grown: list[list[Turn]] = []
    for exchange in exchanges:
        if grown and length([*system, *grown[-1], *exchange]) <= size:
            grown[-1] += exchange
        else:
            grown.append(exchange)
    return [joined([*system, *turns]) for turns in grown]


def prompt(tokenizer: Tokenizer, messages: Sequence[Message], size: int) -> tuple[list[int], int]:
    """What the assistant answers to, in at most `size` ids; and how many of the oldest turns had to be left out.

    The system's turn stays, and with it the newest exchanges that fit. Raises UserError where not even
    the last one does.
    """
    system, exchanges = split(tokenizer, messages)
    lengths = [length(exchange) for exchange in exchanges]
    room = size - length(system) - 1  # one for the marker after which the answer begins
    first = 0
    while sum(lengths[first:]) > room:
        first += 1
        if first == len(exchanges):
            more = " beside the system's turn" if system else ""
            raise UserError(f"{lengths[-1]:,} tokens are too long a message: there is room for {max(0, room):,}{more}")
    ids, _ = joined([*system, *(turn for exchange in exchanges[first:] for turn in exchange)])
    return [*ids, tokenizer.vocabulary.ids[MARKERS["assistant"]]], sum(map(len, exchanges[:first]))


def split(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[Turn], list[list[Turn]]]:
    """The system's turn, where one stands before others, and the exchanges: what is said, and the answer to it."""
    roles = [message["role"] for message in messages]
    turns = [encode_turn(tokenizer, message) for message in messages]
    first = int(roles[0] == "system" and len(roles) > 1)
    exchanges: list[list[Turn]] = []
    for i in range(first, len(turns)):
        if i == first or (roles[i - 1] == "assistant" and roles[i] != "assistant"):
            exchanges.append([])
        exchanges[-1].append(turns[i])
    return turns[:first], exchanges


def length(turns: Iterable[Turn]) -> int:
    return sum(len(ids) for ids, _ in turns)
