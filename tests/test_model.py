"""The model against transformers' GPT-2, against itself, and against what causality demands."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_model
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import GPT, GPTConfig
from mingpt.gpt2 import TRANSPOSED


def ids(B: int, T: int, V: int = 37) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def loss_of(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(idx)[:, :-1].flatten(0, 1), idx[:, 1:].flatten())


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_logits_loss_and_gradients_are_those_of_transformers(tmp_path, attention):
    ours = random_model(attention=attention)
    ours.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    idx = ids(3, 16)

    reference = theirs(idx, labels=idx)
    loss = loss_of(ours, idx)
    torch.testing.assert_close(ours(idx), reference.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, reference.loss, rtol=1e-6, atol=1e-6)

    loss.backward()
    reference.loss.backward()
    gradients = dict(theirs.transformer.named_parameters())
    assert len(gradients) == len(list(ours.parameters()))
    for name, weight in ours.named_parameters():
        expected = gradients[name].grad.T if name.endswith(TRANSPOSED) else gradients[name].grad
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_a_folder_of_transformers_opens_here(tmp_path):
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_head=2, n_embd=32, n_positions=20)).eval()
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert ours.config == GPTConfig(
        vocab_size=50,
        n_layer=2,
        n_head=2,
        n_embd=32,
        block_size=20,
        dropout=0.1,
        attention="fused",
        gelu_in_updates="tanh",
    )
    idx = ids(2, 20, 50)
    torch.testing.assert_close(ours(idx), theirs(idx).logits, rtol=1e-5, atol=1e-5)


def test_a_position_depends_on_itself_and_the_past_alone():
    model = random_model()
    for t in (0, 7, 15):
        model.zero_grad()
        model(ids(2, 16))[:, t].square().sum().backward()
        reached = model.wpe.weight.grad.abs().sum(dim=1) > 0  # which positions the output at t is made from
        assert reached.tolist() == [position <= t for position in range(16)]


def test_explicit_and_fused_attention_are_equal_in_value_and_gradient():
    explicit, fused = random_model(attention="explicit"), random_model(attention="fused")
    idx = ids(4, 13)
    torch.testing.assert_close(explicit(idx), fused(idx), rtol=1e-5, atol=1e-5)
    loss_of(explicit, idx).backward()
    loss_of(fused, idx).backward()
    for (name, a), b in zip(explicit.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_dropout_is_for_training_only(attention):
    model = random_model(attention=attention, dropout=0.3)
    idx = ids(2, 16)
    assert torch.equal(model(idx), model(idx))
    model.train()
    assert not torch.allclose(model(idx), model(idx))


def test_each_kind_of_dropout_acts():
    """Attention weights, both outputs to the residual stream, and the embeddings: each alone changes the result."""
    idx = ids(2, 16)
    for module in ("h.0.attn", "h.0.mlp"):
        model = random_model()
        before = model(idx)
        model.get_submodule(module).dropout = 0.5
        assert torch.equal(model(idx), before)
        model.train()
        assert not torch.allclose(model(idx), before)


def test_fresh_weights_guess_evenly_and_blocks_begin_as_identity():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, n_layer=3, n_head=4, n_embd=64, block_size=32))
    assert abs(loss_of(model, ids(4, 32, 65)).item() - math.log(65)) < 0.1
    x = torch.randn(2, 5, 64)
    assert torch.equal(model.h[0](x), x)
    assert abs(model.h[0].attn.c_attn.weight.std().item() - 0.5 / math.sqrt(64)) < 0.005


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="17 tokens are more than block_size 16"):
        random_model()(ids(1, 17))


def test_save_load_save_keeps_every_bit(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path / "a")
    GPT.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
