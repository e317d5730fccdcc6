"""A tokenizer whose ids would not be those of transformers is refused, by the names of the file and the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer_files import template, trained, write
from tokenizers import AddedToken, Tokenizer, models

from mingpt import load_tokenizer
from mingpt.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, parts
from mingpt.data.tokenizer_checks import check_merges
from mingpt.data.vocabulary import BYTE_CHARACTERS, BYTE_IDS, Vocabulary, byte_level
from mingpt.errors import UserError


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    (problem,) = str(caught.value).splitlines()
    return problem.removeprefix(f"{folder}/")


def of_words(**changes):
    """A tokenizer.json of pieces of words, with some keys changed."""
    content = json.loads(trained("low lower lowest", 300).to_str())
    content["model"] |= changes.pop("model", {})
    return content | changes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {"type": "WordPiece"}}, 'model.type "WordPiece"'),
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}, 'model.type "Unigram"'),
        ({"model": {"dropout": 0.1}}, "model.dropout 0.1"),
        ({"model": {"continuing_subword_prefix": "##"}}, 'model.continuing_subword_prefix "##"'),
        ({"model": {"end_of_word_suffix": "</w>"}}, 'model.end_of_word_suffix "</w>"'),
        ({"model": {"ignore_merges": True}}, "model.ignore_merges true"),
        ({"normalizer": {"type": "NFC"}}, 'normalizer {"type": "NFC"}'),
        ({"pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer {"type": "Whitespace"}'),
        ({"pre_tokenizer": byte_level(True) | {"add_prefix_space": True}}, 'pre_tokenizer {"type": "ByteLevel", "add_'),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, 'pre_tokenizer {"type": "Sequence"'),
        ({"post_processor": template("!", "A")}, 'post_processor {"type": "TemplateProcessing"'),
        ({"post_processor": {"type": "BertProcessing", "sep": ["!", 0]}}, 'post_processor {"type": "BertProcessing"'),
    ],
)
def test_what_would_give_other_ids_is_named(changes, problem, tmp_path):
    write(tmp_path / "tokenizer.json", of_words(**changes))
    line = refused(tmp_path)
    assert line.startswith(f"tokenizer.json: {problem}") and "accepted is" in line


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"add_prefix_space": True}, "add_prefix_space true"),
        ({"tokenizer_class": "RobertaTokenizer"}, 'tokenizer_class "RobertaTokenizer"'),
        ({"add_bos_token": True}, "add_bos_token true"),
    ],
)
def test_a_configuration_that_would_give_other_ids_is_named(config, problem, tmp_path):
    trained("low lower lowest", 300).model.save(str(tmp_path))
    write(tmp_path / "tokenizer_config.json", config)
    assert refused(tmp_path).startswith(f"tokenizer_config.json: {problem}: gives other ids")


def test_all_that_differs_is_named_at_once(tmp_path):
    write(tmp_path / "tokenizer.json", of_words(normalizer={"type": "NFC"}, model={"dropout": 0.5}))
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    assert len(caught.value.problems) == 2


def test_a_vocabulary_without_all_bytes_is_refused(tmp_path):
    content = of_words()
    content["model"]["vocab"] = {t: i for t, i in content["model"]["vocab"].items() if t not in "aé"}
    content["model"]["merges"] = []
    write(tmp_path / "tokenizer.json", content)
    assert refused(tmp_path).startswith("tokenizer.json: vocab lacks 2 of the 256 bytes (0x61 first)")


@pytest.mark.parametrize(
    ("merges", "problem"),
    [
        ([("a", "b"), ("b", "c"), ("a", "bc")], "merges[2] 'a' 'bc'"),  # a b comes first
        ([("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c")], "merges[3] 'ab' 'c'"),  # the same token again
        ([("ab", "c")], "merges[0] 'ab' 'c'"),  # nothing makes a b
        ([("a", "a"), ("a", "aa")], "merges[1] 'a' 'aa'"),  # the left of a a a is joined first
        ([("a", "b"), ("a", "b")], "merges[1] 'a' 'b'"),
        ([("", "b")], "merges[0] '' 'b'"),
        ([("x", "y")], "merges[0] 'x' 'y': makes a token that the vocabulary lacks"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt"])
def test_pairs_that_do_not_lead_to_their_token_are_named(merges, problem, name, tmp_path):
    tokens = [*BYTE_CHARACTERS, "ab", "bc", "abc", "aa", "aaa"]
    vocab = {token: i for i, token in enumerate(tokens)}
    if name == "tokenizer.json":
        write(tmp_path / name, of_words(model={"vocab": vocab, "merges": merges}))
    else:
        write(tmp_path / "vocab.json", vocab)
        write(tmp_path / name, "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    assert refused(tmp_path).startswith(f"{name}: {problem}")


@settings(max_examples=300, deadline=None)
@given(
    choices=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=8), texts=st.text("abc", max_size=40)
)
def test_pairs_are_accepted_where_tokens_alone_rebuild_them_and_then_the_ids_agree(choices, texts):
    tokens, merges = ["a", "b", "c"], []
    for i, j in choices:
        left, right = tokens[i % len(tokens)], tokens[j % len(tokens)]
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append((left, right))
    vocabulary = Vocabulary.of_merges(merges)
    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    if any(parts(left + right, ranks) != (left, right) for left, right in merges):
        with pytest.raises(UserError, match="do not lead to"):
            check_merges(Path("x"), vocabulary.ids, merges)
        return
    check_merges(Path("x"), vocabulary.ids, merges)
    theirs = Tokenizer(models.BPE(vocabulary.ids, merges))
    assert BPETokenizer(vocabulary).encode(texts) == theirs.encode(texts).ids


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
def test_an_added_token_that_is_not_just_found_is_named(flag, tmp_path):
    tokenizer = trained("")
    tokenizer.add_tokens([AddedToken("foo", **{flag: True})])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert refused(tmp_path).startswith(f"tokenizer.json: added token 'foo': {flag} true")
    tokenizer = trained("")
    tokenizer.add_special_tokens([AddedToken("foo", **{flag: True})])  # which no text can spell
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).vocabulary.special == ("foo",)


def test_an_id_or_a_token_that_is_given_twice_is_named(tmp_path):
    trained("").model.save(str(tmp_path))
    write(tmp_path / "added_tokens.json", {"a": 300})
    assert refused(tmp_path) == "added_tokens.json: the token 'a' has two ids, 64 and 300"
    write(tmp_path / "added_tokens.json", {"<a>": 64})
    assert refused(tmp_path) == "added_tokens.json: the id 64 has two tokens, 'a' and '<a>'"


def test_files_of_another_kind_are_named(tmp_path):
    accepted = "accepted is a byte-level BPE, as tokenizer.json, or as vocab.json with merges.txt"
    for name, problem in {
        "vocab.txt": "is a WordPiece vocabulary",
        "spiece.model": "is a SentencePiece model",
        "tokenizer.model": "is a SentencePiece model",
    }.items():
        write(tmp_path / name / name, "")
        assert refused(tmp_path / name) == f"{name}: {problem}; {accepted}"
    for name in ("vocab.json", "merges.txt"):
        write(tmp_path / name / name, "{}")
        with pytest.raises(UserError, match=f"holds only {name}; accepted is a byte-level BPE"):
            load_tokenizer(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "vocab.txt" / "vocab.txt"):
        with pytest.raises(UserError) as caught:
            load_tokenizer(folder)
        assert caught.value.problems == (f"{folder}: holds no tokenizer; {accepted}",)
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer("long" * 999)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', '{"model": {"vocab": {"a": 0}}}', "[" * 100_000])
def test_a_torn_tokenizer_json_is_one_line(content, tmp_path):
    write(tmp_path / "tokenizer.json", content)
    assert refused(tmp_path).startswith("tokenizer.json: is torn or no tokenizer file (")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[]"),
        ("vocab.json", {"a": "x"}),
        ("vocab.json", {"a": -1}),
        ("vocab.json", {"a": 0, "b": 0}),
        ("vocab.json", {"a": 10**12}),
        ("merges.txt", "#version: 0.2\na\n"),
        ("merges.txt", "a b c\n"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": 5}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": ""}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": 5}),
        ("tokenizer_config.json", {"eos_token": {"content": 5}}),
        ("tokenizer_config.json", {"eos_token": {}}),
        ("tokenizer_config.json", {"extra_special_tokens": 5}),
        ("special_tokens_map.json", "["),
        ("special_tokens_map.json", {"additional_special_tokens": [[]]}),
        ("added_tokens.json", {"a": None}),
        ("added_tokens.json", "x"),
    ],
)
def test_another_torn_file_is_one_line(name, content, tmp_path):
    trained("").model.save(str(tmp_path))
    assert load_tokenizer(tmp_path)
    write(tmp_path / name, content)
    assert refused(tmp_path).startswith(f"{name}: is torn or no tokenizer file (")


@pytest.mark.parametrize("vocab", [["a", "b"], "ab", None, 5, {"a": "x"}, {"a": None, "b": 1}, {"\ud800": 0}, {}])
@pytest.mark.parametrize("step", [byte_level(True), byte_level(False), None, "x", {}])
@pytest.mark.parametrize("merges", [[], [["a", "b"]], ["a b"], [5], 5])
def test_whatever_stands_in_a_tokenizer_json_is_refused_in_one_line(vocab, step, merges, tmp_path):
    write(tmp_path / "tokenizer.json", {"pre_tokenizer": step, "model": {"vocab": vocab, "merges": merges}})
    assert refused(tmp_path).startswith("tokenizer.json: ")


def test_characters_and_bytes_are_opened_as_they_are_written_here_alone(tmp_path):
    bare = {"type": "BPE", "merges": []}
    for step, vocab, merges in [
        (None, {"a": 0, "b": 1}, [["a", "b"]]),
        (None, {"a": 0, "b": 5}, []),
        (None, {"b": 0, "a": 1}, []),  # would be opened with other ids
        (None, {"ab": 0}, []),
        (byte_level(False), BYTE_IDS | {"!": 0, "\u0100": 33}, []),
        (byte_level(False), BYTE_IDS | {"ab": 256}, [["a", "b"]]),
    ]:
        write(tmp_path / "tokenizer.json", {"pre_tokenizer": step, "model": bare | {"vocab": vocab, "merges": merges}})
        assert refused(tmp_path).startswith("tokenizer.json: is neither GPT-2's kind of BPE nor one of ")
    for tokenizer in (CharTokenizer("héllo"), ByteTokenizer()):
        tokenizer.save(tmp_path / "ours")
        assert load_tokenizer(tmp_path / "ours").vocabulary == tokenizer.vocabulary
