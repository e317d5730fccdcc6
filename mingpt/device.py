"""Which device computes, in which precision and with how many threads.

Chosen by what the machine can do, never by timing it: a run that goes on must choose the same again.
"""

from __future__ import annotations

import dataclasses

import torch

from mingpt.config import TrainConfig
from mingpt.errors import UserError


def on_this_machine(config: TrainConfig) -> TrainConfig:
    """The same settings with `auto` decided for device and dtype; from here on this process has their threads."""
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    return dataclasses.replace(config, device=device, dtype=choose_dtype(config.dtype, device))


def choose_device(name: str) -> str:
    """The device for `--device NAME`; auto takes a GPU where there is one. UserError where it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise UserError(f"--device {name}: is not on this machine; there is {found}")
    return name


def choose_dtype(name: str, device: str) -> str:
    """The precision of matrix products for `--dtype NAME`; auto takes bfloat16 where the hardware multiplies in it."""
    if name != "auto":
        return name
    if device == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has_bfloat16 else "float32"
