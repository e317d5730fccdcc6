"""CUDA graphs: the kernels of a function are recorded once, and launched together afterwards.

One token of a GPT takes hundreds of kernels of a few microseconds each, less than it takes to launch them one by one.
A graph reads and writes the same memory each time, so that shapes are fixed and inputs are copied to their place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARMUP = 2  # calls before the recording, in which libraries initialize


class Graph:
    """A function of tensors on a GPU, for inputs of the shapes of `inputs`; calls it a few times to record it."""

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor):
        self.inputs = [x.clone() for x in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(inputs[0].device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    function(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            # cuBLAS allocates its workspace anew, in the memory of this graph: it must not end with another's
            torch._C._cuda_clearCublasWorkspaces()
            with torch.cuda.graph(self.graph, stream=stream):
                self.output = function(*self.inputs)
            torch._C._cuda_clearCublasWorkspaces()

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, x in zip(self.inputs, inputs, strict=True):
            place.copy_(x)
        self.graph.replay()
        return self.output.clone()
