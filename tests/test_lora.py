"""Low-rank adaptation: nothing is changed at first, little learns, and what is saved is a plain GPT-2."""

from __future__ import annotations

import torch
from conftest import random_model
from transformers import GPT2LMHeadModel

from mingpt import lora

IDS = torch.randint(0, 37, (3, 12), generator=torch.Generator().manual_seed(0))


def adapted(rank: int = 3):
    """A model with changes that are not zero."""
    model = random_model()
    lora.adapt(model, rank)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".B"):
                weight.normal_(std=0.3)
    return model


def test_a_fresh_adaptation_changes_nothing():
    model = random_model()
    before = model(IDS)
    lora.adapt(model, 4)
    assert torch.equal(model(IDS), before)


def test_what_learns_is_small_and_all_of_it_learns():
    model = random_model()
    names = dict(model.named_parameters())
    lora.adapt(model, 2)
    model(IDS).logsumexp(-1).mean().backward()
    learning = {name: w for name, w in model.named_parameters() if w.requires_grad}
    assert all(w.grad is not None for w in learning.values())
    assert all(w.grad is None for name, w in model.named_parameters() if name not in learning)
    # four matrices of two blocks, each with A (2, in) and B (out, 2)
    assert len(learning) == 16
    assert sum(w.numel() for w in learning.values()) == 2 * 2 * ((24 + 72) + (24 + 24) + (24 + 96) + (96 + 24))
    assert set(names) == set(lora.merged(model))


def test_merged_it_is_a_plain_model_with_equal_logits(tmp_path):
    model = adapted()
    plain = random_model(seed=1)
    plain.load_state_dict(lora.merged(model))
    torch.testing.assert_close(plain(IDS), model(IDS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(IDS), random_model()(IDS), atol=0.01)
    plain.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=1e-4, atol=1e-4)


def test_a_model_without_changes_is_merged_already():
    model = random_model()
    assert all(torch.equal(w, model.state_dict()[name]) for name, w in lora.merged(model).items())


def test_scores_are_new_and_so_all_of_them_learn(tmp_path):
    model = random_model(num_labels=3)
    names = set(model.state_dict())
    lora.adapt(model, 2)
    assert model.score.weight.requires_grad and not model.wte.weight.requires_grad
    last = torch.tensor([11, 3, 0])
    model.scores(IDS, last).square().sum().backward()
    assert model.score.weight.grad.abs().max() > 0
    assert set(lora.merged(model)) == names
    plain = random_model(seed=1, num_labels=3)
    plain.load_state_dict(lora.merged(model))
    torch.testing.assert_close(plain.scores(IDS, last), model.scores(IDS, last), rtol=1e-4, atol=1e-4)
