"""The training loop, top to bottom. It has no word for any one task: see tasks.py for what is learned.

    batch -> forward -> loss -> backward -> clip -> step -> average -> evaluate -> save

Update `step` depends on the weights and optimizer state before it, on (seed, step) and on nothing
else: its batch and its dropout are drawn afresh from (seed, step), and an evaluation draws nothing.
So a run that is stopped and resumed is the same run.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mingpt import lora
from mingpt.config import GPTConfig, TrainConfig
from mingpt.errors import UserError
from mingpt.model import GPT
from mingpt.optim import learning_rate, make_optimizer
from mingpt.run import Run
from mingpt.tasks import Task

# The weights that are evaluated and saved are an average over the run, in which the newest update
# counts (A + 1) / (step + A): it follows about the last 1/A of the steps, however many there are
# (Shamir and Zhang 2013, section 4). Of 1,500 updates it was 0.08 nats better after 500, 0.04 after
# 1,000, and no worse at the end (tests/benchmarks/LOG.md).
AVERAGING = 10
EXPLODED = 10.0  # times the first loss


class Diverged(Exception):
    """A loss or a weight is no number any more, or a loss has grown far past where it began."""


@dataclass
class Progress:
    """Where a run stands, apart from weights and optimizer."""

    step: int = 0  # updates made
    best: float = math.inf  # of an evaluation, as `value_of` has it
    best_step: int = 0
    evaluations_since_best: int = 0
    first_loss: float = math.nan
    loss_sum: float = 0.0  # over the updates since the last evaluation
    loss_count: int = 0
    seconds: float = 0.0  # of work, evaluations included and pauses not
    max_iters: int = 0  # that were asked for when this was saved

    def check(self, what: str, loss: float) -> None:
        """Raise Diverged where a loss is no number, or far above the first."""
        if not (math.isfinite(loss) and loss <= EXPLODED * self.first_loss):
            raise Diverged(f"{what} is {loss:.4g}")

    def count(self, loss: float) -> None:
        """One update more, of that loss."""
        self.step += 1
        self.loss_sum += loss
        self.loss_count += 1

    def is_finished(self, config: TrainConfig) -> bool:
        is_out_of_patience = 0 < config.patience <= self.evaluations_since_best
        return self.step >= config.max_iters or is_out_of_patience


class State:
    """All that changes while training, at its start: weights fresh from the seed, or those of an earlier model."""

    def __init__(self, config: TrainConfig, model_config: GPTConfig, weights: dict[str, Tensor] | None = None):
        """Raises UserError where it does not fit in memory."""
        torch.manual_seed(config.seed)
        try:
            self.model = (GPT(model_config) if weights is None else GPT.of(model_config, weights)).to(config.device)
            if config.lora_rank:
                lora.adapt(self.model, config.lora_rank)
            frozen = {id(w): w for w in self.model.parameters() if not w.requires_grad}
            self.averaged = copy.deepcopy(self.model, frozen).eval()  # what is kept as it is, is there once
            self.optimizer = make_optimizer(self.model, config)
        except RuntimeError as error:
            if "memory" not in str(error):  # which the errors of all allocators have in common
                raise
            size = f"--n_layer {model_config.n_layer} with --n_embd {model_config.n_embd}"
            raise UserError(
                f"{size} and a vocabulary of {model_config.vocab_size:,}: does not fit in the memory of {config.device}"
            ) from None
        self.progress = Progress(max_iters=config.max_iters)
        self.metrics: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs; tensors, numbers and text only, so that reading it runs no code."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "averaged", "optimizer")}
        return parts | {"progress": asdict(self.progress), "metrics": self.metrics}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name in ("model", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        max_iters, self.progress = self.progress.max_iters, Progress(**saved["progress"])
        if max_iters > self.progress.max_iters:  # who asks for more updates is patient again
            self.progress.evaluations_since_best = 0
        self.progress.max_iters = max_iters
        self.metrics = saved["metrics"]


def train(
    config: TrainConfig, task: Task, run: Run, state: State, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, float]]:
    """Make the updates that are left, and yield a row of metrics after each evaluation.

    After each update should_stop() is asked; where it says so, the state is saved and the loop
    ends. Raises Diverged where the run does; the last state saved is then a good one.
    """
    model, averaged, optimizer, progress = state.model, state.averaged, state.optimizer, state.progress
    if config.compile:
        model.states = torch.compile(model.states)  # through which every task goes
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16")
    watch = Watch(progress.seconds)
    model.train()

    bar = tqdm(range(progress.step, config.max_iters), **bar_style(progress.step, config.max_iters))
    for step in bar:
        lr = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed_of(config.seed, step))  # of dropout
        batch = [tensor.to(config.device) for tensor in task.batch(step)]

        loss = 0.0
        for part in zip(*(tensor.chunk(config.gradient_accumulation) for tensor in batch), strict=True):
            with autocast:
                part_loss = task.loss(model, *part) / config.gradient_accumulation
            part_loss.backward()
            loss += part_loss.item()

        if step == 0:
            progress.first_loss = loss
        progress.check(f"the loss of update {step + 1}", loss)
        if config.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        model.zero_grad()
        average(averaged, model, share=(AVERAGING + 1) / (step + 1 + AVERAGING))

        progress.count(loss)
        watch.tokens += batch[0].numel()
        bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.2e}, {watch.tokens_per_second():,.0f} tokens/s", refresh=False)

        if progress.step % config.eval_interval == 0 or progress.step == config.max_iters:
            yield evaluate(config, task, run, state, lr, watch)
            watch.restart()
            if progress.is_finished(config):
                break
        if should_stop():
            stop(run, state, watch)
            break


def evaluate(config: TrainConfig, task: Task, run: Run, state: State, lr: float, watch: Watch) -> dict[str, float]:
    """Measure the averaged weights, in float32 as they are saved, and save all; gives the row of metrics."""
    progress, speed = state.progress, watch.tokens_per_second()
    row = {"step": progress.step, "train_loss": progress.loss_sum / progress.loss_count}
    row |= task.evaluate(state.averaged, config.device)
    progress.check(f"the validation loss after update {progress.step}", row["val_loss"])
    progress.loss_sum, progress.loss_count = 0.0, 0
    progress.evaluations_since_best += 1
    value = value_of(task, row)
    if value <= progress.best:  # the model first, then the state that names it the best: see run.py
        run.save_model(state.averaged, task)
        progress.best, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
    progress.seconds = watch.seconds()
    row |= {"learning_rate": lr, "tokens_per_second": round(speed), "seconds": round(progress.seconds, 2)}
    state.metrics.append(row)
    run.save_state(state.state_dict())
    run.save_metrics(state.metrics)
    return row


def value_of(task: Task, row: Mapping[str, float]) -> float:
    """The task's metric in a row of metrics, turned so that lower is better: by it a model is kept, and a study goes.

    Not by val_loss, where the two differ: of a model that has become too sure of its labels, which costs loss, the
    labels still become better (tests/benchmarks/LOG.md).
    """
    return 1 - row[task.metric] if task.is_higher_better else row[task.metric]


def stop(run: Run, state: State, watch: Watch) -> None:
    """Save the state between two evaluations, where only the loss of the next update would show that it is no good."""
    if not all(weight.isfinite().all() for weight in state.model.parameters()):
        raise Diverged(f"a weight after update {state.progress.step} is no number")
    state.progress.seconds = watch.seconds()
    run.save_state(state.state_dict())


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, share: float) -> None:
    """Move each averaged weight towards the newest by `share` of the way."""
    for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
        if weight.requires_grad:
            mean.lerp_(weight, share)


def seed_of(seed: int, step: int) -> int:
    """A seed for one update; neighbouring seeds and steps have nothing in common."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


class Watch:
    """Seconds of the whole run, and tokens per second since the last restart."""

    def __init__(self, seconds_before: float):
        self.began = time.perf_counter() - seconds_before
        self.restart()

    def restart(self) -> None:
        self.restarted = time.perf_counter()
        self.tokens = 0

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def tokens_per_second(self) -> float:
        return self.tokens / (time.perf_counter() - self.restarted)


def bar_style(done: int, total: int) -> dict[str, Any]:
    """tqdm's settings: nothing is drawn where the output is no terminal or a study's, and nothing stays behind."""
    form = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"
    is_worker = multiprocessing.parent_process() is not None
    return dict(initial=done, total=total, disable=is_worker or None, leave=False, bar_format=form, dynamic_ncols=True)
