"""From generated tokens to text, piece by piece: whole characters, and nothing that may belong to a stop string."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from mingpt.data.tokenizer import TextStream, Tokenizer
from mingpt.errors import UserError
from mingpt.generation.decoding import generate
from mingpt.model import GPT


def complete(
    model: GPT, ids: Sequence[int], completion: Completion, max_new_tokens: int, **options: Any
) -> Iterator[str]:
    """The text after one prompt, in pieces, until the completion ends. `options` are those of decoding.generate."""
    return (piece for (piece,) in stream([completion], generate(model, [ids], max_new_tokens, **options)))


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt. An empty one is the end of text, after which another text begins, else a line break."""
    if ids := tokenizer.encode(prompt):
        return ids
    if tokenizer.eos_id is not None:
        return [tokenizer.eos_id]
    with suppress(UserError):  # a character tokenizer may lack it
        return tokenizer.encode("\n")
    return [0]


def stream(completions: Sequence[Completion], columns: Iterable[Tensor]) -> Iterator[list[str]]:
    """A piece of text for each completion and each column (B, 1) of new tokens, until all have ended."""
    for column in columns:
        tokens = column[:, 0].tolist()
        yield [completion.add(token) for completion, token in zip(completions, tokens, strict=True)]
        if all(completion.ended_by for completion in completions):
            return
    yield [completion.end("length") for completion in completions]


class Completion:
    """The text of tokens as they arrive, until it is ended by a stop string, the end of text or its length."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        end_ids: Collection[int] | None = None,
        strips_spaces: bool = False,
    ):
        """`end_ids` are the tokens that end it, and are not shown; by default the end of text. With `strips_spaces`,
        spaces at the beginning are not part of the text.
        """
        self.characters = TextStream(tokenizer)
        self.end_ids = {tokenizer.eos_id} if end_ids is None else {*end_ids}
        self.stop, self.strips_spaces = stop, strips_spaces
        self.held = ""  # may be the beginning of a stop string
        self.tokens = 0
        self.ended_by: str | None = None  # or "stop", "end_of_text", "length"

    def add(self, token: int) -> str:
        """The text that is certain after one more token; "" after the end."""
        if self.ended_by:
            return ""
        self.tokens += 1
        if token in self.end_ids:
            return self.end("end_of_text")
        return self.release(self.characters.add(token))

    def end(self, reason: str) -> str:
        """What is held back, where no more tokens arrive."""
        if self.ended_by:
            return ""
        rest = self.release(self.characters.flush())
        if not self.ended_by:
            rest, self.ended_by = rest + self.held, reason
        return rest

    def release(self, new: str) -> str:
        """The part of the held and the new text that no stop string can contain."""
        if self.strips_spaces:
            new = new.lstrip(" ")
            self.strips_spaces = not new
        text = self.held + new
        starts = [start for start in map(text.find, self.stop) if start >= 0]
        if starts:
            self.ended_by = "stop"
            return text[: min(starts)]
        longest = min(len(text), max(map(len, self.stop), default=1) - 1)
        held = next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self.stop)), 0)
        self.held = text[len(text) - held :]
        return text[: len(text) - held]
