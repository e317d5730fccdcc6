"""Tokens per second of training a large model, beside a plain loop: for a GPU, where the step is what counts.

    python tests/benchmarks/throughput.py --device cuda [--compile] [--n_layer 12 --n_head 12 --n_embd 768]
                                          [--block_size 1024 --batch_size 16 --updates 50]

Ours is `python train.py` with these flags, with its default optimizer and with AdamW. The plain loop is nanoGPT's
recipe on a module of the same shape (training.py): bfloat16 autocast, fused AdamW, clipping, the loss read in each
update, compiled if --compile. Each figure is the median of the last four of five blocks of updates.

FLOPs of a token: 6 N + 12 L C T, with N parameters of which the head is part; the attention is not halved for its mask.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from training import PlainGPT

from mingpt.config import TrainConfig
from mingpt.run import start
from mingpt.trainer import train

BLOCKS = 5  # the first is not counted: compiling, choosing of kernels


def ours(options: argparse.Namespace, optimizer: str) -> tuple[float, int]:
    """(tokens per second, vocabulary size) of a run."""
    with tempfile.TemporaryDirectory() as place:
        shape = {name: getattr(options, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size")}
        iters = dict(max_iters=BLOCKS * options.updates, eval_interval=options.updates)
        data = dict(tokenizer="bpe", vocab_size=4096, optimizer=optimizer, out_dir=str(Path(place) / "run"))
        run = start(TrainConfig(**shape, **iters, **data, device=options.device, compile=options.compile))
        rows = list(train(run.config, run.task, run.folder, run.state, samples=False))
        rates = [row["tokens_per_second"] for row in rows[1:]]
        return statistics.median(rates), run.state.model.config.vocab_size


def plain(options: argparse.Namespace, vocab: int) -> float:
    """Tokens per second of the plain loop."""
    torch.manual_seed(0)
    B, T, device = options.batch_size, options.block_size, options.device
    tokens = torch.randint(vocab, (1_000_000,))
    model = PlainGPT(vocab, options.n_layer, options.n_head, options.n_embd, T).to(device)
    forward = torch.compile(model) if options.compile else model
    matrices, vectors = ([w for w in model.parameters() if (w.dim() > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=device == "cuda")

    def update() -> None:
        starts = torch.randint(len(tokens) - T, (B,)).tolist()
        x, y = (torch.stack([tokens[s + i : s + i + T] for s in starts]) for i in (0, 1))
        if device == "cuda":
            x, y = (ids.pin_memory().to(device, non_blocking=True) for ids in (x, y))
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(forward(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    rates = []
    for _ in range(BLOCKS):
        began = time.perf_counter()
        for _ in range(options.updates):
            update()
        rates.append(options.updates * B * T / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    defaults = dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=16, updates=50)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    C, L, T = options.n_embd, options.n_layer, options.block_size
    for optimizer in ("muon", "adamw"):
        rate, vocab = ours(options, optimizer)
        flops = 6 * (12 * L * C * C + vocab * C) + 12 * L * C * T
        beside = plain(options, vocab)
        for name, each in ((f"ours, {optimizer}", rate), ("plain, adamw", beside)):
            print(
                f"{name:14} {each:>12,.0f} tokens/s {each * flops / 1e12:>8.1f} TFLOP/s {each / beside:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
