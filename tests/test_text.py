"""From text to batches: how it is cut, and that batches are a pure function."""

from __future__ import annotations

import dataclasses
import functools
import io
import random
import tracemalloc

import numpy as np
import pytest
import tiktoken
import torch
from conftest import TEXT, data_of, read
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mingpt import GPT, load_tokenizer
from mingpt.config import TrainConfig, resolve
from mingpt.data import bpe, documents, text
from mingpt.data.documents import find_documents
from mingpt.data.text import tokenize, whole_words
from mingpt.data.tokenizer import BPETokenizer, CharTokenizer
from mingpt.data.vocabulary import Vocabulary
from mingpt.errors import UserError
from mingpt.tasks.text import TextTask


def test_a_folder_is_read_in_order_with_end_of_text_between_files(tmp_path, cache):
    for name, content in {"b.txt": "two", "a/z.txt": "one", "c.txt": "three", ".hidden": "\0", ".git/x": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert read(tmp_path) == "onetwothree"
    assert read(tmp_path, "gpt2") == "one<|endoftext|>two<|endoftext|>three"
    name, found = find_documents(str(tmp_path))
    tokenizer, ids, _ = tokenize(found, "gpt2")
    assert (ids == tokenizer.end_of_text).sum() == 2


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_the_size_of_chunks_changes_nothing(tmp_path, monkeypatch, chunk, cache):
    content = "\ufeffnaïve 中文字 🎉🎉\r\n\n  it's   10,000\t\t!! \n\n\nend  \x1c?\x1c x" * 3
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8", newline="")
    monkeypatch.setattr(documents, "CHUNK_BYTES", chunk)
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    plain = content[1:]
    assert read(path, "char") == plain
    _, found = find_documents(str(path))
    tokenizer, ids, _ = tokenize(found, "gpt2")
    assert ids.tolist() == tokenizer.encode(plain)


def test_pieces_are_learned_once_for_each_text_and_size(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    asked = []
    learn = bpe.learn
    monkeypatch.setattr(bpe, "learn", lambda words, size: asked.append(size) or learn(words, size))
    documents = find_documents(str(path))[1]
    tokenizer, ids, _ = tokenize(documents, "bpe", 300)
    assert tokenizer.vocabulary.merges == learn(bpe.count_words([TEXT]), 300)
    assert len(tokenizer.pieces) == 300
    assert tokenizer.decode(ids.tolist()) == TEXT
    again, same_ids, _ = tokenize(documents, "bpe", 300)
    assert again.vocabulary == tokenizer.vocabulary and np.array_equal(ids, same_ids)
    assert asked == [300]
    _, fewer_ids, _ = tokenize(documents, "bpe", 310)
    assert asked == [300, 310] and len(fewer_ids) < len(ids)
    path.write_text(TEXT + "more", encoding="utf-8")
    tokenize(documents, "bpe", 300)
    assert asked == [300, 310, 300]


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_size_of_chunks_does_not_change_what_is_learned(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(documents, "CHUNK_BYTES", chunk)
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text(TEXT[:2000] + "中文 中文", encoding="utf-8")
    tokenizer, ids, _ = tokenize(find_documents(str(tmp_path / "texts"))[1], "bpe", 320)
    expected = bpe.learn(bpe.count_words(2 * [TEXT[:2000] + "中文 中文"]), 320)
    assert tokenizer.vocabulary.merges == expected
    assert (ids == tokenizer.end_of_text).sum() == 1


def test_a_text_that_changes_while_its_pieces_are_learned_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    survey = text.survey

    def changing(found):
        result = survey(found)
        path.write_text(TEXT + "more", encoding="utf-8")
        return result

    monkeypatch.setattr(text, "survey", changing)
    with pytest.raises(UserError, match="has changed while it was read"):
        tokenize(find_documents(str(path))[1], "bpe", 300)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_tokenizer_that_is_there_is_used_and_its_content_tells_token_files_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    documents = find_documents(str(path))[1]
    merges = bpe.learn(bpe.count_words([TEXT]), 300)
    one, other = Vocabulary.of_merges(merges), Vocabulary.of_merges(merges[:9])
    shuffled = dataclasses.replace(one, ids={token: 299 - i for token, i in one.ids.items()})
    for vocabulary in (one, other, shuffled, one):
        tokenizer = BPETokenizer(vocabulary)
        used, ids, _ = tokenize(documents, tokenizer)
        assert used is tokenizer
        assert ids.tolist() == tokenizer.encode(TEXT)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    tokenizer.save(tmp_path / "model")
    tokenize(documents, load_tokenizer(tmp_path / "model"))
    tokenize(documents, "bpe", 300)
    assert len(list((tmp_path / "cache").glob("*.tokens"))) == 3  # the same content, the same file


def test_a_tokenizer_of_characters_that_lacks_some_of_the_text_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdéé", encoding="utf-8")
    with pytest.raises(UserError, match=r"the text holds 2 characters that .* such as 'd' \(U\+0064\)"):
        tokenize(find_documents(str(path))[1], CharTokenizer("abc"))


def test_a_task_learns_as_many_pieces_as_the_settings_say(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    task = TextTask(resolve(TrainConfig(data=str(path), tokenizer="bpe", vocab_size=280)))
    assert task.model_config().vocab_size == len(task.tokenizer.pieces) == 280
    assert "(bpe, 280 different)" in task.description()


def test_smoothed_labels_change_what_is_learned_and_not_what_is_measured(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    plain, smoothed = (
        TextTask(resolve(TrainConfig(data=str(tmp_path / "a.txt"), block_size=8, label_smoothing=a))) for a in (0, 0.2)
    )
    model = GPT(plain.model_config())
    x, y = plain.batch(0)
    expected = [F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=a) for a in (0, 0.2)]
    torch.testing.assert_close([plain.loss(model, x, y), smoothed.loss(model, x, y)], expected)
    assert plain.evaluate(model, "cpu") == smoothed.evaluate(model, "cpu")


@functools.cache
def gpt2_once() -> BPETokenizer:
    return BPETokenizer.gpt2()


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.text(st.sampled_from("ab 1!.,'s\n\t\r\x1c\u00a0\u3000é中\u3002\uff1f²")) | st.text(), max_size=12)
)
def test_chunks_of_whole_words_have_the_ids_of_the_whole_text(cache, parts):
    tokenizer = gpt2_once()
    whole = "".join(parts)
    pieces = list(whole_words(iter(parts)))
    assert "".join(pieces) == whole
    assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(whole)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["a b", "b. c", " b", "x.y", ".", " ", "\n", "a", "b", "c", "x"]), max_size=30),
    chunk=st.integers(1, 9),
)
def test_chunks_of_whole_words_do_not_cut_added_tokens(parts, chunk):
    added = ("a b", "b. c", " b", "x.y.", "c")
    learned = Vocabulary.of_merges([(".", "."), ("a", "b")])
    ids = learned.ids | {token: len(learned.ids) + i for i, token in enumerate(added)}
    tokenizer = BPETokenizer(dataclasses.replace(learned, ids=ids, added=added))
    whole = "".join(parts)
    pieces = list(whole_words((whole[i : i + chunk] for i in range(0, len(whole), chunk)), added))
    assert "".join(pieces) == whole
    assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(whole)


def chinese(characters: int) -> str:
    """One line without a space, a mark now and then."""
    chance = random.Random(0)
    words = (
        "".join(chance.choices("中文字的一是不了人我在有他这为之大来以个", k=chance.randint(2, 30)))
        for _ in iter(int, 1)
    )
    line = io.StringIO()
    while line.tell() < characters:
        line.write(next(words) + chance.choice("\uff0c\u3002\uff1f\u3001"))
    return line.getvalue()


def test_text_without_spaces_is_cut_into_short_pieces_with_the_ids_of_tiktoken(cache):
    whole = chinese(600_000)
    chunks = (whole[i : i + 50_000] for i in range(0, len(whole), 50_000))
    pieces = list(whole_words(chunks))
    assert max(map(len, pieces)) < 60_000
    ids = [i for piece in pieces for i in gpt2_once().encode(piece)]
    assert ids == tiktoken.get_encoding("gpt2").encode_ordinary(whole)


@pytest.mark.parametrize("character", ["a", "中", " ", "\n", "-"])
def test_a_line_without_an_end_needs_neither_all_memory_nor_a_deep_stack(cache, character):
    pieces = whole_words(character * 400_000 for _ in range(6))
    tracemalloc.start()
    lengths = [len(piece) for piece in pieces if gpt2_once().encode(piece)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(lengths) == 2_400_000
    assert max(lengths) <= 2 * text.LONGEST_WORD
    assert peak < 50e6


def test_the_last_tenth_is_for_validation_and_covers_every_target_once(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    data = data_of(path)
    assert len(data.train) == len(TEXT) * 9 // 10
    targets = np.concatenate([window[1:] for window in data.validation_windows()])
    assert data.tokenizer.decode(targets.tolist()) == TEXT[len(data.train) + 1 :]


def test_of_a_large_validation_part_a_fixed_sample_is_taken_and_said(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    assert data_of(path).validation_note == "all of it"
    whole = data_of(path).validation_windows()
    monkeypatch.setattr(text, "EVALUATION_TOKENS", len(TEXT) // 35)
    sample = data_of(path)
    assert sample.validation_note == "every 4th window of 8"
    assert [w.tolist() for w in sample.validation_windows()] == [w.tolist() for w in whole[::4]]


def test_a_batch_is_a_pure_function_of_seed_and_step(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    one, two = data_of(path), data_of(path)
    later = two.batch(3, 500)  # asked for in another order
    for step in (0, 7, 500):
        for a, b in zip(one.batch(3, step), two.batch(3, step), strict=True):
            assert np.array_equal(a, b)
    assert np.array_equal(later[0], one.batch(3, 500)[0])
    assert not np.array_equal(one.batch(3, 0)[0], one.batch(4, 0)[0])
    x, y = one.batch(3, 0)
    assert x.shape == y.shape == (4, 8)
    assert np.array_equal(x[:, 1:], y[:, :-1])


def test_every_epoch_shows_each_window_once_at_a_new_offset_in_a_new_order(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(1, 128)) * 4)  # no window of 8 occurs twice within 127 bytes
    data = data_of(path, "byte", batch_size=1)
    rows = [data.batch(0, step)[0][0].tolist() for step in range(3 * data.windows)]
    train = data.train.tolist()
    epochs = [rows[i * data.windows : (i + 1) * data.windows] for i in range(3)]
    offsets = set()
    for epoch in epochs:
        fits = [
            o
            for o in range(8)
            if sorted(epoch) == sorted(train[o + 8 * i : o + 8 * i + 8] for i in range(data.windows))
        ]
        assert fits
        offsets.add(fits[0])
    assert len(offsets) > 1
    assert epochs[0] != sorted(epochs[0])


def test_a_batch_may_span_epochs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefghij" * 5, encoding="utf-8")
    single, wide = data_of(path, batch_size=1), data_of(path, batch_size=4 * single_windows(path))
    rows = np.concatenate([single.batch(1, step)[0] for step in range(wide.batch_size)])
    assert np.array_equal(wide.batch(1, 0)[0], rows)


def single_windows(path) -> int:
    return data_of(path, batch_size=1).windows


def test_a_window_that_is_too_long_for_the_text_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcde" * 20, encoding="utf-8")
    with pytest.raises(UserError, match="--block_size 46: is too long .* at most 45 is accepted"):
        data_of(path, block_size=46)
    assert data_of(path, block_size=45).windows == 1
