"""The model against transformers' GPT-2, against itself, and against what causality demands."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_model
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from mingpt import GPT, GPTConfig
from mingpt.pretrained import TRANSPOSED


def ids(B: int, T: int, V: int = 37) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def loss_of(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(idx)[:, :-1].flatten(0, 1), idx[:, 1:].flatten())


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_logits_loss_and_gradients_are_those_of_transformers(tmp_path, attention, activation):
    ours = random_model(attention=attention, activation=activation)
    ours.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    idx = ids(3, 16)

    reference, loss = theirs(idx, labels=idx), loss_of(ours, idx)
    torch.testing.assert_close(ours(idx), reference.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, reference.loss, rtol=1e-6, atol=1e-6)

    loss.backward()
    reference.loss.backward()
    gradients = dict(theirs.transformer.named_parameters())
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        expected = gradients[name].grad.T if name.endswith(TRANSPOSED) else gradients[name].grad
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_a_position_depends_on_itself_and_the_past_alone(attention):
    model = random_model(attention=attention)
    with pytest.raises(ValueError, match="17 tokens exceed block_size 16"):
        model(ids(1, 17))
    for t in (0, 7, 15):
        model.zero_grad()
        model(ids(2, 16))[:, t].square().sum().backward()
        depends = model.wpe.weight.grad.abs().sum(dim=1) > 0  # positions that the output at t depends on
        assert depends.tolist() == [position <= t for position in range(16)]


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("part", ["h.0.attn", "h.1.mlp", "config"])
def test_each_dropout_alone_acts_in_training_only(attention, part):
    model, idx = random_model(attention=attention), ids(2, 16)
    before = model(idx)
    assert torch.equal(model.train()(idx), before)  # without dropout
    model.eval()
    if part == "config":
        model.config = model.config.model_copy(update={"dropout": 0.5})
    else:
        model.get_submodule(part).dropout = 0.5
    assert torch.equal(model(idx), before)
    model.train()
    torch.manual_seed(0)
    trained = model(idx)
    assert not torch.allclose(trained, before)
    torch.manual_seed(0)
    assert torch.equal(model(idx), trained)


def test_initial_weights_guess_the_current_token_or_any_other_alike_and_blocks_are_the_identity():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, n_layer=2, n_head=4, n_embd=64, block_size=32))
    idx = ids(4, 32, 65)
    logits = model(idx)
    current = F.one_hot(idx, 65).bool()
    # LayerNorm divides by the deviation of tokens and positions together; the first 8 channels are those of positions
    tokens, positions = 56 + 8 * 0.3**2, 56 * 0.4**2 + 8 * 1.7**2 / 2
    assert abs(logits[current].mean() - 0.05 * tokens / math.sqrt((tokens + positions) / 64)) < 0.3
    others = logits[~current].view(4, 32, 64).log_softmax(dim=-1)
    assert abs(others.mean() + math.log(64)) < 0.5
    x = torch.randn(2, 5, 64)
    assert torch.equal(model.h[1](x), x)
    stds = {"wte": 0.05, "wpe": 0.02, "h.0.attn.c_attn": 0.5 / 8, "h.1.mlp.c_fc": 0.5 / 8}
    for name, std in stds.items():
        weight = model.get_submodule(name).weight
        others = {"wte": weight[:, 8:], "wpe": weight[:, 8:], "h.0.attn.c_attn": torch.cat([weight[8:64], weight[72:]])}
        weight = others.get(name, weight)
        error = 5 * std / math.sqrt(weight.numel())  # five standard errors of the mean
        assert abs(weight.mean()) < error and abs(weight.std() - std) < error, name
    assert all((b == 0).all() for name, b in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("n_embd, num_labels", [(64, 3), (48, 0)])
def test_models_with_labels_and_narrow_ones_begin_with_the_same_deviations_in_all_channels(n_embd, num_labels):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, n_layer=1, n_head=4, n_embd=n_embd, block_size=32, num_labels=num_labels))
    for name, std in {"wte": 0.05, "wpe": 0.02, "h.0.attn.c_attn": 0.5 / math.sqrt(n_embd)}.items():
        weight = model.get_submodule(name).weight
        assert abs(weight.std() - std) < 5 * std / math.sqrt(weight.numel()), name


@pytest.mark.parametrize("n_embd, n_head, block_size", [(128, 4, 256), (64, 4, 64), (768, 12, 1024)])
def test_the_first_head_begins_by_attending_to_the_previous_position(n_embd, n_head, block_size):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, n_layer=1, n_head=n_head, n_embd=n_embd, block_size=block_size))
    x = model.h[0].ln_1(model.embed(ids(2, block_size, 65), slice(block_size)))
    q, k, _ = (part.view(2, block_size, n_head, -1) for part in model.h[0].attn.c_attn(x).split(n_embd, dim=2))
    scores = torch.einsum("bthc,bshc->bhts", q, k) / math.sqrt(n_embd // n_head)
    weights = scores.masked_fill(torch.ones(block_size, block_size).triu(1).bool(), -math.inf).softmax(dim=-1)
    on_previous = weights.diagonal(-1, 2, 3).mean(dim=(0, 2))  # (n_head,)
    assert on_previous[0] > 0.7
    assert (on_previous[1:] < 0.2).all()
