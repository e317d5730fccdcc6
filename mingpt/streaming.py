"""From prompts to the text that follows them, as it comes.

A token may end in the middle of a character, and a stop string may begin in one token and end in another:
what could still become either is held back until it is decided.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mingpt.data.tokenizer import Tokenizer
from mingpt.sampling import generate

if TYPE_CHECKING:
    from mingpt.model import GPT


def continuation(
    model: GPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int, stop: Sequence[str] = (), **choice: float | None
) -> Iterator[str]:
    """The text that follows a prompt, piece by piece; see `continuations`."""
    return (pieces[0] for pieces in continuations(model, tokenizer, [prompt], max_new_tokens, stop, **choice))


def continuations(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    **choice: float | None,
) -> Iterator[list[str]]:
    """What comes next of the text after each prompt, one piece for each, until all have ended.

    A text ends before the first stop string in it, at end-of-text, or after max_new_tokens. An empty
    prompt begins where a document or a line begins. `choice` is as in sampling.generate. Raises ValueError
    where a prompt holds a character that the tokenizer lacks.
    """
    texts = [Text(tokenizer, stop) for _ in prompts]
    return pieces_of(texts, generate(model, starts(tokenizer, prompts), max_new_tokens, **choice))


def answer(
    model: GPT, tokenizer: Tokenizer, ids: Sequence[int], max_new_tokens: int, **choice: float | None
) -> tuple[Text, Iterator[str]]:
    """The text that follows some ids, and its pieces as they come. It ends at any special token.

    After the marker of the assistant's turn, that is where the turn ends, or another's would begin.
    """
    special = [tokenizer.vocabulary.ids[token] for token in tokenizer.vocabulary.special]
    text = Text(tokenizer, ends=special)
    return text, (pieces[0] for pieces in pieces_of([text], generate(model, [ids], max_new_tokens, **choice)))


def starts(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of each prompt, at least one."""
    return [tokenizer.encode(prompt) or [beginning(tokenizer)] for prompt in prompts]


def pieces_of(texts: Sequence[Text], columns: Iterable[Tensor]) -> Iterator[list[str]]:
    """Columns (B, 1) of ids as pieces of B texts, until all have ended."""
    for column in columns:
        yield [text.add(i) for text, i in zip(texts, column[:, 0].tolist(), strict=True)]
        if all(text.ended_by for text in texts):
            return
    yield [text.close("length") for text in texts]


class Text:
    """The text of ids as they arrive, until it ends."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), ends: Sequence[int] | None = None):
        """`ends` are the ids at which it ends, of which none is shown; left out: end-of-text."""
        self.pieces, self.stop = tokenizer.pieces, stop
        self.ends = [tokenizer.end_of_text] if ends is None else ends
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""  # what may be the beginning of a stop string
        self.tokens = 0
        self.ended_by: str | None = None  # stop, end_of_text or length

    def add(self, i: int) -> str:
        """The text that is certain after one more id; after the end, none."""
        if self.ended_by:
            return ""
        self.tokens += 1
        if i in self.ends:
            return self.close("end_of_text")
        piece = self.pieces[i] if i < len(self.pieces) else b""  # a model may have more ids than its tokenizer
        return self.certain(self.decoder.decode(piece))

    def close(self, reason: str) -> str:
        """What was held back, where nothing more comes."""
        if self.ended_by:
            return ""
        rest = self.certain(self.decoder.decode(b"", final=True))
        if not self.ended_by:
            rest, self.ended_by = rest + self.held, reason
        return rest

    def certain(self, new: str) -> str:
        """The part of what was held and is new that no stop string can take back."""
        text = self.held + new
        ends = [at for at in map(text.find, self.stop) if at >= 0]
        if ends:
            self.ended_by = "stop"
            return text[: min(ends)]
        longest = min(len(text), max(map(len, self.stop), default=1) - 1)
        held = next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self.stop)), 0)
        self.held = text[len(text) - held :]
        return text[: len(text) - held]


def beginning(tokenizer: Tokenizer) -> int:
    """The id after which a text begins: end-of-text, else a line end, else the first there is."""
    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    return tokenizer.pieces.index(b"\n") if b"\n" in tokenizer.pieces else 0
