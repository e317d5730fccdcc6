"""Text becomes numbers and comes back: characters, bytes, or pieces of words, GPT-2's or learned.

A tokenizer has

    encode(text) -> ids        ValueError where it lacks a character, naming it
    decode(ids)  -> text       the exact text that was encoded
    encode_array(text)         the same ids as a numpy array: the fast way for a whole book
    pieces                     pieces[id] is the UTF-8 bytes that an id stands for
    end_of_text                the id that closes a document, or None
    vocabulary                 all of it, as its files tell it
    save(folder)               its files, which open in transformers' AutoTokenizer with the same ids
"""

from __future__ import annotations

import abc
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mingpt.data import bpe
from mingpt.data.tokenizer_files import read_folder, write_folder
from mingpt.data.vocabulary import BYTE_CHARACTERS, BYTE_IDS, END_OF_TEXT, GPT2_PATTERN, Vocabulary, as_bytes
from mingpt.errors import UserError


class Tokenizer(abc.ABC):
    """What the three kinds share; see the top of this file."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.pieces = vocabulary.pieces()
        self.end_of_text = vocabulary.end_of_text

    @abc.abstractmethod
    def encode_array(self, text: str) -> np.ndarray: ...

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids. Half a character, where ids were cut off, shows as U+FFFD."""
        ids = list(ids)
        unknown = [i for i in ids if not 0 <= i < len(self.pieces)]
        if unknown:
            raise UserError(f"{unknown[0]} is no id of this tokenizer, which has {len(self.pieces)}")
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")

    def save(self, folder: str | Path) -> None:
        write_folder(Path(folder), self.vocabulary)


class CharTokenizer(Tokenizer):
    """One id for each character of a text, in the order of their code points.

    >>> CharTokenizer("hello").encode("hole")
    [1, 3, 2, 0]
    """

    def __init__(self, alphabet: Iterable[str], vocabulary: Vocabulary | None = None):
        """`vocabulary` is that of the alphabet with special tokens, where it has any."""
        characters = sorted(set(alphabet))
        super().__init__(vocabulary or Vocabulary("char", {character: i for i, character in enumerate(characters)}))
        self.points = np.array([ord(character) for character in characters], dtype=np.uint32)

    def encode_array(self, text: str) -> np.ndarray:
        points = np.frombuffer(utf(text, "utf-32-le"), dtype=np.uint32)
        ids = np.minimum(np.searchsorted(self.points, points), len(self.points) - 1)
        unknown = np.flatnonzero(self.points[ids] != points)
        if len(unknown):
            character = text[unknown[0]]
            raise UserError(
                f"the character {character!r} (U+{ord(character):04X}) at position {unknown[0]} is not among the "
                f"{len(self.points)} that this tokenizer knows"
            )
        return ids


class ByteTokenizer(Tokenizer):
    """An id is a byte of the text's UTF-8: any text, in any script, with a vocabulary of 256.

    >>> ByteTokenizer().encode("é")
    [195, 169]
    """

    def __init__(self, vocabulary: Vocabulary | None = None):
        """`vocabulary` is that of the bytes with special tokens, where it has any."""
        super().__init__(vocabulary or Vocabulary("byte", BYTE_IDS))

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(utf(text, "utf-8"), dtype=np.uint8)


class BPETokenizer(Tokenizer):
    """Pieces of words, joined from bytes by tiktoken. Where a text spells a special token, it stays plain text.

    tiktoken's own number of a piece, its rank, says how early its pair was learned. Ids may be in any
    other order: a table leads from ranks to ids.
    """

    def __init__(self, vocabulary: Vocabulary):
        import tiktoken  # here, since most runs never need it

        super().__init__(vocabulary)
        tokens = [*BYTE_CHARACTERS, *(left + right for left, right in vocabulary.merges)]
        ranks = {as_bytes(token): rank for rank, token in enumerate(tokens)}
        self.encoding = tiktoken.Encoding("bpe", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
        self.ids = np.array([vocabulary.ids[token] for token in [*tokens, *vocabulary.added]], dtype=np.uint32)
        self.ranks_of_added = {token: len(tokens) + i for i, token in enumerate(vocabulary.added)}
        longest_first = sorted(vocabulary.added, key=len, reverse=True)
        self.added = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def gpt2(cls) -> BPETokenizer:
        """GPT-2's own. tiktoken downloads its vocabulary once, and keeps it."""
        import tiktoken

        try:
            encoding = tiktoken.get_encoding("gpt2")
        except (OSError, ValueError) as error:  # a ValueError where what came is not what was expected
            raise UserError(
                f"--tokenizer gpt2: its vocabulary could not be downloaded ({type(error).__name__}); "
                "it needs the network once, char, byte and bpe never do"
            ) from None
        pieces = encoding.token_byte_values()
        ranks = {
            "".join(BYTE_CHARACTERS[byte] for byte in piece): encoding.encode_single_token(piece)
            for piece in pieces
            if piece != END_OF_TEXT.encode()
        }
        in_order = sorted(ranks, key=ranks.__getitem__)
        return cls(Vocabulary.of_merges([parts(token, ranks) for token in in_order if len(token) > 1]))

    def encode_array(self, text: str) -> np.ndarray:
        utf(text, "utf-8")
        return self.ids[np.array(self.ranks(text), dtype=np.int64)]

    def ranks(self, text: str) -> list[int]:
        """tiktoken's numbers for a text, and those after them for the added tokens in it."""
        if not self.ranks_of_added:
            return self.encoding.encode_ordinary(text)
        ranks = []
        for i, part in enumerate(self.added.split(text)):  # every second part is an added token
            ranks += [self.ranks_of_added[part]] if i % 2 else self.encoding.encode_ordinary(part)
        return ranks


def parts(token: str, ranks: dict[str, int]) -> tuple[str, str]:
    """The two tokens that were joined to make `token`: its BPE by the pairs learned before it.

    >>> parts("abc", {"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4})
    ('a', 'bc')
    """
    found = list(token)
    while len(found) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(found)]
        i = pairs.index(min(pairs))
        found[i : i + 2] = [found[i] + found[i + 1]]
    return found[0], found[1]


def new_tokenizer(name: str, alphabet: Iterable[str]) -> Tokenizer:
    """The tokenizer that `--tokenizer NAME` asks for, where it need not be learned; only char needs an alphabet."""
    if name == "char":
        return CharTokenizer(alphabet)
    return ByteTokenizer() if name == "byte" else BPETokenizer.gpt2()


def tokenizer_for(name: str, texts: Iterable[str], others: Iterable[str], vocab_size: int) -> Tokenizer:
    """A new tokenizer for some texts. Pieces of words are learned from `texts` alone; characters are those of both."""
    if name == "bpe":
        return BPETokenizer(Vocabulary.of_merges(bpe.learn(bpe.count_words(texts), vocab_size)))
    return new_tokenizer(name, set().union(*texts, *others))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder: one of ours, GPT-2's, or that of a relative of it.

    Raises UserError where its files are missing or torn, or say something that would give other ids
    here than in transformers.
    """
    return of_vocabulary(read_folder(Path(folder)))


def of_vocabulary(vocabulary: Vocabulary) -> Tokenizer:
    if vocabulary.kind == "char":
        return CharTokenizer(vocabulary.ids.keys() - {*vocabulary.special}, vocabulary)
    return ByteTokenizer(vocabulary) if vocabulary.kind == "byte" else BPETokenizer(vocabulary)


def with_special(tokenizer: Tokenizer, tokens: Sequence[str], **roles: str) -> Tokenizer:
    """The same with special tokens behind its ids, those that it has not yet: every text keeps its ids.

    No text ever gives a special token's id, whatever it spells; vocabulary.ids[token] is that id. `roles`
    say what one is for, as in pad_token="<|pad|>". Raises UserError where a token is a piece of text.
    """
    return of_vocabulary(tokenizer.vocabulary.with_special(tokens, **roles))


def utf(text: str, encoding: str) -> bytes:
    """A text's bytes. Half of a surrogate pair alone is no character, and has none."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise UserError(f"U+{ord(character):04X} at position {error.start} is no character of Unicode") from None
