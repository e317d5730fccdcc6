"""Faster linear layers for decoding on a CPU, where a matrix is multiplied by a few rows at a time.

    x   (..., in) inputs, one row for each sequence of the batch
    W   (out, in) the weight, b (out) the bias;  y = x W' + b

With so few rows a product takes as long as reading W once: the fewer bytes W has and the more cores read, the faster.

float32    `SlicedLinear`. The library behind PyTorch reads with one core for one row. Cut along `in`, the product is a
           sum of n products, which PyTorch computes side by side:  y = sum_i x_i W_i' + b,  W_i (out, in/n)
bfloat16   `PackedLinear`. oneDNN's kernel for a weight in its own layout, which is packed once instead of in each call
int8       `Int8Linear`. Integers of 8 bits for the weight, with a scale s_o for each output (symmetric, absmax / 127),
           and for each row of x, with its absmax r:  x = r q / 127,  W_o = s_o p_o,  y_o = r s_o (q p_o) / 127 + b_o
           The sum q p_o is exact, so that among fewer than MANY_ROWS a row's result does not depend on the others.
"""

from __future__ import annotations

import functools
import platform
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.model import GPT

TINY = 1e-12  # in place of a divisor of 0
MANY_ROWS = 6  # from which oneDNN is faster than fbgemm (a Xeon with AMX; tests/benchmarks/LOG.md)
PACKED_FOR = 32  # rows; packed for 1, the head takes a half longer to read, and more rows longer still


class SlicedLinear(nn.Module):
    """The function and the parameters of an nn.Linear, whose weight is laid out anew in place, as (in, out)."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        weight.data = weight.data.t().contiguous().t()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if x.numel() > width:  # several rows keep all cores busy as they are
            return F.linear(x, self.weight, self.bias)
        n = count_slices(width, torch.get_num_threads())
        W = self.weight.t().view(n, width // n, -1)  # (n, in/n, out)
        y = torch.bmm(x.view(n, 1, width // n), W).sum(0)  # (1, out)
        y = y if self.bias is None else y.add_(self.bias)
        return y.view(*x.shape[:-1], -1)


@functools.cache
def count_slices(width: int, threads: int) -> int:
    """The most slices of equal width, at most two for each thread, so that a slow core has less to finish."""
    return next(n for n in range(2 * threads, 0, -1) if width % n == 0)


class PackedLinear(nn.Module):
    """An nn.Linear of bfloat16 with a copy of its weight in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.packed, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR), bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """An nn.Linear in 8-bit integers, of float32 input and output.

    Two libraries compute q p, each with its own copy of p in its layout: fbgemm for few rows, oneDNN for many.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        scale = weight.abs().amax(dim=1).clamp_(min=TINY).div_(127)  # (out,)
        p = (weight / scale[:, None]).round_().to(torch.int8).contiguous()
        self.bias = None if bias is None else bias.detach()  # found faster than a parameter
        self.scale, self.weight_zero_points = scale, torch.zeros_like(scale, dtype=torch.int32)
        self.weight_few, self.weight_many = pack_int8(p, scale), torch.ops.onednn.qlinear_prepack(p, None)
        self.multiply_few = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        self.multiply_many = torch.ops.onednn.qlinear_pointwise.default
        # without VNNI, the sum of two products is kept in 16 bits, which 2 * 254 * 127 would exceed
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63
        self.zero_point = self.levels + 1  # of q as an unsigned integer
        self.rounding = torch.tensor(self.zero_point + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        r = x.abs().amax(-1, True)  # (..., 1); in a row of zeros, any q will do
        if x.numel() < MANY_ROWS * x.shape[-1]:
            y = self.multiply_few(x / r, 1 / self.levels, self.zero_point, self.weight_few)
        else:
            q = torch.addcmul(self.rounding, x, self.levels / r).to(torch.uint8)
            weight, bias = (self.weight_many, self.scale, self.weight_zero_points), None
            output = 1.0, 0, torch.float32, "none", [], ""  # scale, zero point, dtype, no function fused
            y = self.multiply_many(q, 1 / self.levels, self.zero_point, *weight, bias, *output)
        return y.mul_(r) if self.bias is None else torch.addcmul(self.bias, y, r)


def pack_int8(p: Tensor, scale: Tensor) -> torch.ScriptObject:
    """The weight in the layout of fbgemm, PyTorch's library for 8-bit integers."""
    torch.backends.quantized.engine = "fbgemm"
    zero = torch.zeros_like(scale, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a future PyTorch, which setup.cfg excludes, lacks these
        weight = torch._make_per_channel_quantized_tensor(p, scale.double(), zero, 0)
        return torch.ops.quantized.linear_prepack(weight, None)


@torch.no_grad()
def optimize_for_decoding(model: GPT, dtype: str = "float32") -> GPT:
    """Replace the linear layers and the head for decoding in `dtype`, in place; returns the model.

    Its weights are bfloat16 for bfloat16, else float32; those of the embeddings stay as they are. On a GPU, which reads
    any layout at full speed, and where oneDNN does not compute in bfloat16, nn.Linear stays.
    """
    layers = {"float32": SlicedLinear, "bfloat16": PackedLinear, "int8": Int8Linear}
    weight = model.wte.weight
    if weight.device.type != "cpu" or (dtype == "bfloat16" and not has_bfloat16()):
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, layers[dtype](child.weight, child.bias))
    vars(model)["head"] = layers[dtype](weight)  # not a submodule: the weight is that of the token embedding
    return model


def cache_dtype(model: GPT) -> torch.dtype:
    """The dtype of keys and values: bfloat16, read in half the time, for int8 weights, which are less exact still."""
    is_int8 = isinstance(model.h[0].attn.c_attn, Int8Linear)
    return torch.bfloat16 if is_int8 and torch.cpu._is_avx512_bf16_supported() else model.wte.weight.dtype


def has_bfloat16() -> bool:
    """Whether oneDNN is part of PyTorch here, and computes in bfloat16 on this processor."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_int8() -> bool:
    """Whether PyTorch computes linear layers in 8-bit integers here: on x86 processors."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")  # PyTorch may name fbgemm on others too
    return is_x86 and "fbgemm" in torch.backends.quantized.supported_engines and torch.backends.mkldnn.is_available()
