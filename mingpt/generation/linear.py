"""A faster nn.Linear for decoding on a CPU, where a matrix is multiplied by a few rows at a time.

    x   (M, in) rows, one for each sequence of the batch
    W   (out, in) the weight;  y = x W' + b
    n   slices, each read by a core of its own

With so few rows a product takes as long as reading W once, and the library behind PyTorch reads with one core, about
half as fast as two can. Cut along `in`, the product is a sum of n products, which PyTorch computes side by side:

    y = sum_i x_i W_i' + b,    x_i (M, in/n),  W_i (out, in/n)

W' must lie in memory as (in, out), as in GPT-2's files. Two cores then read 20 to 30 GB/s, where F.linear reads 15.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.model import GPT

MAX_ROWS = 16  # with more, arithmetic takes longer than reading


class SlicedLinear(nn.Module):
    """The function and the parameters of an nn.Linear, whose weight is laid out anew in place."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        weight.data = weight.data.t().contiguous().t()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        if rows > MAX_ROWS:
            return F.linear(x, self.weight, self.bias)
        n = count_slices(width, torch.get_num_threads())
        x_slices = x.reshape(rows, n, width // n).transpose(0, 1)  # (n, M, in/n)
        y = torch.bmm(x_slices, self.weight.t().view(n, width // n, -1)).sum(0)  # (M, out)
        y = y if self.bias is None else y.add_(self.bias)
        return y.view(*x.shape[:-1], -1)


@functools.cache
def count_slices(width: int, threads: int) -> int:
    """The most slices of equal width, at most two for each thread, so that a slow core has less to finish."""
    return next(n for n in range(2 * threads, 0, -1) if width % n == 0)


@torch.no_grad()
def optimize_for_decoding(model: GPT) -> GPT:
    """Replace the linear layers and the head by sliced ones, in place, for float32 on a CPU; returns the model.

    For bfloat16 PyTorch has a fast kernel that needs (out, in), and a GPU reads either layout at full speed.
    """
    weight = model.wte.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, SlicedLinear(child.weight, child.bias))
    vars(model)["head"] = SlicedLinear(weight)  # not a submodule: the weight is that of the token embedding
    return model
