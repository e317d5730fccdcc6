"""Decoding by CUDA graphs: on the CPU by a recording of the operations, which is what a graph is; on a GPU if any."""

from __future__ import annotations

import contextlib

import pytest
import torch
from conftest import random_model
from torch.utils._python_dispatch import TorchDispatchMode

from mingpt import GPT
from mingpt.generation.decoding import Decoder

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11], list(range(30))]  # with a context of 16


class Recording(TorchDispatchMode):
    """Records operations with their tensors; a replay computes them again, into the same memory."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        output = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, output))
        return output

    @torch.inference_mode()
    def replay(self):
        for operation, args, kwargs, output in self.calls:
            again = operation(*args, **kwargs)
            for old, new in zip(*(x if isinstance(x, tuple | list) else [x] for x in (output, again)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture(params=["recording", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request, monkeypatch):
    if request.param == "cuda":
        return "cuda"

    class Stream:
        def wait_stream(self, stream):
            pass

    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: graph)
    return "cpu"


def decoder_by_graphs(model: GPT, S: int) -> Decoder:
    decoder = Decoder(model, len(PROMPTS), S)
    decoder.step = decoder.replay  # on the CPU too
    return decoder


def read(decoder: Decoder, sequences: list[list[int]]) -> torch.Tensor:
    for sequence in sequences:
        sequence.append(sum(sequence) % 37)
    return decoder.read(sequences)


@torch.no_grad()
def test_graphs_give_the_hidden_states_of_the_model_also_where_rows_and_room_change(device):
    model = random_model().to(device)
    decoder = decoder_by_graphs(model, 12)
    sequences = [list(prompt) for prompt in PROMPTS[:3]]
    read(decoder, sequences)

    def check() -> None:
        for x, tokens in zip(read(decoder, sequences), sequences, strict=True):
            expected = model.hidden_states(torch.tensor([tokens], device=device))[0, -1]
            torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)

    check()
    check()
    assert list(decoder.graphs) == [3]
    decoder.remove(0)
    sequences = [sequences[2], sequences[1]]
    check()
    check()
    assert list(decoder.graphs) == [3, 2]
    decoder.reserve(2, 16)
    assert not decoder.graphs
    check()
    decoder.prefill([[1, 2, 3]], row=2)
    sequences.append([1, 2, 3])
    check()
    assert list(decoder.graphs) == [2, 3]


@torch.no_grad()
def test_graphs_slide_where_the_context_is_full(device):
    model = random_model().to(device)
    by_graphs, plain = decoder_by_graphs(model, 16), Decoder(model, len(PROMPTS), 16)
    plain.replay = plain.step  # on a GPU too
    sequences = [[list(prompt) for prompt in PROMPTS] for _ in range(2)]
    for _ in range(40):
        torch.testing.assert_close(read(by_graphs, sequences[0]), read(plain, sequences[1]), rtol=1e-4, atol=1e-4)
    assert list(by_graphs.graphs) == [4]
    assert not plain.graphs
