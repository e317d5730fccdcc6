"""Text becomes numbers and comes back: characters, bytes, or GPT-2's byte-level BPE.

A tokenizer has

    encode(text) -> ids        ValueError where it lacks a character, naming it
    decode(ids)  -> text       the exact text that was encoded
    encode_array(text)         the same ids as a numpy array: the fast way for a whole book
    pieces                     pieces[id] is the UTF-8 bytes that an id stands for
    end_of_text                the id that closes a document, or None
    save(folder)               tokenizer.json and tokenizer_config.json

and its two files open in transformers' AutoTokenizer with the same ids. There, a tokenizer is
always a BPE: `merges` is the list of pairs to join, first the most frequent. Characters and bytes
are the BPE with no merges, over an alphabet of characters or of bytes.

GPT-2 writes a byte as a printable character, so that its files hold no control codes:
BYTE_CHARACTERS[byte] is that character (Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mingpt import files
from mingpt.errors import UserError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    pieces: list[bytes]
    end_of_text: int | None

    def encode(self, text: str) -> list[int]: ...
    def encode_array(self, text: str) -> np.ndarray: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def save(self, folder: str | Path) -> None: ...


class CharTokenizer:
    """One id for each character of a text, in the order of their code points.

    >>> CharTokenizer("hello").encode("hole")
    [1, 3, 2, 0]
    """

    end_of_text = None

    def __init__(self, alphabet: Iterable[str]):
        self.characters = sorted(set(alphabet))
        self.pieces = [character.encode("utf-8") for character in self.characters]
        self.points = np.array([ord(character) for character in self.characters], dtype=np.uint32)

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

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

    def decode(self, ids: Iterable[int]) -> str:
        return join(self.pieces, ids)

    def save(self, folder: str | Path) -> None:
        vocab = {character: i for i, character in enumerate(self.characters)}
        write_files(folder, vocab, merges=[], pre_tokenizer=None, decoder={"type": "Fuse"})


class ByteTokenizer:
    """An id is a byte of the text's UTF-8: any text, in any script, with a vocabulary of 256.

    >>> ByteTokenizer().encode("é")
    [195, 169]
    """

    end_of_text = None

    def __init__(self) -> None:
        self.pieces = [bytes([byte]) for byte in range(256)]

    def encode(self, text: str) -> list[int]:
        return list(utf(text, "utf-8"))

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(utf(text, "utf-8"), dtype=np.uint8)

    def decode(self, ids: Iterable[int]) -> str:
        return join(self.pieces, ids)

    def save(self, folder: str | Path) -> None:
        whole = byte_level(use_regex=False)
        write_files(folder, BYTE_VOCAB, merges=[], pre_tokenizer=whole, decoder=whole)


class BPETokenizer:
    """GPT-2's pieces of words, through tiktoken. Whatever a text spells stays plain text.

    `ranks` is the order in which pairs were learned, lowest first, and at once the id:
    {b"a": 64, ..., b" the": 262, ...}; the 256 bytes are in it.
    """

    def __init__(self, ranks: dict[bytes, int]):
        import tiktoken  # here, since most runs never need it

        self.ranks = ranks
        self.end_of_text = len(ranks)
        self.pieces = [*sorted(ranks, key=ranks.__getitem__), END_OF_TEXT.encode("utf-8")]
        self.encoding = tiktoken.Encoding(
            "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.end_of_text}
        )

    @classmethod
    def gpt2(cls) -> BPETokenizer:
        """GPT-2's own. tiktoken downloads its vocabulary once, and keeps it."""
        import tiktoken

        try:
            encoding = tiktoken.get_encoding("gpt2")
        except (OSError, ValueError) as error:  # a ValueError where what came is not what was expected
            raise UserError(
                f"--tokenizer gpt2: its vocabulary could not be downloaded ({type(error).__name__}); "
                "it needs the network once, char and byte never do"
            ) from None
        pieces = encoding.token_byte_values()
        return cls({piece: encoding.encode_single_token(piece) for piece in pieces if piece != END_OF_TEXT.encode()})

    def encode(self, text: str) -> list[int]:
        utf(text, "utf-8")
        return self.encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> np.ndarray:
        return np.array(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return join(self.pieces, ids)

    def save(self, folder: str | Path) -> None:
        vocab = {as_characters(piece): rank for piece, rank in self.ranks.items()}
        merges = [
            [as_characters(left), as_characters(right)]
            for left, right in (parts(piece, self.ranks) for piece in self.pieces[:-1] if len(piece) > 1)
        ]
        split = byte_level(use_regex=True)
        write_files(folder, vocab, merges, split, decoder=split, special={END_OF_TEXT: self.end_of_text})


def parts(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two pieces that were joined to make `piece`: its BPE by the pairs learned before it.

    >>> parts(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4})
    [b'a', b'bc']
    """
    found = [bytes([byte]) for byte in piece]
    while len(found) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(found)]
        i = pairs.index(min(pairs))
        found[i : i + 2] = [found[i] + found[i + 1]]
    return found


def new_tokenizer(name: str, alphabet: Iterable[str]) -> Tokenizer:
    """The tokenizer that `--tokenizer NAME` asks for; only char needs the text's characters."""
    if name == "char":
        return CharTokenizer(alphabet)
    return ByteTokenizer() if name == "byte" else BPETokenizer.gpt2()


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a run's folder. Raises UserError where its files are missing, torn or of another kind."""
    path = Path(folder) / "tokenizer.json"
    try:
        tokenizer = recognised(files.read_json_object(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is torn or no tokenizer file ({type(error).__name__}: {error})") from None
    if tokenizer is None:
        raise UserError(f"{path}: holds a tokenizer of a kind that cannot be opened here; char, byte and gpt2 can")
    return tokenizer


def recognised(content: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a tokenizer.json; None where it would give other ids than its file says.

    Raises ValueError, KeyError, TypeError or AttributeError where the content is not built like one.
    """
    model, pre_tokenizer = content["model"], content["pre_tokenizer"]
    vocab, merges = model["vocab"], model["merges"]
    if model["type"] != "BPE" or content.get("normalizer") is not None:
        return None
    if not merges and pre_tokenizer is None:
        is_of_characters = vocab and all(len(token) == 1 for token in vocab)
        in_order = {character: i for i, character in enumerate(sorted(vocab))}
        return CharTokenizer(vocab) if is_of_characters and vocab == in_order else None
    if not merges and pre_tokenizer == byte_level(use_regex=False):
        return ByteTokenizer() if vocab == BYTE_VOCAB else None
    if merges and pre_tokenizer == byte_level(use_regex=True):
        learned = [vocab.get("".join(pair)) for pair in merges]
        ids = sorted(vocab[character] for character in BYTE_VOCAB) + learned
        if ids == list(range(len(vocab))):
            return BPETokenizer({as_bytes(characters): rank for characters, rank in vocab.items()})
    return None


def write_files(
    folder: str | Path,
    vocab: dict[str, int],
    merges: list[list[str]],
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    special: dict[str, int] | None = None,
) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers and tokenizers read them."""
    kept_whole = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    special = special or {}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": content, **kept_whole} for content, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if special:
        config |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    files.write_json(Path(folder) / "tokenizer.json", tokenizer, indent=None)
    files.write_json(Path(folder) / "tokenizer_config.json", config)


def byte_level(use_regex: bool) -> dict[str, Any]:
    """tokenizers' step from text to BYTE_CHARACTERS and back; with use_regex it first splits by GPT2_PATTERN."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def join(pieces: list[bytes], ids: Iterable[int]) -> str:
    """The text of some ids. Half a character, where ids were cut off, shows as U+FFFD."""
    ids = list(ids)
    unknown = [i for i in ids if not 0 <= i < len(pieces)]
    if unknown:
        raise UserError(f"{unknown[0]} is no id of this tokenizer, which has {len(pieces)}")
    return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")


def utf(text: str, encoding: str) -> bytes:
    """A text's bytes. Half of a surrogate pair alone is no character, and has none."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise UserError(f"U+{ord(character):04X} at position {error.start} is no character of Unicode") from None


def byte_characters() -> list[str]:
    """GPT-2's character for each byte: itself where it prints, else the next one from U+0100 on."""
    itself = [chr(byte) for byte in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
    others = iter(chr(0x100 + i) for i in range(256))
    return [chr(byte) if chr(byte) in itself else next(others) for byte in range(256)]


def as_characters(piece: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in piece)


def as_bytes(characters: str) -> bytes:
    return bytes(BYTE_VOCAB[character] for character in characters)


BYTE_CHARACTERS = byte_characters()
BYTE_VOCAB = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}

# GPT-2's split of a text into words, before any pair is joined: English endings, then letters,
# digits and other marks, each with the space before it, then white space.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
