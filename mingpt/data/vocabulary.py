"""What a tokenizer knows: the id of each token, and the pairs of tokens that are joined.

In the files of transformers a tokenizer is always a BPE: `merges` is the list of pairs to join,
first the most frequent. Characters and bytes are the BPE with no merges, over an alphabet of
characters or of bytes.

GPT-2 writes a byte as a printable character, so that its files hold no control codes:
BYTE_CHARACTERS[byte] is that character (Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mingpt.errors import UserError

END_OF_TEXT = "<|endoftext|>"

# GPT-2's split of a text into words, before any pair is joined: English endings, then letters,
# digits and other marks, each with the space before it, then white space.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as its files tell it.

    kind           char, byte or bpe: an id is a character, a byte, or a piece of a word
    ids            the id of each token; of byte and bpe, those that are not special or added are in BYTE_CHARACTERS
    merges         pairs of tokens to join, in the order in which they were learned
    special        tokens that no text can spell
    added          tokens that are found in a text before it is split into words
    roles          what a special token is for, such as {"eos_token": "<|endoftext|>"}
    chat_template  how transformers writes a conversation (see dialogue.py); empty where the model has none
    """

    kind: str
    ids: dict[str, int]
    merges: list[tuple[str, str]] = field(default_factory=list)
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)
    chat_template: str = ""

    @classmethod
    def of_merges(cls, merges: list[tuple[str, str]]) -> Vocabulary:
        """Ids in GPT-2's order: the bytes as their characters sort, what the pairs make, the end of a text.

        >>> Vocabulary.of_merges([("t", "h"), ("th", "e")]).ids["the"]
        257
        """
        tokens = [*sorted(BYTE_CHARACTERS), *(left + right for left, right in merges), END_OF_TEXT]
        ids = {token: i for i, token in enumerate(tokens)}
        return cls("bpe", ids, merges, (END_OF_TEXT,), roles=dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT))

    def with_special(self, tokens: Iterable[str], **roles: str) -> Vocabulary:
        """The same with these special tokens, new ones behind all ids; `roles` say what some of them are for.

        Raises UserError where one of them is a piece of text here.

        >>> Vocabulary("char", {"a": 0, "b": 1}).with_special(["<pad>"], pad_token="<pad>").ids
        {'a': 0, 'b': 1, '<pad>': 2}
        """
        tokens = list(dict.fromkeys(tokens))
        spelled = {left + right for left, right in self.merges}
        spelled |= self.ids.keys() - {*self.special} if self.kind == "char" else BYTE_IDS.keys()
        if of_text := spelled & {*tokens}:
            raise UserError(f"{min(of_text)!r} is a piece of text in this tokenizer, and cannot be a special token")
        new = [token for token in tokens if token not in self.ids]
        ids = self.ids | {token: i for i, token in enumerate(new, start=max(self.ids.values(), default=-1) + 1)}
        return dataclasses.replace(
            self,
            ids=ids,
            special=tuple(sorted({*self.special, *tokens}, key=ids.__getitem__)),
            added=tuple(token for token in self.added if token not in tokens),
            roles=self.roles | roles,
        )

    @property
    def end_of_text(self) -> int | None:
        """The id that closes a document."""
        return self.ids.get(self.roles.get("eos_token", ""))

    def pieces(self) -> list[bytes]:
        """The bytes of text that each id stands for; none where no token has the id."""
        spelled = {*self.special, *self.added}
        pieces = [b""] * (max(self.ids.values(), default=-1) + 1)
        for token, i in self.ids.items():
            is_spelled = self.kind == "char" or token in spelled or not BYTE_IDS.keys() >= set(token)
            pieces[i] = token.encode("utf-8") if is_spelled else as_bytes(token)
        return pieces

    def sha256(self) -> str:
        """Of all of it: with the same sum, two tokenizers give every text the same ids."""
        content = [self.kind, self.ids, self.merges, self.special, self.added, self.roles]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def byte_characters() -> list[str]:
    """GPT-2's character for each byte: itself where it prints, else the next one from U+0100 on."""
    itself = [chr(byte) for byte in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
    others = iter(chr(0x100 + i) for i in range(256))
    return [chr(byte) if chr(byte) in itself else next(others) for byte in range(256)]


def as_characters(piece: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in piece)


def as_bytes(token: str) -> bytes:
    return bytes([BYTE_IDS[character] for character in token])


def byte_level(use_regex: bool) -> dict[str, Any]:
    """transformers' step from text to BYTE_CHARACTERS and back; with use_regex it first splits by GPT2_PATTERN."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


BYTE_CHARACTERS = byte_characters()
BYTE_IDS = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}

# How transformers splits a text for each kind: its pre_tokenizer.
SPLITS = {"char": None, "byte": byte_level(use_regex=False), "bpe": byte_level(use_regex=True)}
