"""Low-rank adaptation: the weights are frozen, and small added matrices are trained.

Notation, for a linear layer with weight W (out, in):

    r      rank of the update
    A, B   (r, in) and (out, r): what is trained; B starts at 0, so that the model is unchanged at first

    y = W x + b + s B A x,    s a constant                    (Hu et al. 2021, "LoRA", equation 3)

Merged on saving: W + s B A is a matrix like W, so a saved model is a plain GPT-2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SCALE = 2.0  # s; the paper's alpha / r, at the usual alpha = 2 r


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + SCALE * (x @ self.A.T @ self.B.T)

    def merged_weight(self) -> Tensor:
        """W + s B A."""
        return self.linear.weight + SCALE * self.B @ self.A


def add_adapters(model: nn.Module, rank: int) -> None:
    """Replace every linear layer of the blocks; all else is frozen except the score head, which is new."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name == "score.weight")
    for block in model.h:
        names = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
        for name in names:
            parent, _, own = name.rpartition(".")
            setattr(block.get_submodule(parent), own, LoRALinear(block.get_submodule(name), rank))


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by their plain names, each update added to its matrix."""
    tensors = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            tensors[f"{name}.weight"] = module.merged_weight()
            tensors[f"{name}.bias"] = tensors.pop(f"{name}.linear.bias")
            for part in ("linear.weight", "A", "B"):
                del tensors[f"{name}.{part}"]
    return tensors
