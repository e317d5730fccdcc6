"""Low-rank adaptation: unchanged at the start, only the adapters are trained, and merged it is a plain GPT-2."""

from __future__ import annotations

import torch
from conftest import random_model

from mingpt import lora

IDS = torch.randint(0, 37, (3, 12), generator=torch.Generator().manual_seed(0))


def test_new_adapters_leave_the_model_as_it_is():
    model = random_model()
    before, weights = model(IDS), model.state_dict()
    lora.add_adapters(model, 4)
    merged = lora.merged_state_dict(model)
    assert torch.equal(model(IDS), before) and all(torch.equal(merged[name], w) for name, w in weights.items())


def test_only_the_adapters_and_a_new_score_head_are_trained():
    model = random_model(num_labels=5)
    lora.add_adapters(model, 2)
    model.score(model.hidden_states(IDS)).square().mean().backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == trained.keys()
    assert trained.pop("score.weight").numel() == 5 * 24 and len(trained) == 16
    # A (2, in) and B (out, 2) in each of two blocks
    assert sum(w.numel() for w in trained.values()) == 2 * 2 * ((24 + 72) + (24 + 24) + (24 + 96) + (96 + 24))


def test_the_merged_model_is_a_plain_one_with_equal_results():
    model, plain = random_model(num_labels=5), random_model(seed=1, num_labels=5)
    before = model(IDS)
    lora.add_adapters(model, 3)
    for name, weight in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(weight, std=0.3)
    plain.load_state_dict(lora.merged_state_dict(model))
    torch.testing.assert_close(plain(IDS), model(IDS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(IDS), before, atol=0.01)
    assert torch.equal(plain.score.weight, model.score.weight)
