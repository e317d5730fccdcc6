"""BPE merges are those that the trainer of the tokenizers library learns."""

from __future__ import annotations

import json
import random
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mingpt.data.bpe import count_words, learn

CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


def learn_with_library(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"min_frequency": 2, "initial_alphabet": alphabet, "show_progress": False}  # ours reserve an id
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size - 1, **options))
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def chinese(characters: int) -> str:
    chance = random.Random(0)
    words = ["".join(chance.choices(CHINESE, k=chance.randint(1, 4))) for _ in range(300)]
    text = "".join(words[int(len(words) * chance.random() ** 3)] for _ in range(characters // 3))
    return "\u3002\n".join(text[i : i + 40] for i in range(0, len(text), 40))


REAL = ["".join(topics.values())[:200_000], chinese(8_000), "".join(random.Random(1).choices("acgt", k=3_000))]
TIES = [
    "",
    "aa aaa aaaa aaaaa aaaaaa aaaaaaaaaaaaa",
    "ab ab ba ba cd cd dc dc",
    "abababab abab aba bab",
    "it's it's 12 12",
]
TIES += ["\x00\x00 \x7f\x7f\r\n\r\n\t\t\t\n\n  \u00a0\u00a0", "👩‍👩‍👧👩‍👩‍👧 हिन्दी हिन्दी ไทยไทย 한국어 한국어 中文中文"]


@pytest.mark.parametrize("text", REAL + TIES, ids=lambda text: repr(text[:8]))
def test_merges_of_real_texts_and_ties_equal_the_librarys(text):
    merges = learn(count_words([text]), 800)
    assert merges == learn_with_library([text], 800)
    assert (len(merges) == 800 - 257) == (text == REAL[0])  # learning ends when no pair occurs twice


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("aab bc\n'ss1é中")), max_size=6), vocab_size=st.integers(257, 300))
def test_merges_of_any_text_equal_the_librarys(texts, vocab_size):
    assert learn(count_words(texts), vocab_size) == learn_with_library(texts, vocab_size)
