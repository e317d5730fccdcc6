"""Fine-tuning a GPT-2 of 124 million weights: this project beside a plain loop around transformers' GPT2LMHeadModel.

    python tests/benchmarks/finetuning.py [--updates 5] [--rounds 2] [--lora_rank 0]

Both start from one folder of random weights and make the same updates by AdamW on the same batches of 4 x 256
bytes of Python's manual, each in a process of its own, in turns. For each: the loss of every update (which must
agree), the validation loss before and after, seconds for an update (the median, without the first), and the
most memory that the process held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generation import random_folder
from torch import nn
from torch.nn import functional as F

from mingpt.config import TrainConfig
from mingpt.data.sources import python_manual
from mingpt.data.tokenizer import TOKENIZERS
from mingpt.resolve import resolve
from mingpt.run import read_facts, start
from mingpt.tasks.text import TextTask
from mingpt.trainer import train

TEXT_CHARACTERS = 60_000


def settings(place: Path, updates: int, lora_rank: int) -> TrainConfig:
    asked = dict(init_from=str(place / "base"), data=str(place / "text.txt"), block_size=256, batch_size=4)
    asked |= dict(max_iters=updates, eval_interval=updates, warmup_iters=0, schedule="constant", dropout=0.0)
    asked |= dict(lora_rank=lora_rank, dtype="float32", device="cpu")
    return TrainConfig(**asked)


class Noted:
    """A loss, with each value and the moment of it kept."""

    def __init__(self, loss: Callable[..., torch.Tensor]):
        self.loss = loss
        self.losses: list[float] = []
        self.times: list[float] = []

    def __call__(self, model: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        loss = self.loss(model, *batch)
        if model.training:
            self.losses.append(loss.item())
            self.times.append(time.perf_counter())
        return loss


def ours(asked: TrainConfig, place: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        run = start(asked.model_copy(update={"out_dir": f"{folder}/run"}))
        before = run.task.evaluate(run.state.averaged)["val_loss"]
        run.task.loss = noted = Noted(run.task.loss)
        rows = list(train(run.config, run.task, run.folder, run.state))
    return found(noted, before, rows[-1]["val_loss"])


def theirs(asked: TrainConfig, place: Path) -> dict[str, Any]:
    from transformers import GPT2LMHeadModel

    data, facts = read_facts(asked)
    config = resolve(asked, facts)
    task = TextTask(config, data)
    model = GPT2LMHeadModel.from_pretrained(place / "base", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    groups = [
        {"params": [w for w in model.parameters() if w.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in model.parameters() if w.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())

    task.loss = noted = Noted(loss_of)
    before = evaluate(task, model)
    model.train()
    for step in range(config.max_iters):
        task.loss(model, *map(torch.from_numpy, task.batch(step))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    return found(noted, before, evaluate(task, model))


@torch.no_grad()
def evaluate(task: TextTask, model: nn.Module) -> float:
    """The validation loss of transformers' model, by the task's own evaluation."""
    model.eval()
    logits = lambda x: model(x).logits  # noqa: E731
    logits.parameters = model.parameters
    return task.evaluate(logits)["val_loss"]


def found(noted: Noted, before: float, after: float) -> dict[str, Any]:
    seconds = [b - a for a, b in zip(noted.times, noted.times[1:], strict=False)]
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e6
    return dict(losses=noted.losses, before=before, after=after, seconds=statistics.median(seconds), peak=peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lora_rank", type=int, default=0)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        place = Path(options.child[1])
        run = {"ours": ours, "theirs": theirs}[options.child[0]]
        print(json.dumps(run(settings(place, options.updates, options.lora_rank), place)))
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        random_folder(place / "base")
        TOKENIZERS["byte"]([], [], None).save(place / "base")
        text = python_manual().read_text(encoding="utf-8")
        (place / "text.txt").write_text(text[:TEXT_CHARACTERS], encoding="utf-8")
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for _ in range(options.rounds):
            for child, results in runs.items():
                command = [sys.executable, __file__, "--child", child, name, "--updates", str(options.updates)]
                command += ["--lora_rank", str(options.lora_rank if child == "ours" else 0)]
                results.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    print(f"{'':10}{'seconds':>10}{'peak GB':>10}{'before':>10}{'after':>10}   losses")
    for child, results in runs.items():
        seconds, peak = (statistics.median(result[key] for result in results) for key in ("seconds", "peak"))
        losses = " ".join(f"{loss:.4f}" for loss in results[0]["losses"])
        first = results[0]
        print(f"{child:10}{seconds:>10.2f}{peak:>10.2f}{first['before']:>10.4f}{first['after']:>10.4f}   {losses}")


if __name__ == "__main__":
    main()
