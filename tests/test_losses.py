"""Losses against PyTorch's own, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mingpt import losses
from mingpt.config import Training
from mingpt.errors import UserError
from mingpt.settings import accepted


def scored(*shape, classes=5):
    generator = torch.Generator().manual_seed(1)
    scores = (3 * torch.randn(*shape, classes, generator=generator)).requires_grad_()
    return scores, torch.randint(classes, shape, generator=generator), torch.rand(classes, generator=generator) + 0.2


def assert_same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_cross_entropy_is_pytorchs(label_smoothing, is_weighted):
    scores, labels, weights = scored(11)
    weights = weights if is_weighted else None
    # PyTorch's mean divides by the sum of the weights
    theirs = F.cross_entropy(scores, labels, weights, reduction="none", label_smoothing=label_smoothing).mean()
    assert_same(losses.cross_entropy(scores, labels, label_smoothing, weights), theirs, scores)


def test_cross_entropy_of_every_token_of_a_batch():
    scores, labels, _ = scored(3, 4)
    assert_same(losses.cross_entropy(scores, labels), F.cross_entropy(scores.flatten(0, 1), labels.flatten()), scores)


def test_cross_entropy_of_large_scores_stays_a_number():
    scores = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    labels = torch.tensor([0, 0])
    assert_same(losses.cross_entropy(scores, labels), F.cross_entropy(scores, labels), scores)


def test_a_weighted_batch_may_be_computed_in_parts():
    scores, labels, weights = scored(12)
    parts = [losses.cross_entropy(*part, 0.1, weights) for part in zip(scores.chunk(3), labels.chunk(3), strict=True)]
    torch.testing.assert_close(sum(parts) / 3, losses.cross_entropy(scores, labels, 0.1, weights))


@pytest.mark.parametrize(
    ("name", "theirs"), [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss), ("huber", F.smooth_l1_loss)]
)
def test_losses_of_numbers_are_pytorchs(name, theirs):
    generator = torch.Generator().manual_seed(2)
    values = (2 * torch.randn(50, generator=generator)).requires_grad_()  # errors on both sides of huber's 1
    targets = torch.randn(50, generator=generator)
    errors = (values - targets).abs()
    assert (errors < 1).any() and (errors > 1).any()
    assert_same(losses.LOSSES[name](values, targets), theirs(values, targets), values)


def test_a_loss_is_chosen_by_the_task():
    assert losses.choose("classify") is losses.choose("classify", "cross_entropy") is losses.cross_entropy
    assert losses.choose("regress") is losses.mse
    assert losses.choose("regress", "huber") is losses.huber
    with pytest.raises(UserError, match=r"^--loss mse: does not fit --task classify; accepted are cross_entropy$"):
        losses.choose("classify", "mse")
    with pytest.raises(UserError, match=r"^--loss cross_entropy: .*--task regress; accepted are mse, mae, huber$"):
        losses.choose("regress", "cross_entropy")


def test_flags_and_table_name_the_same_losses():
    fields = Training.__dataclass_fields__
    assert {*fields["loss"].metadata["choices"]} == losses.LOSSES.keys()
    assert {*fields["task"].metadata["choices"]} == losses.FITTING.keys()
    assert {name for names in losses.FITTING.values() for name in names} == losses.LOSSES.keys()
    assert "mae" in accepted(fields["loss"], str)
    for name in losses.LOSSES:
        assert f"\n    {name} " in losses.__doc__, f"{name} has no line in the table"
