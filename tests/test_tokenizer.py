"""Tokenizers: every text comes back, and transformers and tiktoken give the same ids."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiktoken
from conftest import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mingpt import load_tokenizer
from mingpt.data import bpe
from mingpt.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from mingpt.data.vocabulary import Vocabulary

SAMPLES = [
    "Hello world",
    "  two  spaces\tand\ta tab  ",
    "CR LF\r\nand\rCR\n\n\nthree ends",
    "中文分词没有空格。\n第二行",
    "emoji 👩‍👩‍👧 🎉 e\u0301 combining, \u00a0 no-break space",
    "русский, العربية, हिन्दी, ไทย, 한국어, עברית",
    "it's we'll I'VE 3.14159 1,000,000 ___ ####",
    "\x00\x01\x1c\x7f control",
    "a",
    "\n",
    TEXT,
]


@functools.cache
def gpt2_once() -> BPETokenizer:
    return BPETokenizer.gpt2()


TOKENIZERS = {
    "char": lambda: CharTokenizer("".join(SAMPLES)),
    "byte": ByteTokenizer,
    "gpt2": gpt2_once,
    "bpe": lambda: BPETokenizer(Vocabulary.of_merges(bpe.learn(bpe.count_words(SAMPLES), 400))),
    "bpe without a pair": lambda: BPETokenizer(Vocabulary.of_merges([])),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_comes_back_and_transformers_gives_the_same_ids(name, tmp_path, cache):
    tokenizer = TOKENIZERS[name]()
    tokenizer.save(tmp_path)
    loaded, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.pieces == tokenizer.pieces
    assert loaded.end_of_text == tokenizer.end_of_text == theirs.eos_token_id == theirs.bos_token_id
    assert len(theirs) == len(tokenizer.pieces)
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_array(text).tolist() == ids
        assert loaded.encode(text) == ids
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(cache, text):
    for tokenizer in (ByteTokenizer(), CharTokenizer(text), gpt2_once()):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_gpt2_gives_the_ids_of_tiktoken(cache, text):
    assert gpt2_once().encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)


def test_a_spelled_special_token_stays_plain_text(cache):
    tokenizer = gpt2_once()
    ids = tokenizer.encode("<|endoftext|>")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "<|endoftext|>"


def test_a_character_it_lacks_is_named():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3"):
        CharTokenizer("abc").encode("abcé")
    with pytest.raises(ValueError, match="'z'"):
        CharTokenizer("abc").encode("z")
    for tokenizer in (CharTokenizer("abc"), ByteTokenizer(), gpt2_once()):
        with pytest.raises(ValueError, match=r"U\+D800 at position 1"):
            tokenizer.encode("a\ud800")


def test_an_unknown_id_is_named():
    for unknown in (-1, 3):
        with pytest.raises(ValueError, match=f"{unknown} is no id"):
            CharTokenizer("abc").decode([0, unknown])


def test_ids_of_characters_follow_their_code_points():
    assert CharTokenizer("hello").encode("hole") == [1, 3, 2, 0]
    assert CharTokenizer("b🎉a中").encode("🎉中ba").__repr__() == "[3, 2, 1, 0]"
    assert np.array_equal(CharTokenizer("b🎉a中").encode_array("ab"), [0, 1])
