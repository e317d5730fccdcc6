"""The choice of tokens against transformers' own filters, and reading with a cache against reading all anew."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2LMHeadModel,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mingpt import sampling
from mingpt.matvec import is_laid_out, lay_out, linear, slices
from mingpt.model import GPT

LOGITS = torch.randn(8, 37, generator=torch.Generator().manual_seed(3)) * 3
MANY = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4)) * 2
PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])
RAGGED = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11], [5] * 12]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uncached(model: GPT, text: list[int], new: int) -> list[int]:
    """What greedy writing gives where all is read anew for each token, by the rule that generate documents."""
    window, S = list(text), model.config.block_size
    if len(window) > S:
        window = window[-sampling.kept(S) :]
    for _ in range(new):
        if len(window) > S:
            window = window[-sampling.kept(S) :]
        token = model(torch.tensor([window]))[0, -1].argmax().item()
        text, window = [*text, token], [*window, token]
    return text


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 37, 100])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p, min_p):
    for logits in (LOGITS, MANY):
        expected = TemperatureLogitsWarper(temperature)(None, logits)
        expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
        expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
        expected = MinPLogitsWarper(min_p)(None, expected) if min_p else expected
        p = sampling.probabilities(logits, temperature, top_k, top_p, min_p)
        torch.testing.assert_close(p, expected.softmax(-1))


def test_a_share_that_a_few_hundred_tokens_do_not_hold_is_still_that_of_transformers():
    flat = torch.randn(2, 3000, generator=generator(5)) * 0.1
    expected = TopPLogitsWarper(0.7)(None, flat).softmax(-1)
    torch.testing.assert_close(sampling.probabilities(flat, top_p=0.7), expected)
    assert (expected > 0).sum() > 2 * sampling.LIKELY


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_is_punished_as_in_transformers(penalty):
    ids = torch.randint(0, 37, (8, 9), generator=generator(1))
    seen = torch.zeros(8, 37, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, LOGITS.clone())
    torch.testing.assert_close(sampling.penalised(LOGITS, seen, penalty), expected)


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-7, 1e-40, 5e-324])
def test_next_to_no_temperature_takes_the_most_probable(temperature):
    for scale in (1, 1e4):
        drawn = sampling.choose(LOGITS * scale, [generator()] * 8, temperature, top_k=5, top_p=0.9)
        assert torch.equal(drawn, LOGITS.argmax(-1, keepdim=True))


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20_000, 4)
    drawn = sampling.choose(logits, [generator()] * 20_000, top_p=0.9)
    frequencies = drawn.flatten().bincount(minlength=4) / 20_000
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=0, atol=0.02)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.integers(0, 1000), st.integers(1, 5))
def test_a_token_that_is_drawn_was_left_to_choose_from(logits, seed, top_k):
    logits = torch.tensor([logits])
    i = sampling.choose(logits, [generator(seed)], 0.7, top_k=top_k, min_p=0.1).item()
    assert sampling.probabilities(logits, 0.7, top_k, min_p=0.1)[0, i] > 0


def test_greedy_is_that_of_transformers(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    for penalty in (1.0, 1.4):
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path).generate(
            PROMPT,
            attention_mask=torch.ones_like(PROMPT),
            max_new_tokens=13,
            do_sample=False,
            pad_token_id=0,
            repetition_penalty=penalty,
        )
        assert torch.equal(model.generate(PROMPT, 13, temperature=0, repetition_penalty=penalty), theirs)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_with_a_cache_it_writes_what_it_would_write_reading_all_anew(attention):
    model = random_model(attention=attention)
    for text in RAGGED:
        new = sampling.generate(model, [text], 40, temperature=0)
        written = text + [column.item() for column in new]
        assert written == uncached(model, text, 40)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("choice", [dict(temperature=0), dict(seed=3, temperature=0.9, top_p=0.95)])
def test_many_texts_are_written_as_each_would_be_alone(attention, choice):
    model = random_model(attention=attention)
    together = torch.cat(list(sampling.generate(model, RAGGED, 40, **choice)), dim=1)
    for b, text in enumerate(RAGGED):
        others = [[1]] * b  # its stream of chance is that of its place
        alone = torch.cat(list(sampling.generate(model, [*others, text], 40, **choice)), dim=1)[b]
        assert together[b].tolist() == alone.tolist()


def test_the_states_with_a_cache_are_those_without():
    model = random_model()
    reader = sampling.Reader(model, RAGGED, 4)
    for _ in range(4):
        logits = reader.logits()
        for row, text in zip(logits, reader.texts, strict=True):
            torch.testing.assert_close(row, model(torch.tensor([text]))[0, -1], rtol=1e-4, atol=1e-5)
        reader.append(logits.argmax(-1, keepdim=True))


def test_a_prompt_longer_than_the_context_is_read_from_its_end():
    model = random_model()
    long = list(range(30))
    written = long + [column.item() for column in sampling.generate(model, [long], 5, temperature=0)]
    assert written == uncached(model, long, 5)
    as_short = [column.item() for column in sampling.generate(model, [long[-12:]], 4, temperature=0)]
    assert written[30:34] == as_short


def test_it_says_once_that_the_context_is_full():
    model, said = random_model(), []
    for _ in sampling.generate(model, [[1, 2], [3] * 9], 60, on_slide=lambda: said.append(1)):
        pass
    assert len(said) == 1
    list(sampling.generate(model, [[1, 2]], 14, on_slide=lambda: said.append(1)))
    assert len(said) == 1  # two and fourteen are sixteen


def test_the_same_seed_gives_the_same_ids_and_another_gives_others():
    model = random_model()
    one, same, other = (model.generate(PROMPT, 30, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:, :3], PROMPT)
    twins = model.generate(PROMPT[:1].expand(2, 3), 30, seed=7)
    assert not torch.equal(twins[0], twins[1])


def test_a_cache_refuses_what_it_cannot_hold():
    model = random_model()
    cache = sampling.Cache(model.config, 1, 16, model.wte.weight)
    model.states(torch.tensor([[1, 2, 3]]), cache)
    cache.advance([3])
    with pytest.raises(ValueError, match="one token at a time"):
        model.states(torch.tensor([[4, 5]]), cache)


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_the_sliced_product_is_the_product(rows, width, out, bias):
    layer = torch.nn.Linear(width, out, bias=bias)
    x = torch.randn(rows, 1, width)
    expected = layer(x)
    lay_out(layer)
    assert is_laid_out(layer.weight) and layer.weight.shape == (out, width)
    torch.testing.assert_close(linear(x, layer.weight, layer.bias), expected, rtol=1e-4, atol=1e-5)


def test_slices_are_of_equal_width_and_at_most_two_for_each_thread():
    assert [slices(width, threads) for width, threads in ((768, 2), (768, 5), (7, 2), (1, 8))] == [4, 8, 1, 1]


def test_laying_out_changes_no_value_and_no_file(tmp_path):
    model = random_model()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    model.save_pretrained(tmp_path / "before")
    lay_out(model)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    model.save_pretrained(tmp_path / "after")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("before", "after")]
    assert files[0] == files[1]
