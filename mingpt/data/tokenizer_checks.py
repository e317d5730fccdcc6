"""What a tokenizer's files may say, so that its ids are those of transformers; anything else is refused by name.

A byte-level BPE of GPT-2's kind splits a text by GPT2_PATTERN, writes each word's bytes as
characters, and joins pairs, first the one that was learned first. tiktoken does the same, fast, if
the pairs follow from the tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mingpt.data.vocabulary import BYTE_CHARACTERS, BYTE_IDS, SPLITS
from mingpt.errors import UserError


def check_steps(path: Path, content: dict[str, Any]) -> str:
    """The kind of a tokenizer.json. Raises UserError, with a line for each step that is not computed here."""
    model, split, after = content["model"], content.get("pre_tokenizer"), content.get("post_processor")
    whole = split and {"use_regex": True, **split, "trim_offsets": True}
    kind = next((kind for kind, step in SPLITS.items() if step == whole), None)
    empty = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    refuse(
        path,
        ("model.type", model.get("type"), model.get("type", "BPE") == "BPE", "BPE"),
        *((f"model.{key}", model.get(key), not model.get(key), "null") for key in empty),
        ("normalizer", content.get("normalizer"), content.get("normalizer") is None, "null"),
        ("pre_tokenizer", split, kind is not None, "ByteLevel with add_prefix_space false"),
        ("post_processor", after, adds_nothing(after), "one that adds no token"),
    )
    return kind


def refuse(path: Path, *checks: tuple[str, Any, bool, str]) -> None:
    """Raise UserError with a line for each (key, value, whether it is accepted, what is accepted) that is not."""
    problems = []
    for key, value, is_accepted, accepted in checks:
        text = json.dumps(value, ensure_ascii=False)
        shown = text if len(text) <= 100 else f"{text[:100]}..."
        if not is_accepted:
            problems.append(f"{path}: {key} {shown}: gives other ids than are computed here; accepted is {accepted}")
    if problems:
        raise UserError(*problems)


def adds_nothing(step: dict[str, Any] | None) -> bool:
    """Whether a post_processor leaves the ids of a text as they are."""
    if step is None or step["type"] == "ByteLevel":
        return True
    if step["type"] == "Sequence":
        return all(adds_nothing(part) for part in step["processors"])
    return step["type"] == "TemplateProcessing" and [list(part) for part in step["single"]] == [["Sequence"]]


def check_alphabet(path: Path, ids: dict[str, int]) -> None:
    missing = [byte for byte, character in enumerate(BYTE_CHARACTERS) if character not in ids]
    if missing:
        what = f"{len(missing)} of the 256 bytes (0x{missing[0]:02X} first)"
        raise UserError(f"{path}: vocab lacks {what}; accepted is a vocabulary that holds them all")


def check_merges(path: Path, ids: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Raise UserError where pairs and tokens do not stand for each other.

    A file lists pairs. tiktoken knows the tokens alone, and joins two neighbours whenever they make
    one: that is the same where each token can only come about by its own pair.
    """
    ranks = dict.fromkeys(BYTE_IDS, -1)
    for rank, (left, right) in enumerate(merges):
        token = left + right
        if token not in ids:
            raise UserError(f"{path}: merges[{rank}] {left!r} {right!r}: makes a token that the vocabulary lacks")
        is_known = left in ranks and right in ranks
        if not is_known or token in ranks or not is_last_join(left, right, merges, ranks):
            raise UserError(
                f"{path}: merges[{rank}] {left!r} {right!r}: the pairs before it do not lead to these two, "
                "which gives other ids than are computed here"
            )
        ranks[token] = rank


def is_last_join(left: str, right: str, merges: list[tuple[str, str]], ranks: dict[str, int]) -> bool:
    """Whether the pairs learned so far join the bytes of left + right to these two tokens, and no further.

    Goes back in time, from the two tokens to their bytes: of the two at the seam, the one that was
    joined later is taken apart. Before that, a pair across the seam of a lower rank would have come
    first, and of the same rank the one further left. `ranks` has -1 for a byte.
    """
    of_left, of_right = ranks[left], ranks[right]
    while of_left >= 0 or of_right >= 0:
        if of_left > of_right:
            left, end = merges[of_left][1], of_left
            of_left = ranks[left]
        else:
            right, end = merges[of_right][0], of_right + 1
            of_right = ranks[right]
        if ranks.get(left + right, end) < end:
            return False
    return True


def check_is_plain(path: Path, token: dict[str, Any]) -> None:
    """Raise UserError where an added token asks for more than that its spelling stands in a text."""
    for key, value in dict(single_word=False, lstrip=False, rstrip=False, normalized=True).items():
        found = token.get(key, value)
        refuse(path, (f"added token {token['content']!r}: {key}", found, found == value, json.dumps(value)))
