"""The training loop, top to bottom. It knows no task: tasks/ says what is learned.

    batch -> forward -> loss -> backward -> clip -> step -> average -> evaluate -> save

Update `step` depends on the weights and optimizer state before it and on (seed, step), and on nothing else: its batch
and its dropout are functions of (seed, step), and an evaluation uses no random numbers. So a run that is stopped
and resumed equals the uninterrupted one bit for bit. Several processes (distributed.py) share the micro-batches.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mingpt import distributed, lora
from mingpt.checkpoint import RunFolder
from mingpt.config import GPTConfig, TrainConfig
from mingpt.device import memory_errors
from mingpt.model import GPT
from mingpt.optim import OPTIMIZERS
from mingpt.pretrained import from_tensors
from mingpt.schedules import SCHEDULES
from mingpt.tasks.base import Task, to_tensors

# The weights that are evaluated and saved are an average over the run, in which the newest update counts
# (A + 1) / (step + A): it covers about the last 1/A of the steps, however many there are (Shamir and Zhang 2013,
# section 4). Of 1,500 updates it was 0.08 nats better after 500, 0.04 after 1,000, and no worse at the end
# (tests/benchmarks/LOG.md).
AVERAGING = 10

READ_EVERY = 10  # updates between two readings of the loss, each of which waits for a GPU


class Diverged(Exception):
    """A loss or a weight is not finite."""


@dataclass
class Progress:
    """Where a run stands, apart from weights and optimizer."""

    step: int = 0  # updates so far
    best: float = math.inf  # task.objective of the best evaluation
    best_step: int = 0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # over the updates since the last evaluation
    loss_count: int = 0
    seconds: float = 0.0  # of work, evaluations included and pauses excluded
    max_iters: int = 0  # of the run that saved this

    def is_finished(self, config: TrainConfig) -> bool:
        is_out_of_patience = 0 < config.patience <= self.evaluations_since_best
        return self.step >= config.max_iters or is_out_of_patience


class State:
    """All that changes while training: initially random weights from the seed, or those given."""

    def __init__(self, config: TrainConfig, model_config: GPTConfig, tensors: dict[str, Tensor] | None = None):
        """Raises UserError where it does not fit in memory."""
        torch.manual_seed(config.seed)
        size = f"--n_layer {config.n_layer}, --n_embd {config.n_embd}, vocabulary {model_config.vocab_size:,}"
        with memory_errors(f"{size}: the model", config.device):
            model = GPT(model_config) if tensors is None else from_tensors(GPT, model_config, tensors)
            if config.lora_rank:
                lora.add_adapters(model, config.lora_rank)
            self.model = model.to(config.device)
            frozen = {id(w): w for w in self.model.parameters() if not w.requires_grad}
            self.averaged = copy.deepcopy(self.model, frozen).eval()  # frozen weights are shared
            if config.compile:
                self.model.hidden_states = torch.compile(self.model.hidden_states)  # which every task calls
            self.optimizer = OPTIMIZERS[config.optimizer](self.model, config)
        self.progress = Progress(max_iters=config.max_iters)
        self.metrics: list[dict[str, Any]] = []  # of each evaluation
        self.start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: tensors, numbers and strings only, so that loading it runs no code."""
        self.progress.seconds = self.seconds()
        parts = {name: getattr(self, name).state_dict() for name in ("model", "averaged", "optimizer")}
        return parts | {"progress": asdict(self.progress), "metrics": self.metrics}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name in ("model", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        max_iters, self.progress = self.progress.max_iters, Progress(**saved["progress"])
        if max_iters > self.progress.max_iters:  # more updates were asked for: patience starts anew
            self.progress.evaluations_since_best = 0
        self.progress.max_iters = max_iters
        self.metrics = saved["metrics"]
        self.start = time.perf_counter() - self.progress.seconds

    def seconds(self) -> float:
        """Of the whole run, without pauses."""
        return time.perf_counter() - self.start


def train(
    config: TrainConfig,
    task: Task,
    folder: RunFolder,
    state: State,
    should_stop: Callable[[], bool] = lambda: False,
    samples: bool = True,
) -> Iterator[dict[str, Any]]:
    """Make the remaining updates, and yield the metrics of each evaluation, with a sample of the model's text.

    should_stop() is called after each update; where it is true, the state is saved and the loop ends. Raises Diverged
    where a loss is not finite; the last state saved is then a good one.
    """
    model, averaged, optimizer, progress = state.model, state.averaged, state.optimizer, state.progress
    task_loss = distributed.data_parallel(TaskLoss(task, model))
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16")
    model.train()
    losses: list[Tensor] = []  # of the updates since the last reading
    tokens, start = 0, time.perf_counter()  # since the last evaluation

    bar = progress_bar(progress.step, config.max_iters)
    for step in bar:
        lr = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr

        batch = task.batch(step)
        losses.append(torch.zeros((), device=config.device))
        for number, micro_batch in micro_batches(batch, config, model):
            seed_dropout(config.seed, step, number)
            # DistributedDataParallel averages the gradients in the backward pass of the last one
            task_loss.require_backward_grad_sync = (number + 1) % config.gradient_accumulation == 0
            with autocast:
                loss = task_loss(*micro_batch) / config.gradient_accumulation
            loss.backward()
            losses[-1] += loss.detach()

        if config.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        model.zero_grad()
        update_average(averaged, model, weight=(AVERAGING + 1) / (step + 1 + AVERAGING))

        progress.step += 1
        tokens += batch[0].size
        is_evaluation = progress.step % config.eval_interval == 0 or progress.step == config.max_iters
        is_stop = distributed.any_rank(should_stop())
        if is_evaluation or is_stop or len(losses) == READ_EVERY:
            newest = read_losses(losses, progress)
            tokens_per_second = round(tokens / (time.perf_counter() - start))
            bar.set_postfix_str(f"loss {newest:.3f}, lr {lr:.2e}, {tokens_per_second:,} tokens/s", refresh=False)

        if is_evaluation:
            speed = {"learning_rate": lr, "tokens_per_second": tokens_per_second}
            yield evaluate(task, folder, state, speed, samples)
            tokens, start = 0, time.perf_counter()
            if progress.is_finished(config):
                break
            is_stop = distributed.any_rank(should_stop())
        if is_stop:
            if not all(weight.isfinite().all() for weight in model.parameters()):  # only the next loss would show it
                raise Diverged(f"a weight after update {progress.step} is not finite")
            if distributed.is_main():
                folder.save_state(state.state_dict())
            break


class TaskLoss(nn.Module):
    """The loss of a task as a module, as DistributedDataParallel needs it."""

    def __init__(self, task: Task, model: GPT):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, *batch: Tensor) -> Tensor:
        return self.task.loss(self.model, *batch)


def micro_batches(
    batch: Sequence[np.ndarray], config: TrainConfig, model: GPT
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The micro-batches that this process computes, each with its number among those of all processes."""
    parts = config.gradient_accumulation
    first = distributed.rank() * parts
    slices = [np.split(array, parts * distributed.world_size()) for array in batch]
    for number in range(first, first + parts):
        yield number, to_tensors([part[number] for part in slices], model)


def seed_dropout(*numbers: int) -> None:
    torch.manual_seed(np.random.SeedSequence(numbers).generate_state(1)[0].item())


def read_losses(losses: list[Tensor], progress: Progress) -> float:
    """Add the losses of the newest updates to the progress; returns the last. Raises Diverged."""
    values = distributed.mean(torch.stack(losses)).tolist()
    for update, value in enumerate(values, start=progress.step - len(values) + 1):
        if not math.isfinite(value):
            raise Diverged(f"the loss of update {update} is {value}")
        progress.loss_sum += value
        progress.loss_count += 1
    losses.clear()
    return values[-1]


def evaluate(task: Task, folder: RunFolder, state: State, training: dict[str, Any], samples: bool) -> dict[str, Any]:
    """Evaluate the averaged weights, as they are saved, and save everything; returns all metrics, and a sample."""
    progress = state.progress
    metrics = {"step": progress.step, "train_loss": progress.loss_sum / progress.loss_count}
    with torch.no_grad():
        metrics |= task.evaluate(state.averaged)
    if not math.isfinite(metrics["val_loss"]):
        raise Diverged(f"the validation loss after update {progress.step} is {metrics['val_loss']}")
    if samples and (sample := task.sample(state.averaged)):
        training = training | {"sample": sample}
    progress.loss_sum, progress.loss_count = 0.0, 0
    progress.evaluations_since_best += 1
    value = task.objective(metrics)
    is_best = value <= progress.best
    if is_best:
        progress.evaluations_since_best = 0 if value < progress.best else progress.evaluations_since_best
        progress.best, progress.best_step = value, progress.step
    state.metrics.append(metrics | training | {"seconds": round(state.seconds(), 2)})
    if distributed.is_main():
        if is_best:  # the model first, then the state that names it the best: see checkpoint.py
            folder.save_model(state.averaged, task)
        folder.save_state(state.state_dict())
        folder.save_metrics(state.metrics)
    return state.metrics[-1]


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, weight: float) -> None:
    """Move each averaged weight towards the newest."""
    for mean, newest in zip(averaged.parameters(), model.parameters(), strict=True):
        if newest.requires_grad:
            mean.lerp_(newest, weight)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of update `step`, counted from 0: linear warm-up to the peak, then the schedule."""
    peak, minimum, warmup = config.learning_rate, config.min_learning_rate, config.warmup_iters
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    t = (step - warmup) / max(1, config.max_iters - warmup)
    return minimum + (peak - minimum) * SCHEDULES[config.schedule](min(t, 1.0))


def progress_bar(initial: int, total: int) -> tqdm:
    """No bar where the output is not a terminal, or in a study's worker; nothing is left behind."""
    disable = multiprocessing.parent_process() is not None or not distributed.is_main() or None
    bar_format = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"
    options = dict(leave=False, dynamic_ncols=True, bar_format=bar_format)
    return tqdm(range(initial, total), initial=initial, total=total, disable=disable, **options)
