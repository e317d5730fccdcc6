"""From a corpus to token files and batches: how it is divided, and that batches are a pure function."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TEXT

from mingpt.cli import parse
from mingpt.config import TrainConfig
from mingpt.data import sources, text
from mingpt.data.examples import Data
from mingpt.data.text import Windows, load_text
from mingpt.data.tokenizer import TOKENIZERS, Tokenizer
from mingpt.resolve import resolve
from mingpt.run import read_facts

MIXED = "naïve 中文字,没有空格。 🎉🎉\r\n\n  it's   10,000\t\t!! \n\n\nend  \x1c?\x1c <|endoftext|>" * 3


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file, or several of a folder, with a cache of its own; gives the path."""
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))

    def write(*contents: str) -> str:
        for i, content in enumerate(contents):
            path = tmp_path / str(len(contents)) / f"{i}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode("utf-8"))
        return str(path if len(contents) == 1 else path.parent)

    return write


def decode(data: Data) -> str:
    return data.tokenizer.decode([*data.train, *data.validation])


def windows_of(tokens: int, block_size: int, batch_size: int) -> Windows:
    """Windows of the training tokens 0, 1, 2, ..."""
    return Windows(Data("a", "", None, np.arange(tokens), np.arange(50), tokens), block_size, batch_size)


@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_tokens_are_those_of_the_whole_text_divided_at_nine_tenths(write, monkeypatch, name, chunk):
    monkeypatch.setattr(sources, "CHUNK", chunk)
    data = load_text(write("\ufeff" + MIXED), name, 300)
    cut = len(MIXED) * 9 // 10
    parts = [data.tokenizer.encode(part) for part in (MIXED[:cut], MIXED[cut:])]
    assert [data.train.tolist(), data.validation.tolist()] == parts and data.tokens == len(data.train)
    assert decode(data) == MIXED and data.tokenizer.eos_id not in parts[0]


def test_there_is_an_end_of_text_token_between_documents(write):
    contents, eos = ("one " * 30, "two " * 30, "three " * 10), "<|endoftext|>"
    bpe = TOKENIZERS["bpe"](contents, [], 270)
    assert decode(load_text(write("".join(contents)), bpe)) == "".join(contents)
    assert decode(load_text(write(*contents), bpe)) == eos.join(contents)
    assert decode(load_text(write(*contents), "char")) == "".join(contents)  # which has no such token


def test_a_long_text_in_an_alphabet_is_cut_into_bpe_tokens_by_default(write, monkeypatch):
    chinese = "\u4e2d\u6587" * len(TEXT)

    def kind(content: str, *flags: str) -> str:
        asked = parse(TrainConfig, ["--data", write(content), *flags], "", "")
        data, facts = read_facts(asked)
        config = resolve(asked, facts)
        assert config.tokenizer == data.tokenizer.kind
        assert (config.vocab_size is None) == (config.tokenizer == "char")
        return data.tokenizer.kind

    assert kind(TEXT) == kind(TEXT[:-1]) == "char"
    monkeypatch.setattr(text, "LONG", len(TEXT))
    assert kind(TEXT) == "bpe" and kind(TEXT[:-1]) == "char"
    assert kind(TEXT + chinese) == "char" and kind(TEXT + "\u043c\u0438\u0440" * 100) == "bpe"
    assert kind(TEXT, "--tokenizer", "char") == "char"
    assert kind(TEXT[:-1], "--vocab_size", "300") == "bpe"  # characters have no vocab_size


def test_merges_are_learned_from_the_training_part_alone(write):
    cut = len(TEXT) * 9 // 10
    data, other = (load_text(write(TEXT[:cut] + rest), "bpe", 300) for rest in (TEXT[cut:], "z" * (len(TEXT) - cut)))
    expected = TOKENIZERS["bpe"]([TEXT[:cut]], [], 300)
    assert data.tokenizer.vocab == other.tokenizer.vocab == expected.vocab and data.tokenizer.vocab_size == 300
    assert "Z" in load_text(write(TEXT + "Z"), "char").tokenizer.vocab  # an alphabet has all characters


def test_tokens_are_cached_by_the_contents_of_text_and_tokenizer(write, tmp_path, monkeypatch):
    pieces, encode = [], Tokenizer.encode_array
    monkeypatch.setattr(Tokenizer, "encode_array", lambda *arguments: pieces.append(arguments[1]) or encode(*arguments))
    first = load_text(write(TEXT), "byte")
    assert isinstance(first.train, np.memmap) and "".join(pieces) == TEXT
    again = load_text(write(TEXT), TOKENIZERS["byte"]([], [], None))
    assert np.array_equal(first.train, again.train) and "".join(pieces) == TEXT
    assert len(load_text(write(TEXT), "bpe", 270).train) < len(first.train)
    assert decode(load_text(write(TEXT.upper()), "byte")) == TEXT.upper()
    assert [len([*(tmp_path / "cache").glob(f"*.{part}")]) for part in ("train", "validation")] == [3, 3]


def test_each_epoch_has_every_token_once_at_a_new_offset_in_a_new_order():
    windows = windows_of(tokens=100, block_size=8, batch_size=1)
    epochs = [[windows.batch(0, step)[0][0] for step in range(11 * i, 11 * i + 11)] for i in range(6)]
    tokens = [np.sort(np.concatenate(epoch)) for epoch in epochs]
    assert all(np.array_equal(part, part[0] + np.arange(88)) for part in tokens)
    assert 1 < len({part[0] for part in tokens}) and max(part[0] for part in tokens) < 8
    order = [[int(window[0]) // 8 for window in epoch] for epoch in epochs]
    assert order[0] != sorted(order[0]) and order[0] != order[1]


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, two = windows_of(1000, 8, 4), windows_of(1000, 8, 4)
    for step in (500, 7, 0):
        x, y = one.batch(3, step)
        assert x.shape == y.shape == (4, 8) and x.dtype == y.dtype == np.int64
        assert np.array_equal(y, x + 1)  # each target is the next token
    assert np.array_equal(two.batch(3, 0), [x, y])  # as the first batch that is asked for
    assert not np.array_equal(two.batch(4, 0), [x, y])


def test_validation_has_every_target_once(monkeypatch):
    batches = list(windows_of(100, 8, 4).validation_batches(batch_size=4))
    assert [batch.shape for batch in batches] == [(4, 9), (2, 9), (1, 2)]
    assert np.concatenate([batch[:, 1:].flatten() for batch in batches]).tolist() == list(range(1, 50))
    monkeypatch.setattr(text, "EVALUATION_TOKENS", 20)  # of 50: every third window is evaluated
    sample = windows_of(100, 8, 4).validation_batches(batch_size=4)
    assert [window[0] for batch in sample for window in batch] == [0, 24, 48]
