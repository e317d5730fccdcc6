"""Pieces of words are learned as the tokenizers library learns them."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter

import pytest
from conftest import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mingpt.data.bpe import count_words, learn
from mingpt.data.documents import python_manual
from mingpt.data.vocabulary import BYTE_CHARACTERS

CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


def theirs(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    """The pairs that their trainer learns; ours keeps one of the ids for the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def ours(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    return learn(count_words(texts), vocab_size)


def chinese(characters: int) -> str:
    """Lines of a text without spaces, whose characters and words differ much in how frequent they are."""
    chance = random.Random(0)
    words = ["".join(chance.choices(CHINESE, k=chance.randint(1, 4))) for _ in range(300)]
    text = "".join(words[int(len(words) * chance.random() ** 3)] for _ in range(characters // 3))
    return "\u3002\n".join(text[i : i + 40] for i in range(0, len(text), 40))


@pytest.mark.parametrize(("text", "vocab_size"), [(python_manual()[:200_000], 1500), (chinese(30_000), 800)])
def test_a_real_text_gives_the_pairs_of_the_tokenizers_library(text, vocab_size):
    merges = ours([text], vocab_size)
    assert merges == theirs([text], vocab_size)
    assert len(merges) == vocab_size - 257


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "aa aaa aaaa aaaaa aaaaaa aaaaaaaaaaaaa",
        "ab ab ba ba cd cd dc dc",
        "abababab abab aba bab",
        "zz yy xx zz yy xx",
        "\x00\x00 \x7f\x7f\r\n\r\n\t\t\t\n\n  \u00a0\u00a0",
        "中文中文分词分词 中文",
        "👩‍👩‍👧👩‍👩‍👧 हिन्दी हिन्दी ไทยไทย 한국어 한국어",
        "it's it's we'll we'll 2024 2024",
        "a" * 300 + " " + "b" * 77,
    ],
)
def test_ties_and_repeated_bytes_are_joined_in_the_same_order(text):
    merges = ours([text], 700)
    assert merges == theirs([text], 700)
    assert len(merges) < 700 - 257  # it ends where no pair occurs twice


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("aab bc\n'ss1é中")), max_size=6), vocab_size=st.integers(257, 300))
def test_any_text_gives_their_pairs(texts, vocab_size):
    assert ours(texts, vocab_size) == theirs(texts, vocab_size)


def test_each_pair_is_the_most_frequent_of_its_time_and_of_those_the_first():
    """By definition: every pair is counted anew before each join."""
    counted = Counter(re.findall("[a-z]+", TEXT))
    words = {tuple(word): n for word, n in counted.items()}
    tokens = sorted(BYTE_CHARACTERS)
    merges = learn(counted, 600)
    for left, right in merges:
        count = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                count[pair] += n
        first = min(count, key=lambda pair: (-count[pair], tokens.index(pair[0]), tokens.index(pair[1])))
        assert (left, right) == first
        words = {joined(word, left, right): n for word, n in words.items()}
        tokens.append(left + right)
    assert all(len(word) == 1 for word in words)  # each of these words is frequent, and in the end one token


def joined(word: tuple[str, ...], left: str, right: str) -> tuple[str, ...]:
    found = list(word)
    i = 0
    while i < len(found) - 1:
        if (found[i], found[i + 1]) == (left, right):
            found[i : i + 2] = [left + right]
        i += 1
    return tuple(found)


def test_a_long_text_without_a_space_gives_their_pairs_too():
    text = "".join(random.Random(1).choices("acgt", k=60_000))
    assert ours([text], 600) == theirs([text], 600)
