"""Each optimizer against its textbook update in numpy; each schedule against its formula."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import random_model
from torch import nn

from mingpt.config import TrainConfig, resolve
from mingpt.defaults import OPTIMIZERS
from mingpt.optim import ADAM_EPS, ADAM_SHARE, POLAR_EXPRESS, learning_rate, make_optimizer, orthogonal

LR, DECAY = 0.01, 0.1


def updates_of(name: str, model: nn.Module, steps: int = 4, **settings: float):
    """The weights after each of some updates with fixed random gradients, and those gradients."""
    config = resolve(TrainConfig(optimizer=name, learning_rate=LR, weight_decay=DECAY, dtype="float32", **settings))
    optimizer = make_optimizer(model, config)
    gradients = torch.Generator().manual_seed(5)
    seen = []
    for _ in range(steps):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=gradients)
        optimizer.step()
        seen.append([(w.detach().numpy().astype(np.float64), w.grad.numpy()) for w in model.parameters()])
        seen[-1] = [(w.copy(), g.copy()) for w, g in seen[-1]]
    return seen


def textbook(name: str, start: np.ndarray, gradients: list[np.ndarray], decay: float, b1=0.9, b2=0.99, mu=0.9):
    w, m, v = start.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        g = g.astype(np.float64)
        if name == "adamw":
            w = w * (1 - LR * decay)
        else:  # decay as a part of the gradient: L2
            g = g + decay * w
        if name == "sgd":
            m = g if t == 1 else mu * m + g
            w = w - LR * (g + mu * m)
        else:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            w = w - LR * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    return w


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_update_is_the_textbooks_and_only_matrices_decay(name):
    model = random_model()
    start = [w.detach().numpy().copy() for w in model.parameters()]
    seen = updates_of(name, model, beta1=0.9, beta2=0.99, momentum=0.9)
    for i, before in enumerate(start):
        gradients = [update[i][1] for update in seen]
        expected = textbook(name, before, gradients, DECAY if before.ndim >= 2 else 0.0)
        np.testing.assert_allclose(seen[-1][i][0], expected, rtol=1e-4, atol=1e-6)


def polynomial(singular: np.ndarray) -> np.ndarray:
    """What the iteration makes of singular values, one by one."""
    for a, b, c in POLAR_EXPRESS:
        singular = a * singular + b * singular**3 + c * singular**5
    return singular


@pytest.mark.parametrize("shape", [(24, 24), (24, 96), (96, 24)])
def test_orthogonal_keeps_the_directions_and_evens_their_strength(shape):
    U, S, V = torch.linalg.svd(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    X = U * torch.logspace(-2, 0, S.shape[-1]) @ V  # the strongest direction a hundred times the weakest
    U, S, V = np.linalg.svd(X.numpy().astype(np.float64), full_matrices=False)
    expected = U * polynomial(S / (1.02 * np.sqrt((S**2).sum(-1, keepdims=True))))[:, None] @ V
    np.testing.assert_allclose(orthogonal(X).numpy(), expected, atol=1e-4)
    after = np.linalg.svd(orthogonal(X).numpy())[1]
    assert 0.1 < after.min() < after.max() < 1.9


def test_muon_moves_hidden_matrices_by_orthogonal_updates_and_the_rest_by_adam():
    model = random_model()
    names = [name for name, _ in model.named_parameters()]
    start = {name: w.detach().numpy().copy() for name, w in model.named_parameters()}
    mu, b1, b2 = 0.9, 0.8, 0.95
    seen = updates_of("muon", model, momentum=mu, beta1=b1, beta2=b2)
    for i, name in enumerate(names):
        w, m, v = start[name].astype(np.float64), 0.0, 0.0
        for t, update in enumerate(seen, start=1):
            g = update[i][1].astype(np.float64)
            if name.startswith("h.") and w.ndim == 2:
                m = mu * m + (1 - mu) * g
                parts = np.split(mu * m + (1 - mu) * g, 3 if "c_attn" in name else 1)  # query, key, value
                step = np.concatenate([orthogonal(torch.from_numpy(u).float()[None])[0].numpy() for u in parts])
                w = w * (1 - LR * DECAY) - LR * (2.0 if "c_fc" in name else 1.0) * step
            else:
                lr = LR * ADAM_SHARE
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
                w = w * (1 - lr * (DECAY if w.ndim == 2 else 0.0))
                w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + ADAM_EPS)
        np.testing.assert_allclose(seen[-1][i][0], w, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_saved_and_loaded_goes_on_to_the_bit(name):
    config = resolve(TrainConfig(optimizer=name, dtype="float32"))
    one = random_model()
    first = make_optimizer(one, config)
    generator = torch.Generator().manual_seed(0)

    def update(model, optimizer, seed):
        generator.manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()

    update(one, first, seed=1)
    two = copy.deepcopy(one)
    second = make_optimizer(two, config)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in (2, 3):
        update(one, first, seed)
        update(two, second, seed)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def schedule(step: int, **settings) -> float:
    defaults = dict(learning_rate=1.0, min_learning_rate=0.1, warmup_iters=10, max_iters=110)
    return learning_rate(TrainConfig(**{**defaults, **settings}), step)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "wsd"])
def test_every_schedule_warms_up_evenly(name):
    assert [schedule(step, schedule=name) for step in range(10)] == pytest.approx([i / 11 for i in range(1, 11)])
    assert schedule(10, schedule=name) == pytest.approx(1.0)


def test_schedules_follow_their_formulas():
    for step in range(10, 111):
        done = (step - 10) / 100
        assert schedule(step, schedule="constant") == 1.0
        assert schedule(step, schedule="linear") == pytest.approx(1 - 0.9 * done)
        assert schedule(step, schedule="cosine") == pytest.approx(0.1 + 0.9 * math.cos(math.pi * done / 2) ** 2)
        assert schedule(step, schedule="wsd") == pytest.approx(1.0 if done <= 0.7 else 1 - 3 * (done - 0.7))


def test_schedules_stay_at_the_end_and_without_warm_up_begin_at_the_top():
    for name in ("cosine", "linear", "wsd"):
        assert schedule(500, schedule=name) == pytest.approx(0.1)
        assert schedule(0, schedule=name, warmup_iters=0) == pytest.approx(1.0)
        assert schedule(0, schedule=name, warmup_iters=0, max_iters=1) == pytest.approx(1.0)


def test_the_names_in_the_config_are_those_that_can_be_made():
    choices = next(f for f in dataclasses.fields(TrainConfig) if f.name == "optimizer").metadata["choices"]
    assert choices == tuple(OPTIMIZERS)
    kinds = {
        name: type(make_optimizer(random_model(), resolve(TrainConfig(optimizer=name)))).__name__ for name in choices
    }
    assert kinds == {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}
