"""Several processes that train one model together, as torchrun starts them.

    torchrun --nproc_per_node=2 train.py --n_layer 6

Each process, a rank, has the whole model and computes its slice of every batch. DistributedDataParallel averages the
gradients, so that all ranks make the same update. Rank 0 alone writes files and prints. In a single process, nothing
here does anything.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mingpt.errors import UserError, problems_of

T, U = TypeVar("T"), TypeVar("U")


class ConnectionLost(Exception):
    """Another rank has ended, or cannot be reached."""


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """A context in which the ranks are connected; those above 0 print nothing. Raises ConnectionLost."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    has_gpu = torch.cuda.is_available()
    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
        output = contextlib.nullcontext() if is_main() else contextlib.redirect_stdout(io.StringIO())
        with output:
            yield
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which torchrun is about to send: the cause is said first
        raise ConnectionLost("another process of this run has ended") from None
    finally:
        disconnect()


def disconnect() -> bool:
    """Disconnect this process from the others. True on rank 0, which goes on alone."""
    was_main = is_main()
    if dist.is_initialized():
        dist.destroy_process_group()
    return was_main


def is_connection_error(error: RuntimeError) -> bool:
    """gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Among the ranks of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def all_gather(value: T) -> list[T]:
    """The values of all ranks, on each of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def call_on_all_ranks(function: Callable[[], T]) -> T:
    """function() on each rank. Where it raises UserError or OSError on any, all raise UserError and none waits."""
    if world_size() == 1:
        return function()
    result, problems = None, []
    try:
        result = function()
    except (UserError, OSError) as error:
        problems = problems_of(error)
    if every := list(dict.fromkeys(itertools.chain.from_iterable(all_gather(problems)))):
        raise UserError(*every)
    return result


def broadcast_from_main(function: Callable[[], T]) -> T:
    """The result of function() on rank 0, on each rank."""
    return all_gather(call_on_all_ranks(lambda: function() if is_main() else None))[0]


def local_main_first(function: Callable[[], T]) -> T:
    """function() on each rank, on the first of each machine before the others, which find its files in the cache."""
    first = call_on_all_ranks(lambda: function() if local_rank() == 0 else None)
    others = call_on_all_ranks(lambda: function() if local_rank() else None)
    return others if local_rank() else first


def shared_map(function: Callable[[U], T], items: Iterable[U]) -> list[T]:
    """function(item) of each item in order, on each rank; every rank computes a share of them."""
    shares = all_gather([function(item) for item in itertools.islice(items, rank(), None, world_size())])
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags)
    return flags.item() > 0


def mean(values: Tensor) -> Tensor:
    """The mean of the ranks' values."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values / world_size()


def data_parallel(module: nn.Module) -> nn.Module:
    """The module, whose backward pass averages the gradients of all ranks."""
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
