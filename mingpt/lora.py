"""Low-rank adaptation: a large model is kept as it is, and small added matrices learn.

Notation, for a linear layer with weight W (out, in):

    r      rank: how many directions the change of a matrix may have
    A, B   (r, in) and (out, r): what learns; B begins at 0, so that nothing is changed at first

    y = W x + b + s B A x,    s a constant                    (Hu et al. 2021, "LoRA", equation 3)

Afterwards W + s B A is a matrix like W: a saved model is a plain GPT-2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mingpt.gpt2 import SCORE

if TYPE_CHECKING:
    from mingpt.model import GPT

SCALE = 2.0  # s; the paper's alpha / r, at the alpha = 2 r that is usual


class LoRA(nn.Module):
    """A linear layer that is kept, and its change that learns."""

    def __init__(self, kept: nn.Linear, rank: int):
        super().__init__()
        self.kept = kept.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, kept.in_features) / math.sqrt(kept.in_features))
        self.B = nn.Parameter(torch.zeros(kept.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(x) + SCALE * (x @ self.A.T @ self.B.T)

    def merged(self) -> Tensor:
        """W + s B A."""
        return self.kept.weight + SCALE * self.B @ self.A


def adapt(model: GPT, rank: int) -> None:
    """Every matrix of the blocks gets its A and B; all else is kept as it is, but for the scores, which are new."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name == SCORE)
    for block in model.h:
        layers = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
        for name in layers:
            parent, _, own = name.rpartition(".")
            setattr(block.get_submodule(parent), own, LoRA(block.get_submodule(name), rank))


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by their plain names, every change added to its matrix."""
    tensors = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, LoRA):
            tensors[f"{name}.weight"] = module.merged()
            tensors[f"{name}.bias"] = tensors.pop(f"{name}.kept.bias")
            for part in ("kept.weight", "A", "B"):
                del tensors[f"{name}.{part}"]
    return tensors
