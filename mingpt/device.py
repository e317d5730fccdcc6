"""Which device computes, in which precision and with how many threads.

Chosen by what the machine can do, never by timing: a resumed run must choose the same again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mingpt.errors import UserError

MAX_THREADS = 8  # so small a model gains nothing from more


def choose_device(name: str) -> str:
    """The device for `--device NAME`; auto takes a GPU if available. Raises UserError where it is not available."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        others = ", ".join(device for device, is_available in available.items() if is_available)
        raise UserError(f"--device {name}: is not available on this machine; available: {others}")
    return name


def choose_dtype(name: str, device: str) -> str:
    """The autocast dtype for `--dtype NAME`; auto takes bfloat16 where the hardware computes in it."""
    import torch

    if name != "auto":
        return name
    if device == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has_bfloat16 else "float32"


def default_threads(processes: int = 1) -> int:
    """One per processor that this process may use, or its share of them where several train side by side.

    A container may have fewer processors than its machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores // processes), MAX_THREADS)


@contextlib.contextmanager
def memory_errors(what: str, device: str) -> Iterator[None]:
    """Raises UserError, that `what` does not fit, where memory is exhausted."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # as in the errors of all allocators
            raise
        raise UserError(f"{what} does not fit in the memory of {device}") from None
