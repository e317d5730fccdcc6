"""What training makes small: every loss, its formula, when to take it, and its shapes.

Notation. A batch has N examples; for each

    s    scores, one for each of K classes; p = softmax(s), the probability of each class
    y    the right class
    z    a predicted number, and t the right one; e = z - t, the error

    name             one example's loss                          take it when
    cross_entropy    -ln p[y]                                    one of K is right: the next token, a label
    mse              e^2                                         large errors are much worse than small ones
    mae              abs(e)                                      some targets are wrong, or far from the others
    huber            e^2 / 2 where abs(e) < 1,                   both: small errors count as in mse and large ones
                     else abs(e) - 1/2    (Huber 1964)           as in mae, and the gradient has no jump

A loss is the mean over the N examples. What makes mse small is the mean of the targets that fit an input; what
makes mae small, their median. The task standardises its targets, so huber changes over at one standard deviation.

Two changes to cross_entropy, which may be combined:

    label smoothing a    -sum over c of q[c] ln p[c], where q[c] = a / K, and q[y] is 1 - a larger: a
                         model that is never quite sure (Szegedy et al. 2016, section 7)
    class weights w      w[c] times the part of class c: rare classes count as much as frequent ones

With weights, too, the sum is divided by N, and not by the sum of the weights as in PyTorch: then the loss of a
batch is the mean of that of its halves, and a batch may be computed in parts.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from mingpt.errors import UserError


def cross_entropy(
    scores: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy in nats of scores (..., K) and labels (...), whole numbers below K; class_weights is (K,)."""
    log_p = F.log_softmax(scores, dim=-1)  # (..., K)
    if class_weights is not None:
        log_p = log_p * class_weights
    of_label = -log_p.gather(-1, labels[..., None]).mean()
    if label_smoothing == 0:
        return of_label
    return (1 - label_smoothing) * of_label - label_smoothing * log_p.mean()


def mse(values: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of values (...) and targets (...)."""
    return (values - targets).square().mean()


def mae(values: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error of values (...) and targets (...)."""
    return (values - targets).abs().mean()


def huber(values: Tensor, targets: Tensor) -> Tensor:
    """Mean Huber loss of values (...) and targets (...): squared up to an error of 1, absolute from there on."""
    error = (values - targets).abs()
    small = error.clamp(max=1)
    return (small * (error - small / 2)).mean()


Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "mae": mae, "huber": huber}

# Which fit a task; the first is taken where none is asked for.
FITTING = {
    "text": ("cross_entropy",),
    "chat": ("cross_entropy",),
    "classify": ("cross_entropy",),
    "regress": ("mse", "mae", "huber"),
}


def choose(task: str, name: str | None = None) -> Loss:
    """The loss that `--loss NAME` asks for, or the task's own. Raises UserError where it does not fit the task.

    >>> choose("regress") is mse
    True
    """
    fitting = FITTING[task]
    if name is not None and name not in fitting:
        raise UserError(f"--loss {name}: does not fit --task {task}; accepted are {', '.join(fitting)}")
    return LOSSES[name or fitting[0]]
