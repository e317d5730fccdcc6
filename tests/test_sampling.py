"""Sampling against the logits processors of transformers, and against the probabilities themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mingpt.generation.sampling import penalize_repetition, probabilities, sample

FEW = torch.randn(8, 37, generator=torch.Generator().manual_seed(3)) * 3
MANY = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4)) * 2


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("logits", [FEW, MANY, MANY * 0.05])  # in the last, the nucleus exceeds the shortlist
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 37, 5000])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3])
def test_probabilities_are_those_of_transformers(logits, temperature, top_k, top_p, min_p):
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    expected = MinPLogitsWarper(min_p)(None, expected) if min_p else expected
    torch.testing.assert_close(probabilities(logits, temperature, top_k, top_p, min_p), expected.softmax(-1))


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    ids = torch.randint(0, 37, (8, 9), generator=torch.Generator().manual_seed(1))
    has_occurred = torch.zeros(8, 37, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, FEW.clone())
    torch.testing.assert_close(penalize_repetition(FEW, has_occurred, penalty), expected)


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-40, 1e-7, 1e-5, 1e-3])
def test_a_temperature_near_0_is_greedy(temperature):
    for scale in (1, 1e4):
        tokens = sample(FEW * scale, uniform(8), temperature, top_k=5, top_p=0.9)
        assert torch.equal(tokens, FEW.argmax(-1, keepdim=True))


def test_tokens_are_sampled_with_their_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20_000, 4)
    frequencies = sample(logits, uniform(20_000), top_p=0.9).flatten().bincount(minlength=4) / 20_000
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=0, atol=0.02)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53]),
    st.integers(1, 5),
)
def test_a_filtered_token_is_never_sampled(logits, u, top_k):
    logits = torch.tensor([logits])
    token = sample(logits, torch.tensor([[u]], dtype=torch.float64), 0.7, top_k=top_k, min_p=0.1).item()
    assert probabilities(logits, 0.7, top_k, min_p=0.1)[0, token] > 0
