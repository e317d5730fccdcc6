"""Decoding with a key/value cache against the model without one, and against transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from mingpt import GPT
from mingpt.generation.decoding import Decoder, generate, window_size
from mingpt.generation.linear import (
    MANY_ROWS,
    Int8Linear,
    PackedLinear,
    SlicedLinear,
    has_bfloat16,
    has_int8,
    optimize_for_decoding,
)

RAGGED = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11], list(range(30))]  # with a context of 16
EVEN = [[1, 2, 3], [4, 5, 6]]
VARIANTS = [dict(), dict(attention="fused", activation="gelu_new"), dict(block_size=1), dict(block_size=2)]


def generate_ids(model: GPT, prompts: list[list[int]], n: int, **options) -> list[list[int]]:
    return torch.cat(list(generate(model, prompts, n, **options)), dim=1).tolist()


@torch.no_grad()
def windows_without_cache(model: GPT, prompt: list[int], n: int) -> list[list[int]]:
    """What the model reads for each token of greedy decoding: the last three quarters once its context is full."""
    window, windows, size = list(prompt), [], model.config.block_size
    for _ in range(n):
        window = window[-window_size(size) :] if len(window) > size else window
        windows.append(window)
        window = [*window, model(torch.tensor([window]))[0, -1].argmax().item()]
    return windows


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize(("prompts", "at_once"), [(RAGGED, 1024), (RAGGED, 33), (EVEN, 1024), (EVEN, 1)])
def test_hidden_states_are_those_of_the_model_also_after_sliding(monkeypatch, settings, prompts, at_once):
    monkeypatch.setattr("mingpt.generation.decoding.PROMPT_TOKENS", at_once)
    model = random_model(**settings)
    windows = [windows_without_cache(model, prompt, 40) for prompt in prompts]
    decoder = Decoder(model, len(prompts), model.config.block_size)
    sequences = [list(prompt) for prompt in prompts]
    for step in range(39):
        x = decoder.read(sequences)
        assert not x.requires_grad
        for row, sequence, of_prompt in zip(x, sequences, windows, strict=True):
            expected = model.hidden_states(torch.tensor([of_prompt[step]]))[0, -1]
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
            sequence.append(of_prompt[step + 1][-1])


def test_greedy_decoding_is_that_of_transformers(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = torch.tensor(EVEN)
    for penalty in (1.0, 1.4):
        options = dict(max_new_tokens=13, do_sample=False, pad_token_id=0, repetition_penalty=penalty)
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 3:]
        assert generate_ids(model, EVEN, 13, temperature=0, repetition_penalty=penalty) == expected.tolist()


@pytest.mark.parametrize("options", [dict(temperature=0), dict(seed=3, temperature=0.9, top_p=0.95)])
def test_a_sequence_does_not_depend_on_its_batch(options):
    model = random_model()
    together = generate_ids(model, RAGGED, 40, **options)
    for i, prompt in enumerate(RAGGED):
        assert generate_ids(model, [prompt], 40, first=i, **options) == [together[i]]
    assert generate_ids(model, RAGGED[2:], 40, first=2, **options) == together[2:]


def test_each_seed_and_each_prompt_has_its_own_random_stream():
    model = random_model()
    samples = [generate_ids(model, [[1]] * 3, 12, seed=seed, first=first) for seed in (0, 1) for first in (0, 3)]
    samples = [tuple(ids) for batch in samples for ids in batch]
    assert len(set(samples)) == len(samples) == 12
    assert [list(ids) for ids in samples[:3]] == generate_ids(model, [[1]] * 3, 12, seed=0)
    assert generate_ids(model, [[1]], 12) != generate_ids(model, [[1]], 12)  # without a seed


def test_the_optimized_model_computes_the_same_and_keeps_its_weights():
    model = random_model()
    optimized = optimize_for_decoding(copy.deepcopy(model))
    with torch.no_grad():
        for B in (1, 2, 17):
            idx = torch.randint(0, 37, (B, 1), generator=torch.Generator().manual_seed(B))
            torch.testing.assert_close(optimized(idx), model(idx), rtol=1e-4, atol=1e-4)
    assert sum(isinstance(module, SlicedLinear) for module in optimized.modules()) == 4 * model.config.n_layer
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in optimized.state_dict().items())
    assert generate_ids(optimized, RAGGED, 30, temperature=0) == generate_ids(model, RAGGED, 30, temperature=0)


needs_int8 = pytest.mark.skipif(not has_int8(), reason="PyTorch has these kernels for x86 only")


@needs_int8
@pytest.mark.parametrize("rows", [MANY_ROWS - 2, MANY_ROWS, 300])
def test_int8_is_the_product_of_rounded_weights_and_inputs_of_each_row(rows):
    torch.manual_seed(0)
    linear = torch.nn.Linear(40, 50).requires_grad_(False)
    x = torch.randn(rows // 2, 2, 40) * torch.rand(rows // 2, 2, 1)
    x[1] = 0
    layer = Int8Linear(linear.weight, linear.bias)
    y = layer(x)
    s = linear.weight.double().abs().amax(1) / 127
    r = x.double().abs().amax(-1, keepdim=True)
    p = (linear.weight.double() / s[:, None]).round()
    q = (x.double() / r.clamp(min=1e-9) * layer.levels).round()
    expected = linear.bias.double() + (q @ p.T) * s * r / layer.levels
    tie = 127 / layer.levels * (s.max() * r.max()).item()  # what the other rounding of one input changes at most
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1.05 * tie)
    assert (y.double() - expected).abs().mean() < 1e-3
    assert (y - linear(x)).norm() < 0.03 * linear(x).norm()
    torch.testing.assert_close(y[1], linear.bias.expand(2, 50))


@needs_int8
def test_int8_gives_a_row_of_few_the_same_bits_beside_any_others():
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(50, 40), torch.randn(50))
    x = torch.randn(MANY_ROWS - 1, 40) * torch.rand(MANY_ROWS - 1, 1)
    assert torch.equal(torch.cat([layer(row) for row in x.split(1)]), layer(x))


@needs_int8
@pytest.mark.parametrize("is_old", [False, True], ids=["this processor", "without VNNI and bfloat16"])
def test_int8_decoding_is_near_float32_alone_and_in_a_batch(monkeypatch, is_old):
    if is_old:
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    bound = 0.05 if torch.cpu._is_vnni_supported() else 0.1  # with half the levels
    model = random_model()
    fast = optimize_for_decoding(copy.deepcopy(model), "int8")
    idx = torch.randint(0, 37, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, rounded = model(idx), fast(idx)
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
    for prompts in (RAGGED, *([prompt] for prompt in RAGGED)):
        sequences = [[list(prompt) for prompt in prompts] for _ in range(2)]
        decoders = [Decoder(each, len(prompts), model.config.block_size) for each in (model, fast)]
        for token in range(20):
            exact, rounded = (decoder.read(tokens) for decoder, tokens in zip(decoders, sequences, strict=True))
            assert ((rounded - exact).norm(dim=-1) < bound * exact.norm(dim=-1)).all()
            for sequence in (*sequences[0], *sequences[1]):
                sequence.append(token)


def test_bfloat16_decoding_is_that_of_the_model_in_bfloat16():
    model = random_model().bfloat16()
    fast = optimize_for_decoding(copy.deepcopy(model), "bfloat16")
    packed = sum(isinstance(module, PackedLinear) for module in [*fast.modules(), fast.head])
    assert packed == (4 * model.config.n_layer + 1 if has_bfloat16() else 0)
    idx = torch.randint(0, 37, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast(idx), model(idx), rtol=0.05, atol=0.15)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_a_sliced_product_is_the_product(rows, width, out, bias):
    linear = torch.nn.Linear(width, out, bias=bias)
    x = torch.randn(rows, 1, width)
    expected = linear(x)
    torch.testing.assert_close(SlicedLinear(linear.weight, linear.bias)(x), expected, rtol=1e-4, atol=1e-5)
