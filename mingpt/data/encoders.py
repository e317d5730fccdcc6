"""What kind of tokenizer a tokenizer.json is; a BPE encoder ten times as fast as the library's; GPT-2's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mingpt.data.bpe import BYTE_CHARACTERS, GPT2_PATTERN
from mingpt.errors import UserError

Encoder = Callable[[str], np.ndarray]  # text -> ids, int32
BYTE_IDS = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
# The pre-tokenizers of gpt2 and bpe, and of byte.
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES = WORDS | {"use_regex": False}
GPT2_MERGES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
SHORT = 2000  # characters: for less text, building tiktoken's encoder (0.5 s for GPT-2) does not pay off
LONG_WHITESPACE = re.compile(r"\s{100000}")  # tiktoken's stack overflows between 800,000 and a million


def find_kind(content: dict[str, Any]) -> str:
    """char, byte or bpe for a tokenizer such as are created here, for any other the library's name of its model."""
    model, split, added = content["model"], content["pre_tokenizer"], content["added_tokens"]
    options = {key for key, value in model.items() if value} - {"type", "vocab", "merges", "fuse_unk"}
    if model["type"] == "BPE" and not options and not content["normalizer"] and all(t["special"] for t in added):
        tokens = model["vocab"].keys() - {token["content"] for token in added}
        if split == WORDS and tokens >= BYTE_IDS.keys():
            return "bpe"
        if split == BYTES and tokens == BYTE_IDS.keys():
            return "byte"
        if split is None and all(len(token) == 1 for token in tokens):
            return "char"
    return model["type"]


def tiktoken_encoder(vocab: dict[str, int], merges: list[list[str]], library: Any) -> Encoder | None:
    """tiktoken merges two tokens whenever they make a third. The library does the same if no two merges make the same
    token and each token is what its bytes are merged to; otherwise the result is None.
    """
    import tiktoken

    tokens = [*BYTE_CHARACTERS, *map("".join, merges)]
    if len({*tokens}) < len(tokens) or any(len(library.model.tokenize(token)) > 1 for token in tokens):
        return None
    ranks = {bytes(BYTE_IDS[character] for character in token): rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("bpe", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ids = np.array([vocab[token] for token in tokens], dtype=np.int32)  # ids[rank]
    return lambda text: ids[np.array(encoding.encode_ordinary(text), dtype=np.int64)]


def load_gpt2_merges() -> list[list[str]]:
    """The merges of GPT-2's vocabulary, which tiktoken downloads once."""
    from tiktoken.load import read_file_cached

    try:
        return parse_merges(read_file_cached(GPT2_MERGES, GPT2_SHA256).decode())
    except (OSError, ValueError) as error:  # no network; or not the file that was expected
        problem = f"its vocabulary cannot be downloaded ({type(error).__name__}), which is done once"
        raise UserError(f"--tokenizer gpt2: {problem}; char, byte and bpe need no network") from None


def parse_merges(text: str) -> list[list[str]]:
    """The merges in a file such as GPT-2's: a line with its version, then one merge a line."""
    return [line.split() for line in text.split("\n") if line and not line.startswith("#version")]
