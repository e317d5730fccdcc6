"""Losses against PyTorch's own, value and gradient."""

from __future__ import annotations

import typing

import pytest
import torch
from torch.nn import functional as F

from mingpt import config, losses
from mingpt.run import load_task


def random_logits(*shape, classes=5):
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(*shape, classes, generator=generator)).requires_grad_()
    return logits, torch.randint(classes, shape, generator=generator), torch.rand(classes, generator=generator) + 0.2


def assert_equal(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("has_weights", [False, True])
def test_cross_entropy_equals_pytorch(label_smoothing, has_weights):
    logits, labels, weights = random_logits(12)
    weights = weights if has_weights else None
    # the mean of PyTorch's losses, since its own mean divides by the sum of the weights
    theirs = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=label_smoothing).mean()
    assert_equal(losses.cross_entropy(logits, labels, label_smoothing, weights), theirs, logits)
    micro_batches = zip(logits.chunk(3), labels.chunk(3), strict=True)
    assert_equal(
        sum(losses.cross_entropy(*part, label_smoothing, weights) for part in micro_batches) / 3, theirs, logits
    )


def test_cross_entropy_of_a_batch_of_sequences_and_of_large_logits():
    logits, labels, _ = random_logits(3, 4)
    assert_equal(losses.cross_entropy(logits, labels), F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits)
    large = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    labels = torch.tensor([0, 0])
    assert_equal(losses.cross_entropy(large, labels), F.cross_entropy(large, labels), large)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss), ("huber", F.smooth_l1_loss)]
)
def test_regression_losses_equal_pytorch(name, theirs):
    generator = torch.Generator().manual_seed(2)
    predictions = (2 * torch.randn(50, generator=generator)).requires_grad_()
    targets = torch.randn(50, generator=generator)
    errors = (predictions - targets).abs()
    assert (errors < 1).any() and (errors > 1).any()  # both sides of Huber's threshold
    assert_equal(losses.LOSSES[name](predictions, targets), theirs(predictions, targets), predictions)


def test_every_loss_differs_from_the_others_is_documented_and_fits_a_task():
    x, y = torch.tensor([[0.5, 3.0, 1.0]]), torch.tensor([[1, 0, 2]])
    values = [losses.LOSSES[name](x, y[:, 0] if name == "cross_entropy" else y).item() for name in losses.LOSSES]
    assert len(set(values)) == len(values)
    assert typing.get_args(config.Loss) == tuple(losses.LOSSES)
    assert {name for task in config.TASKS for name in load_task(task).losses} == losses.LOSSES.keys()
    for name in losses.LOSSES:
        assert f"\n    {name} " in losses.__doc__, f"{name} has no line in the table"
