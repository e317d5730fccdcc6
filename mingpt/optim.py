"""Optimizers: Muon by hand, and PyTorch's Adam, AdamW and SGD.

Notation, for one parameter w at update t = 1, 2, ...:

    g        gradient of the loss
    m, v     exponential moving averages of g and g^2; m_hat, v_hat with bias correction
    b1, b2   decay rates of m and v
    mu       momentum of Muon
    lr, wd   learning rate and weight decay

Adam (Kingma and Ba 2015):      m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
                                w = w - lr m_hat / (sqrt(v_hat) + eps)
Muon (Jordan et al. 2024):      m = mu m + (1 - mu) g,   u = mu m + (1 - mu) g     (Nesterov)
                                W = W - lr sqrt(max(1, out/in)) orthogonalize(u)
decoupled weight decay (Loshchilov and Hutter 2019), matrices only:    w = (1 - lr wd) w

Another optimizer is a line in OPTIMIZERS and one in config.OPTIMIZER_DEFAULTS. It has param_groups (with "lr"), step(),
state_dict() and load_state_dict().
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mingpt.config import TrainConfig

# Coefficients (a, b, c) of the polynomials a X + b XX'X + c (XX')^2 X, one after the other: each
# brings the singular values that the one before left as close to 1 as its degree allows (Amsel et
# al. 2025, "The Polar Express", the first three for values from 0.001). More of them bring the
# small values closer, and in runs of a few thousand steps train no better.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
ADAM_SCALE = 0.4  # of the learning rate, for the parameters that Muon leaves to Adam (tests/benchmarks/LOG.md)
ADAM_EPS = 1e-10


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The parameters that are trained: matrices, with weight decay, and vectors, without."""
    trained = [w for w in model.parameters() if w.requires_grad]
    return [
        {"params": [w for w in trained if w.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in trained if w.dim() < 2], "weight_decay": 0.0},
    ]


def adam(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Its weight decay is an L2 penalty, added to the gradient."""
    betas, fused = (config.beta1, config.beta2), config.device == "cuda"
    return torch.optim.Adam(parameter_groups(model, config), lr=config.learning_rate, betas=betas, fused=fused)


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    betas, fused = (config.beta1, config.beta2), config.device == "cuda"
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, betas=betas, fused=fused)


def sgd(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """With Nesterov momentum where there is momentum; its weight decay is an L2 penalty."""
    nesterov = config.momentum > 0
    groups = parameter_groups(model, config)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)


class Muon:
    """Muon for the hidden matrices, Adam for embeddings, biases and norms; one learning rate for both.

    A gradient of a matrix is nearly all in a few directions. Muon replaces it by the nearest matrix that has all
    directions at the same strength, so that the rare ones are learned as fast. Unlike torch.optim.Muon, it needs no
    compiler modules, whose import takes a second, and it batches matrices of equal shape.
    """

    def __init__(self, model: nn.Module, config: TrainConfig):
        named = [(name, w) for name, w in model.named_parameters() if w.requires_grad]
        is_hidden = {name: name.startswith("h.") and w.dim() == 2 for name, w in named}
        hidden = [w for name, w in named if is_hidden[name]]
        others = [w for name, w in named if not is_hidden[name]]
        # query, key and value are three matrices in one
        self.parts = [3 if "c_attn.weight" in name else 1 for name, _ in named if is_hidden[name]]
        groups = ({"params": params, "lr": config.learning_rate} for params in (hidden, others))
        self.param_groups: list[dict[str, Any]] = list(groups)
        self.config = config
        self.updates = 0
        self.momentum = [torch.zeros_like(w) for w in hidden]
        self.mean = [torch.zeros_like(w) for w in others]
        self.square = [torch.zeros_like(w) for w in others]

    @torch.no_grad()
    def step(self) -> None:
        self.updates += 1
        self.step_hidden(**self.param_groups[0])
        self.step_others(**self.param_groups[1])

    def step_hidden(self, params: list[Tensor], lr: float) -> None:
        mu = self.config.momentum
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for w, m, parts in zip(params, self.momentum, self.parts, strict=True):
            m.lerp_(w.grad, 1 - mu)
            u = w.grad.lerp(m, mu)
            for pair in zip(w.chunk(parts), u.chunk(parts), strict=True):
                by_shape.setdefault(pair[0].shape, []).append(pair)
        for (rows, columns), pairs in by_shape.items():
            updates = orthogonalize(torch.stack([u for _, u in pairs]), self.config.dtype)
            scale = math.sqrt(max(1, rows / columns))
            for (w, _), update in zip(pairs, updates, strict=True):
                w.mul_(1 - lr * self.config.weight_decay)
                w.sub_(update, alpha=lr * scale)

    def step_others(self, params: list[Tensor], lr: float) -> None:
        b1, b2 = self.config.beta1, self.config.beta2
        lr *= ADAM_SCALE
        for w, m, v in zip(params, self.mean, self.square, strict=True):
            m.lerp_(w.grad, 1 - b1)
            v.mul_(b2).addcmul_(w.grad, w.grad, value=1 - b2)
            v_hat = v / (1 - b2**self.updates)
            if w.dim() >= 2:
                w.mul_(1 - lr * self.config.weight_decay)
            w.addcdiv_(m, v_hat.sqrt_().add_(ADAM_EPS), value=-lr / (1 - b1**self.updates))

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "momentum": self.momentum, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name in ("momentum", "mean", "square"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(saved)


def orthogonalize(X: Tensor, dtype: str = "float32") -> Tensor:
    """The orthogonal matrix nearest to each of X (n, rows, columns), roughly.

    A few matrix products replace the singular value decomposition, U S V' to U V'. The singular values of a random
    square matrix end between 0.1 and 1.9 instead of all at 1.
    """
    X = X.to(getattr(torch, dtype))
    is_tall = X.shape[-2] > X.shape[-1]
    if is_tall:
        X = X.mT  # X X' is then the smaller of the two products
    X = X / (X.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-7)  # singular values at most 1, with a margin for rounding
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)  # a X + (b A + c A A) X
    return (X.mT if is_tall else X).float()


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig], Any]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "muon": Muon,
}
