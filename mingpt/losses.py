"""Training losses: each one's formula, when to use it, and its shapes.

Notation, for one of N examples:

    s    logits, one for each of K classes; p = softmax(s)
    y    the true class
    e    prediction minus target, of a regression

    name             loss of one example                         use it when
    cross_entropy    -ln p[y]                                    one of K classes is right: the next token, a label
    mse              e^2                                         large errors are much worse than small ones
    mae              |e|                                         some targets are outliers
    huber            e^2 / 2 where |e| < 1,                      both: quadratic for small errors, linear for
                     |e| - 1/2 elsewhere   (Huber 1964)          outliers, and smooth

A loss is the mean over the N examples. The minimizer of mse is the conditional mean, that of mae the median.
Regression targets are standardized by the task, so huber becomes linear at one standard deviation.

cross_entropy takes two options, which may be combined:

    label smoothing a    target distribution a / K + (1 - a) [c = y] instead of [c = y] (Szegedy et al. 2016, section 7)
    class weights w      the term of class c is multiplied by w[c], so that rare classes count as much as frequent ones

With class weights the sum is still divided by N, not by the sum of the weights as in PyTorch: the loss of a batch
is then the mean of the losses of its micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only methods of tensors are used, so that the names of the losses are known without torch
    from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy in nats of logits (..., K) and labels (...) below K; class_weights is (K,)."""
    log_p = logits.log_softmax(dim=-1)  # (..., K)
    if class_weights is not None:
        log_p = log_p * class_weights
    nll = -log_p.gather(-1, labels[..., None]).mean()
    if label_smoothing == 0:
        return nll
    return (1 - label_smoothing) * nll - label_smoothing * log_p.mean()


def mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of predictions (...) and targets (...)."""
    return (predictions - targets).square().mean()


def mae(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error of predictions (...) and targets (...)."""
    return (predictions - targets).abs().mean()


def huber(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean Huber loss of predictions (...) and targets (...), linear beyond an error of 1."""
    error = (predictions - targets).abs()
    quadratic = error.clamp(max=1)
    return (quadratic * (error - quadratic / 2)).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse, "mae": mae, "huber": huber}
