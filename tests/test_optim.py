"""Each optimizer against its textbook update in numpy; each schedule against its formula."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import random_model
from torch import nn

from mingpt.config import TrainConfig
from mingpt.optim import ADAM_EPS, ADAM_SCALE, OPTIMIZERS, POLAR_EXPRESS, orthogonalize
from mingpt.trainer import learning_rate

LR, DECAY, MU, B1, B2 = 0.01, 0.1, 0.9, 0.8, 0.95


def build_optimizer(name: str, model: nn.Module):
    settings = dict(learning_rate=9, weight_decay=DECAY, momentum=MU, beta1=B1, beta2=B2, dtype="float32")
    optimizer = OPTIMIZERS[name](model, TrainConfig(optimizer=name, **settings))
    for group in optimizer.param_groups:
        group["lr"] = LR  # as a schedule sets it
    return optimizer


def update(model: nn.Module, optimizer, seed: int) -> list[np.ndarray]:
    """One update with random gradients, which are returned."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape)
    optimizer.step()
    return [weight.grad.numpy().astype(np.float64) for weight in model.parameters()]


def textbook(optimizer: str, name: str, w: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """A weight after updates with these gradients."""
    m = v = 0.0
    decay = DECAY if w.ndim >= 2 else 0.0  # only matrices decay
    for t, g in enumerate(gradients, start=1):
        if optimizer in ("adam", "sgd"):
            g = g + decay * w  # an L2 penalty
        if optimizer == "sgd":
            m = MU * m + g
            w = w - LR * (g + MU * m)
        elif optimizer == "muon" and name.startswith("h.") and w.ndim == 2:
            m = MU * m + (1 - MU) * g
            parts = np.split(MU * m + (1 - MU) * g, 3 if "c_attn" in name else 1)  # query, key and value
            step = np.concatenate([polar_express(part) for part in parts])
            w = w * (1 - LR * decay) - LR * (2.0 if "c_fc" in name else 1.0) * step  # sqrt(4C / C) = 2
        else:
            lr, eps = (LR * ADAM_SCALE, ADAM_EPS) if optimizer == "muon" else (LR, 1e-8)
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
            step = (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + eps)
            w = w * (1 - lr * decay * (optimizer != "adam")) - lr * step
    return w


def polar_express(X: np.ndarray) -> np.ndarray:
    """U p(S) V' of X = U S V': what the polynomials do to each singular value, by the decomposition that they avoid."""
    U, S, V = np.linalg.svd(X, full_matrices=False)
    S = S / (1.02 * np.linalg.norm(S))
    for a, b, c in POLAR_EXPRESS:
        S = a * S + b * S**3 + c * S**5
    return (U * S) @ V


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_textbook(name):
    model = random_model()
    model.wpe.weight.requires_grad_(False)
    start = {key: w.detach().numpy().astype(np.float64) for key, w in model.named_parameters()}
    optimizer = build_optimizer(name, model)
    gradients = [update(model, optimizer, seed) for seed in range(4)]
    for (key, w), *of_weight in zip(model.named_parameters(), *gradients, strict=True):
        expected = textbook(name, key, start[key], of_weight if w.requires_grad else [])
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("shape", [(24, 24), (24, 96), (96, 24)])
def test_orthogonalize_keeps_the_directions_and_evens_their_strength(shape):
    torch.manual_seed(0)
    U, S, V = torch.linalg.svd(torch.randn(2, *shape), full_matrices=False)
    X = U * torch.logspace(-2, 0, S.shape[-1]) @ V  # the strongest direction has a hundred times the weakest
    matrix = U.mT @ orthogonalize(X) @ V.mT
    singular = matrix.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(matrix, torch.diag_embed(singular), rtol=0, atol=1e-4)
    assert 0.1 < singular.min() < singular.max() < 1.9


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_is_saved_and_loaded_continues_bit_for_bit(name, tmp_path):
    one = random_model()
    first = build_optimizer(name, one)
    update(one, first, seed=1)
    second = build_optimizer(name, two := copy.deepcopy(one))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in (2, 3):
        update(one, first, seed)
        update(two, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_schedules_follow_their_formulas():
    t = np.linspace(0, 1, 101)  # after warm-up
    formulas = {"constant": 1 + 0 * t, "linear": 1 - 0.9 * t, "cosine": 0.1 + 0.9 * np.cos(np.pi * t / 2) ** 2}
    formulas["wsd"] = np.where(t <= 0.7, 1, 1 - 3 * (t - 0.7))
    for name, expected in formulas.items():
        config = TrainConfig(schedule=name, learning_rate=1, min_learning_rate=0.1, warmup_iters=10, max_iters=110)
        rates = [learning_rate(config, step) for step in range(200)]
        assert rates[:11] == pytest.approx([i / 11 for i in range(1, 12)])  # linear warm-up
        assert rates[10:111] == pytest.approx(expected)
        assert rates[111:] == pytest.approx([expected[-1]] * 89)  # of a run that is continued beyond its end
