"""How fast a GPT of this project learns, beside a plain recipe and beside transformers.

    python tests/benchmarks/training.py TEXT [--rounds 3]

TEXT is Tiny Shakespeare or a text like it. Runs alternate, and ratios are taken within a round,
since machines drift. Seconds are those of data preparation, set-up and updates; imports and
evaluations, with the saving that goes with them, are left out on both sides. Every loss is over the
whole last tenth of TEXT, in nats per byte, which is a character of Tiny Shakespeare: so runs with
tokens of several characters (learning these included) and with single characters compare. Where a run
does not reach the target, its whole time stands instead.

The plain recipe is how a small character-level GPT is commonly trained on a CPU: 4 layers, 4 heads,
128 wide, context 64, batches of 12 random windows, 2,000 updates of AdamW with a cosine from 1e-3,
float32, no bias, exact GELU.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mingpt.config import GPTConfig, TrainConfig
from mingpt.model import GPT
from mingpt.run import start
from mingpt.trainer import train

TARGET = 1.90
PLAIN_SHAPE = dict(n_layer=4, n_head=4, n_embd=128, block_size=64)
# The plain recipe's shape to the target, and the best loss in the plain recipe's time.
AT_PLAIN_SHAPE = dict(**PLAIN_SHAPE, batch_size=16, max_iters=290, schedule="wsd", min_learning_rate=0.0)
IN_PLAIN_TIME = dict(
    block_size=128, batch_size=8, max_iters=3100, momentum=0.9, min_learning_rate=2e-4, eval_interval=100
)
TOKENIZERS = {"": {}, ", char": {"tokenizer": "char"}}  # the default is BPE for a text as long as Tiny Shakespeare


class PlainBlock(nn.Module):
    def __init__(self, C: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class PlainGPT(nn.Module):
    def __init__(self, vocab: int, layers: int = 4, heads: int = 4, C: int = 128, T: int = 64):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, C), nn.Embedding(T, C)
        self.blocks = nn.Sequential(*(PlainBlock(C, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(C, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if writes else 0.02)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.tokens(idx) + self.positions.weight[: idx.shape[1]]
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def plain_run(text: str, seed: int, steps: int = 2000, B: int = 12, T: int = 64) -> Iterator[tuple[float, float]]:
    """(seconds, validation loss) along the plain recipe."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    ids = torch.tensor([number[character] for character in text])
    training, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    model = PlainGPT(len(characters))
    groups = [
        {"params": [w for w in model.parameters() if w.dim() > 1], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.dim() < 2], "weight_decay": 0.0},
    ]
    setup = time.perf_counter() - began
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))  # loads the compiler's modules: an import
    seconds = setup
    for step in range(1, steps + 1):
        began = time.perf_counter()
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 100) / (steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step / 100 if step <= 100 else cosine)
        starts = torch.randint(len(training) - T, (B,)).tolist()
        x = torch.stack([training[s : s + T] for s in starts])
        y = torch.stack([training[s + 1 : s + T + 1] for s in starts])
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - began
        if step % 50 == 0:
            yield seconds, plain_loss(model, validation, T)


@torch.no_grad()
def plain_loss(model: nn.Module, validation: torch.Tensor, T: int) -> float:
    n = (len(validation) - 1) // T
    x, y = validation[: n * T].view(n, T), validation[1 : n * T + 1].view(n, T)
    losses = [
        F.cross_entropy(model(x[i : i + 64]).flatten(0, 1), y[i : i + 64].flatten(), reduction="sum")
        for i in range(0, n, 64)
    ]
    return sum(loss.item() for loss in losses) / (n * T)


def our_run(
    path: Path, seed: int, threads: int, eval_interval: int = 20, **flags: object
) -> Iterator[tuple[float, float]]:
    """(seconds, validation loss in nats per byte) along a run of `python train.py --data TEXT`."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["MINGPT_CACHE"] = str(Path(place) / "cache")  # nothing prepared beforehand
        aside = Stopwatch()
        began = time.perf_counter()
        flags |= dict(data=str(path), seed=seed, threads=threads, out_dir=str(Path(place) / "run"))
        run = start(TrainConfig(eval_interval=eval_interval, **flags))
        folder = run.folder
        for owner, name in (
            *((run.task, "evaluate"), (run.task, "sample"), (folder, "save_model")),
            *((folder, "save_state"), (folder, "save_metrics")),
        ):
            setattr(owner, name, aside.timed(getattr(owner, name)))
        for row in train(run.config, run.task, folder, run.state):
            yield time.perf_counter() - began - aside.seconds, row["bits_per_byte"] * math.log(2)


class Stopwatch:
    """The seconds spent in some functions."""

    seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - began
            return result

        return call


def until_target(run: Iterator[tuple[float, float]]) -> float:
    """Seconds to the target, between two evaluations by a straight line; all of them where it is not reached."""
    before = (0.0, math.inf)
    for seconds, loss in run:
        if loss <= TARGET:
            share = 1.0 if before[1] == math.inf else (before[1] - TARGET) / (before[1] - loss)
            return before[0] + share * (seconds - before[0])
        before = (seconds, loss)
    return before[0]


def within(run: Iterator[tuple[float, float]], budget: float) -> float:
    """The best loss that a run reaches in `budget` seconds."""
    best = math.inf
    for seconds, loss in run:
        if seconds > budget:
            break
        best = min(best, loss)
    return best


def step_times(dtype: torch.dtype, blocks: int = 20, size: int = 10) -> float:
    """Our seconds per update over those of transformers' GPT2LMHeadModel: same shape, AdamW, clipping; interleaved."""
    from transformers import GPT2Config, GPT2LMHeadModel

    V, T = 65, 64
    ours = GPT(GPTConfig(vocab_size=V, **PLAIN_SHAPE))
    theirs = GPT2LMHeadModel(
        GPT2Config(
            **dict(vocab_size=V, n_layer=4, n_head=4, n_embd=128, n_positions=T, bos_token_id=None, eos_token_id=None),
            **dict(embd_pdrop=0, attn_pdrop=0, resid_pdrop=0),
        )
    ).train()
    idx = torch.randint(V, (12, T + 1))
    x, y = idx[:, :-1], idx[:, 1:].contiguous()

    def updater(model: nn.Module, logits: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def update() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = F.cross_entropy(logits().flatten(0, 1), y.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return update

    updates = [updater(ours, lambda: ours(x)), updater(theirs, lambda: theirs(x, use_cache=False).logits)]
    ratios = []
    for block in range(blocks + 2):
        times = []
        for update in updates:
            began = time.perf_counter()
            for _ in range(size):
                update()
            times.append(time.perf_counter() - began)
        if block >= 2:  # the first are warm-up
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def shared(seconds: float, of: float) -> str:
    return f"{seconds:.1f} (1/{of / seconds:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = options.text.read_text(encoding="utf-8")

    print(f"{options.text}: {len(text):,} characters; {options.threads} threads, torch {torch.__version__}\n")
    print("step time, ours / transformers (4 layers, 128 wide, context 64, batch 12; AdamW, clipping)")
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    print(f"  float32  {step_times(torch.float32):.2f}")
    print(f"  bfloat16 {step_times(torch.bfloat16):.2f}" if has_bfloat16 else "  bfloat16 not in this CPU")

    print(f"\nseconds to a validation loss of {TARGET} (in parentheses the share of the plain recipe's)")
    print("and, in the last columns, the lowest loss in the plain recipe's whole time")
    names = [f"{name}{kind}" for kind in TOKENIZERS for name in ("defaults", "plain shape")]
    print(f"{'seed':>4}{'plain':>8}{''.join(f'{name:>18}' for name in names)}{'plain':>16}{'ours':>8}{'char':>8}")
    results = []
    for seed in range(options.rounds):
        plain = list(plain_run(text, seed))
        reached, (whole, final) = until_target(iter(plain)), plain[-1]
        seconds, best = [], []
        for kind in TOKENIZERS.values():
            for flags in ({}, AT_PLAIN_SHAPE):
                seconds.append(until_target(our_run(options.text, seed, options.threads, **flags, **kind)))
            best.append(within(our_run(options.text, seed, options.threads, **IN_PLAIN_TIME, **kind), whole))
        results.append([*(each / reached for each in seconds), *best])
        columns = "".join(f"{shared(each, reached):>18}" for each in seconds)
        losses = f"{final:.3f} in {whole:.0f} s" + "".join(f"{loss:>8.3f}" for loss in best)
        print(f"{seed:>4}{reached:>8.1f}{columns}{losses:>32}", flush=True)
    medians = [statistics.median(column) for column in zip(*results, strict=True)]
    shares = "".join(f"{'1/' + format(1 / each, '.1f'):>18}" for each in medians[:4])
    print(f"\nmedian{shares:>78}{''.join(f'{each:>8.3f}' for each in medians[4:]):>32}")


if __name__ == "__main__":
    main()
