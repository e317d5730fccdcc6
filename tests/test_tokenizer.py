"""Tokenizers: every text comes back, and transformers and tiktoken give the same ids."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import tiktoken
from conftest import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mingpt import load_tokenizer
from mingpt.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, byte_level
from mingpt.errors import UserError

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


def tokenizers():
    return {"char": CharTokenizer("".join(SAMPLES)), "byte": ByteTokenizer(), "gpt2": BPETokenizer.gpt2()}


@pytest.fixture(scope="module", params=["char", "byte", "gpt2"])
def tokenizer(request, cache):
    return tokenizers()[request.param]


@pytest.mark.parametrize("text", SAMPLES)
def test_text_comes_back_and_transformers_gives_the_same_ids(tokenizer, text, tmp_path):
    tokenizer.save(tmp_path)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids
    assert load_tokenizer(tmp_path).encode(text) == ids
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids) == text


@functools.cache
def gpt2_once() -> BPETokenizer:
    return BPETokenizer.gpt2()


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(cache, text):
    for tokenizer in (ByteTokenizer(), CharTokenizer(text), gpt2_once()):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_gpt2_gives_the_ids_of_tiktoken(cache, text):
    assert gpt2_once().encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)


def test_gpt2_saved_and_loaded_has_the_same_pieces(tmp_path, cache):
    tokenizer = BPETokenizer.gpt2()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pieces == tokenizer.pieces
    assert (len(loaded.pieces), loaded.end_of_text) == (50257, 50256)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (50257, 50256, 50256)


def test_a_spelled_special_token_stays_plain_text(cache):
    tokenizer = BPETokenizer.gpt2()
    ids = tokenizer.encode("<|endoftext|>")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "<|endoftext|>"


def test_a_character_it_lacks_is_named():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3"):
        CharTokenizer("abc").encode("abcé")
    with pytest.raises(ValueError, match="'z'"):
        CharTokenizer("abc").encode("z")
    for tokenizer in (CharTokenizer("abc"), ByteTokenizer(), BPETokenizer.gpt2()):
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


def damaged(tmp_path, **changes):
    CharTokenizer("abc").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"] |= changes.pop("model", {})
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return tmp_path


def test_files_of_another_kind_are_refused_by_name(tmp_path):
    for changes in (
        {"model": {"type": "WordPiece"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"merges": [["a", "b"]]}},
        {"model": {"vocab": {"a": 0, "b": 5}}},
        {"model": {"vocab": {"b": 0, "a": 1}}},  # would be opened with other ids
        {"model": {"vocab": {"ab": 0}}},
        {"model": {"vocab": {"": 0}}},
        {"model": {"vocab": {}}},
        {"normalizer": {"type": "NFC"}},
    ):
        with pytest.raises(UserError, match=r"tokenizer\.json: holds a tokenizer of a kind"):
            load_tokenizer(damaged(tmp_path, **changes))


@pytest.mark.parametrize("vocab", [["a", "b"], "ab", None, 5, {"a": "x"}, {"a": None, "b": 1}, {"\ud800": 0}])
@pytest.mark.parametrize("use_regex", [True, False, None])
@pytest.mark.parametrize("merges", [[], [["a", "b"]], ["a b"], [5], 5])
def test_files_that_are_not_built_like_a_tokenizer_are_refused_in_one_line(tmp_path, vocab, use_regex, merges):
    step = None if use_regex is None else byte_level(use_regex)
    with pytest.raises(UserError) as caught:
        load_tokenizer(damaged(tmp_path, model={"vocab": vocab, "merges": merges}, pre_tokenizer=step))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'tokenizer.json'}: ")


def test_pieces_of_words_with_other_ids_are_refused(tmp_path, cache):
    gpt2_once().save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["!"] = 5  # that of another byte, too
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: holds a tokenizer of a kind"):
        load_tokenizer(tmp_path)


def test_a_missing_or_torn_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(tmp_path)
    for content in ("", "{", "[]", '{"model": {}}', "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"tokenizer\.json: is torn"):
            load_tokenizer(tmp_path)
