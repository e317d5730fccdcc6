"""The choice of tokens against transformers' own filters, and text that streams whole characters."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model
from transformers import GPT2LMHeadModel, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mingpt import sampling
from mingpt.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

LOGITS = torch.randn(8, 37, generator=torch.Generator().manual_seed(3)) * 3
PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 37, 100])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    expected = TemperatureLogitsWarper(temperature)(None, LOGITS)
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    p = sampling.probabilities(LOGITS, temperature, top_k, top_p)
    torch.testing.assert_close(p, expected.softmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-7, 1e-40, 5e-324])
def test_next_to_no_temperature_takes_the_most_probable(temperature):
    for scale in (1, 1e4):
        drawn = sampling.choose(LOGITS * scale, torch.Generator().manual_seed(0), temperature, top_k=5, top_p=0.9)
        assert torch.equal(drawn, LOGITS.argmax(-1, keepdim=True))


def test_greedy_is_that_of_transformers(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=13, do_sample=False, pad_token_id=0
    )
    assert torch.equal(model.generate(PROMPT, 13, temperature=0), theirs)


def test_the_same_seed_gives_the_same_ids_and_another_gives_others():
    model = random_model()
    one, same, other = (model.generate(PROMPT, 30, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:, :3], PROMPT)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20_000, 4)
    drawn = sampling.choose(logits, torch.Generator().manual_seed(0), top_p=0.9)
    frequencies = drawn.flatten().bincount(minlength=4) / 20_000
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=0, atol=0.02)


def test_past_the_context_it_goes_on_with_the_newest_tokens():
    model = random_model()  # a context of 16
    long = model.generate(PROMPT, 40, temperature=0)
    assert long.shape == (2, 43)
    expected = model(long[:, 20:36])[:, -1].argmax(-1)
    assert torch.equal(long[:, 36], expected)


def test_a_character_of_several_tokens_streams_whole():
    text = "naïve 中文 🎉!"
    for tokenizer in (ByteTokenizer(), BPETokenizer.gpt2()):
        ids = tokenizer.encode(text)
        parts = list(sampling.stream(tokenizer.pieces, ids))
        assert len(ids) > len(text) or tokenizer.end_of_text
        assert "".join(parts) == text
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts)
    assert "".join(sampling.stream(ByteTokenizer().pieces, "é".encode()[:1])) == "\N{REPLACEMENT CHARACTER}"


def test_an_empty_prompt_begins_where_a_line_or_document_does():
    assert sampling.beginning(CharTokenizer("a\nb")) == 0
    assert sampling.beginning(CharTokenizer("xyz")) == 0
    assert sampling.beginning(ByteTokenizer()) == ord("\n")
    assert sampling.beginning(BPETokenizer.gpt2()) == 50256


def test_a_continuation_is_the_text_of_what_generate_returns():
    tokenizer = CharTokenizer("".join(chr(97 + i) for i in range(37)))
    model = random_model()
    text = "".join(sampling.continuation(model, tokenizer, "abc", 20, seed=1, temperature=0.9))
    ids = model.generate(torch.tensor([tokenizer.encode("abc")]), 20, seed=1, temperature=0.9)
    assert "abc" + text == tokenizer.decode(ids[0].tolist())
    with pytest.raises(ValueError, match="'!'"):
        sampling.continuation(model, tokenizer, "no!", 20)
