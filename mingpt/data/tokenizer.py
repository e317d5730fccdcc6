"""Tokenizers convert text to token ids and back.

    char    one id per character of the text, in the order of code points
    byte    one id per byte of UTF-8
    gpt2    GPT-2's byte-level BPE
    bpe     byte-level BPE learned from the training text (bpe.py)

Each is a tokenizer of the `tokenizers` library; char and byte are a BPE without merges. Its file tokenizer.json is also
that of transformers: what is saved here opens there with equal ids, and the other way round.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mingpt.data import bpe, encoders
from mingpt.errors import UserError
from mingpt.files import atomic_write, read_json, write_json

END_OF_TEXT = "<|endoftext|>"
ROLES = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}  # GPT-2's; its files do not name them
# Between these characters GPT-2's words end; the last seven marks are Chinese. (An apostrophe may be within a word.)
LAST_CUT = re.compile(r".*(?:\S(?=[ \n])|[,.;:!?\uff0c\u3002\uff1b\uff1a\uff01\uff1f\u3001](?=[^\W_]))", re.DOTALL)
MAX_CHUNK = 1 << 17  # characters without such a place


class Tokenizer:
    """The content of a tokenizer.json, the roles of its special tokens, such as {"eos_token": "<|endoftext|>"}, and
    transformers' chat template, "" if there is none. Text that spells a special token stays plain text.
    """

    def __init__(self, content: dict[str, Any], roles: dict[str, str], chat_template: str = ""):
        import tokenizers

        self.library = tokenizers.Tokenizer.from_str(json.dumps(content | {"truncation": None, "padding": None}))
        self.library.encode_special_tokens = True
        self.content, self.chat_template = json.loads(self.library.to_str()), chat_template  # with all options
        self.vocab: dict[str, int] = self.library.get_vocab()
        self.vocab_size = max(self.vocab.values(), default=-1) + 1
        self.roles = {role: token for role, token in roles.items() if token in self.vocab}
        self.eos_id = self.vocab.get(self.roles.get("eos_token", ""))
        self.special_ids = {t["content"]: t["id"] for t in self.content["added_tokens"] if t["special"]}
        self.kind = encoders.find_kind(self.content)

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of a text. Raises UserError for a character that a char tokenizer lacks, and for a lone surrogate."""
        if half := re.search("[\ud800-\udfff]", text):
            raise UserError(f"U+{ord(half[0]):04X} at position {half.start()} is a lone surrogate, not a character")
        if self.kind in ("char", "byte"):
            encoding, dtype = ("utf-32-le", np.uint32) if self.kind == "char" else ("utf-8", np.uint8)
            ids = self.id_table[np.frombuffer(text.encode(encoding), dtype=dtype)]
            for position in np.flatnonzero(ids < 0):
                name = f"{text[position]!r} (U+{ord(text[position]):04X})"
                raise UserError(f"the character {name} at position {position} is not in the tokenizer's vocabulary")
            return ids
        is_large = len(text) >= encoders.SHORT and not encoders.LONG_WHITESPACE.search(text)
        return self.fast_encoder(text) if self.kind == "bpe" and is_large else self.encode_with_library(text)

    @functools.cached_property
    def id_table(self) -> np.ndarray:
        """Of char and byte: the id of each code point or byte, -1 for those that have none."""
        table = np.full(0x110000, -1, dtype=np.int32)
        for token in self.vocab.keys() - self.special_ids.keys():
            table[ord(token) if self.kind == "char" else encoders.BYTE_IDS[token]] = self.vocab[token]
        return table

    @functools.cached_property
    def fast_encoder(self) -> encoders.Encoder:
        model = self.content["model"]
        return encoders.tiktoken_encoder(model["vocab"], model["merges"], self.library) or self.encode_with_library

    def encode_with_library(self, text: str) -> np.ndarray:
        return np.array(self.library.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, special tokens spelled out. An incomplete character becomes U+FFFD."""
        return self.library.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    @functools.cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of text that each id stands for; none for special tokens."""
        is_byte_level = '"ByteLevel"' in json.dumps(self.content["decoder"])
        result = {}
        for token, i in self.vocab.items():
            if is_byte_level and encoders.BYTE_IDS.keys() >= set(token):
                result[i] = bytes(encoders.BYTE_IDS[character] for character in token)
            elif re.fullmatch("<0x[0-9A-F]{2}>", token):  # one byte, in vocabularies of SentencePiece
                result[i] = bytes.fromhex(token[3:5])
            else:  # the second of two, since the first may lose its space
                result[i] = self.decode([i, i])[len(self.decode([i])) :].encode()
        return result | dict.fromkeys(self.special_ids.values(), b"")

    def name_of(self, i: int) -> str:
        """An id as text: a special token as it is spelled, a part of a character by its bytes, as bytes:\\xe4."""
        text = self.token_bytes.get(i, b"")
        with contextlib.suppress(UnicodeDecodeError):
            return text.decode() or self.decode([i])
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text that each id stands for (vocab_size,); 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for i, text in self.token_bytes.items():
            lengths[i] = len(text)
        return lengths

    def with_special(self, tokens: Iterable[str], chat_template: str = "", **roles: str) -> Tokenizer:
        """The same with these special tokens, new ones behind all ids."""
        tokens = dict.fromkeys(token for token in tokens if token not in self.special_ids)
        new = {token: i for i, token in enumerate((t for t in tokens if t not in self.vocab), start=self.vocab_size)}
        ids = self.vocab | new
        flags = {"special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
        added = [token for token in self.content["added_tokens"] if token["content"] not in tokens]
        added += [{"id": ids[token], "content": token, **flags} for token in tokens]
        model = self.content["model"]
        if self.vocab_size > len(self.vocab):  # else the library gives them unused ids
            model = model | {"vocab": model["vocab"] | {token["content"]: token["id"] for token in added}}
        content = self.content | {"added_tokens": sorted(added, key=lambda token: token["id"]), "model": model}
        return Tokenizer(content, self.roles | roles, chat_template or self.chat_template)

    def save(self, folder: str | Path, model_max_length: int | None = None, truncation_side: str | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens with equal ids."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        # transformers renders a chat template to text, in which the special tokens must become ids
        options = {"chat_template": self.chat_template, "split_special_tokens": not self.chat_template}
        options |= {"model_max_length": model_max_length, "truncation_side": truncation_side}
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= dict.fromkeys(ROLES) | self.roles | {key: value for key, value in options.items() if value}
        with atomic_write(Path(folder, "tokenizer.json")) as temporary:
            temporary.write_text(json.dumps(self.content, ensure_ascii=False), encoding="utf-8")
        write_json(Path(folder, "tokenizer_config.json"), config)

    def sha256(self) -> str:
        """Hash of everything that decides ids."""
        return hashlib.sha256(json.dumps([self.content, self.roles], sort_keys=True).encode()).hexdigest()


class TextStream:
    """Decodes id by id. What `add` and `flush` return is, together, the text that `decode` gives for all ids."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []  # the newest; the first `context` of them are decoded and whole characters
        self.context = self.length = 0  # length: characters of self.ids that were returned

    def add(self, token_id: int) -> str:
        """The characters that are now certain: U+FFFD at the end may become another one."""
        self.ids.append(token_id)
        text = self.tokenizer.decode(self.ids)
        new = text.rstrip("\ufffd")[self.length :]
        self.length += len(new)
        if new and not text.endswith("\ufffd"):
            del self.ids[: self.context]  # the rest stays: in some tokenizers a space depends on the token before it
            self.context, self.length = len(self.ids), len(self.tokenizer.decode(self.ids))
        return new

    def flush(self) -> str:
        return self.tokenizer.decode(self.ids)[self.length :]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder: any tokenizer.json, or GPT-2's two files, vocab.json and merges.txt."""
    path, vocab, merges = (Path(folder, name) for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    config_path, jinja = Path(folder, "tokenizer_config.json"), Path(folder, "chat_template.jinja")
    if not path.exists() and not vocab.exists():
        raise UserError(f"{folder}: has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are accepted")
    config = read_json(config_path) if config_path.exists() else {}
    named = {role: token for role, token in config.items() if role.endswith("_token")}
    roles = {role: token.get("content") if isinstance(token, dict) else token for role, token in named.items()}
    try:
        if path.exists():
            content = read_json(path)
        else:
            pairs = encoders.parse_merges(merges.read_text(encoding="utf-8"))
            content = bpe_content(read_json(vocab), pairs, encoders.WORDS)
        template = jinja.read_text(encoding="utf-8") if jinja.exists() else config.get("chat_template", "")
        tokenizer = Tokenizer(content, ROLES | roles, template)
    except Exception as error:  # the library's errors have no type of their own
        names = path.name if path.exists() else f"{vocab.name} or {merges.name}"
        raise UserError(f"{folder}: {names} is corrupt or not a tokenizer ({error})") from None
    missing = tokenizer.roles.values() - tokenizer.special_ids.keys()
    return tokenizer.with_special(missing) if missing else tokenizer


def bpe_content(vocab: dict[str, int], merges: Sequence[Sequence[str]], split: dict[str, Any] | None) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    return {"added_tokens": [], "pre_tokenizer": split, "decoder": split or {"type": "Fuse"}, "model": model}


def new_tokenizer(tokens: Sequence[str], merges: Sequence[Sequence[str]], split: dict[str, Any] | None) -> Tokenizer:
    return Tokenizer(bpe_content({token: i for i, token in enumerate(tokens)}, merges, split), {})


def byte_level_bpe(merges: Sequence[Sequence[str]]) -> Tokenizer:
    tokens = [*sorted(bpe.BYTE_CHARACTERS), *map("".join, merges)]  # GPT-2's order
    return new_tokenizer(tokens, merges, encoders.WORDS).with_special([END_OF_TEXT], **ROLES)


TOKENIZERS: dict[str, Callable[[Iterable[str], Iterable[str], int | None], Tokenizer]] = {
    "char": lambda train, other, size: new_tokenizer(sorted(set(chain.from_iterable(chain(train, other)))), [], None),
    "byte": lambda train, other, size: new_tokenizer(bpe.BYTE_CHARACTERS, [], encoders.BYTES),
    "gpt2": lambda train, other, size: byte_level_bpe(encoders.load_gpt2_merges()),
    "bpe": lambda train, other, size: byte_level_bpe(bpe.learn(bpe.count_words(train), size)),
}


def split_between_words(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that can be encoded one by one, cut where GPT-2's words end. Only more than MAX_CHUNK
    characters without such a place are cut elsewhere.
    """
    rest = ""
    for chunk in chunks:
        for start in range(0, len(chunk), MAX_CHUNK):
            searched = max(0, len(rest) - 1)
            rest += chunk[start : start + MAX_CHUNK]
            cut = LAST_CUT.match(rest, searched)
            if cut or len(rest) > MAX_CHUNK:
                end = cut.end() if cut else len(rest)
                yield rest[:end]
                rest = rest[end:]
    if rest:
        yield rest
