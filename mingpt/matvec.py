"""A matrix times a few rows, read by all cores: what writing text one token at a time consists of.

Notation:

    x   (M, in) rows: one for each text that is written, so M is small
    W   (out, in) the weight of a linear layer;  y = x W' + b
    n   slices, each read by a core of its own

For one row every weight is read from memory and used once, so the time of a token is the time of that
reading. The library behind PyTorch reads with one core then, about half as fast as two can. Cut along
`in`, the product is a sum of n products, which PyTorch computes side by side:

    y = sum_i x_i W_i' + b,    x_i (M, in/n),  W_i (out, in/n)

It needs W' to lie in memory as (in, out), as GPT-2's own files have it; `lay_out` sees to that. With two
cores, GPT-2's matrices are then read at 20 to 30 GB/s where F.linear reads 15 (tests/benchmarks/LOG.md).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 16  # rows; with more of them the arithmetic takes longer than the reading


class Linear(nn.Linear):
    """nn.Linear, except that a few rows go through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b for x (..., in) and W (out, in)."""
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    if rows > FEW or not is_laid_out(weight):
        return F.linear(x, weight, bias)
    n = slices(width, torch.get_num_threads())
    x_slices = x.reshape(rows, n, width // n).transpose(0, 1)  # (n, M, in/n)
    y = torch.bmm(x_slices, weight.t().view(n, width // n, -1)).sum(0)  # (M, out)
    y = y if bias is None else y.add_(bias)
    return y.view(*x.shape[:-1], -1)


@torch.no_grad()
def lay_out(model: nn.Module) -> None:
    """Let every matrix lie in memory as is quickest to write with; its shape and values are as they were.

    That is (in, out) on a CPU in float32. In bfloat16 PyTorch has a quick path of its own for (out, in), and a GPU
    reads either way.
    """
    for weight in model.parameters():
        if weight.dim() == 2:
            is_sliced = weight.device.type == "cpu" and weight.dtype == torch.float32
            weight.data = weight.data.t().contiguous().t() if is_sliced else weight.data.contiguous()


def is_laid_out(weight: Tensor) -> bool:
    return weight.t().is_contiguous() and weight.device.type == "cpu" and weight.dtype == torch.float32


@functools.cache
def slices(width: int, threads: int) -> int:
    """The most slices of equal width, up to two for each thread: a slow core then has less to finish."""
    return next(n for n in range(2 * threads, 0, -1) if width % n == 0)
