"""Train a GPT: `python train.py`. Every setting: `python train.py --help`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mingpt import cli
from mingpt.config import TrainConfig
from mingpt.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, which --help and a mistyped flag need not wait for
    from mingpt.run import Run

DESCRIPTION = (
    "Train a GPT on text, dialogues or labeled rows. Without flags: on the manual inside Python, in about two minutes."
)


def main(argv: list[str]) -> int:
    asked = cli.parse(TrainConfig, argv, "python train.py", DESCRIPTION)
    from mingpt import distributed

    try:
        with distributed.processes():
            return start_and_train(asked)
    except distributed.ConnectionLost as error:
        cli.print_error(f"error: {error}; add --resume and --out_dir to resume it from its last state")
        return 1


def start_and_train(asked: TrainConfig) -> int:
    from mingpt.run import resume, start

    run = resume(asked) if asked.resume else start(asked)
    try:
        return train(run)
    except BrokenPipeError:  # `python train.py | head`, say
        if run.state.progress.is_finished(run.config):
            raise
        sys.stdout = None  # its buffer would raise again at exit
        with contextlib.suppress(BrokenPipeError):
            print("broken pipe: the output is no longer read", file=sys.stderr)
            print_stopped(run, sys.stderr)
        return cli.BROKEN_PIPE
    except OSError as error:
        resume_hint = f"what was saved before is complete: {resume_command(run)}"
        raise UserError(f"{run.folder.path}: cannot be written ({error.strerror or error}); {resume_hint}") from None


def train(run: Run) -> int:
    """Train and report; returns the exit code."""
    from mingpt import distributed, trainer
    from mingpt.device import memory_errors
    from mingpt.plot import plot_losses

    config, state, folder = run.config, run.state, run.folder.path
    if state.progress.is_finished(config):
        print(f"{folder} is finished: {describe_best(run)}")
        print(f"continue      {resume_command(run)} --max_iters {2 * config.max_iters}")
        return 0
    size = f"--batch_size {config.batch_size}, --gradient_accumulation {config.gradient_accumulation}: an update"
    try:
        with (
            memory_errors(size, config.device),
            cli.StopRequest("stopping after this update") as stop,
            contextlib.closing(trainer.train(config, run.task, run.folder, state, lambda: stop.is_set)) as evaluations,
        ):
            print_header(run)
            print_evaluations(evaluations, run.task.metric)
    except trainer.Diverged as error:
        return explain_divergence(error, run)
    is_finished = state.progress.is_finished(config)
    if not distributed.disconnect():
        return 0  # another code would make torchrun end rank 0
    plot = plot_losses(folder, state.metrics, state.progress.best_step)
    if not is_finished:
        print_stopped(run, sys.stdout)
        return cli.CANCELLED
    print_report(run, plot)
    return 0


def print_header(run: Run) -> None:
    from mingpt.run import estimate_seconds

    config, model = run.config, run.state.model
    parameters = sum(w.numel() for w in model.parameters()) / 1e6
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad) / 1e6
    print(f"data          {run.task.describe()}")
    print(
        f"model         n_layer {config.n_layer}, n_head {config.n_head}, n_embd {config.n_embd}, "
        f"block_size {model.config.block_size}: {parameters:.2f} million parameters"
        + (f", {trained:.2f} million of them trained" if trained < parameters else "")
    )
    print(
        f"training      {config.max_iters:,} updates of {config.batch_size:,} sequences, {config.optimizer}, "
        f"learning rate {config.learning_rate:g}, {describe_machine(config)}, {config.dtype}"
    )
    minutes = estimate_seconds(run) / 60
    print(f"time          about {'a minute' if minutes < 1.5 else f'{minutes:.0f} minutes'}")
    if config.init_from:
        print(f"fine-tunes    {config.init_from}")
    if run.state.progress.step:
        print(f"resumes       after update {run.state.progress.step:,}")
    print(f"folder        {run.folder.path}")


def describe_machine(config: TrainConfig) -> str:
    from mingpt import distributed

    processes = distributed.world_size()
    return f"{config.device}, {config.threads} threads" + (f", {processes} processes" if processes > 1 else "")


def print_evaluations(evaluations: Iterable[dict[str, Any]], metric: str) -> None:
    """A line per evaluation, above the progress bar."""
    head = {"bits_per_byte": "bits/byte"}.get(metric, metric)
    print(f"\n{'step':>8}{'train':>9}{'val':>9}{head:>11}{'lr':>10}{'tokens/s':>11}{'seconds':>9}", flush=True)
    for row in evaluations:
        tqdm.write(
            f"{row['step']:>8,}{row['train_loss']:>9.4f}{row['val_loss']:>9.4f}{row[metric]:>11.4f}"
            f"{row['learning_rate']:>10.2e}{row['tokens_per_second']:>11,}{row['seconds']:>9.1f}"
        )
        sys.stdout.flush()


def print_report(run: Run, plot: str) -> None:
    from mingpt.model import GPT

    model = GPT.from_pretrained(run.folder.path).to(run.config.device)
    *lines, command = run.task.report(model, run.folder.path)
    print("", *lines, "", sep="\n")
    if run.state.progress.step < run.config.max_iters:
        print(f"early stop    no improvement in {run.config.patience} evaluations")
    print(f"best          {describe_best(run)}")
    print(f"plot          {plot}")
    print(command)


def describe_best(run: Run) -> str:
    progress, metric = run.state.progress, run.task.metric
    best = next(row for row in run.state.metrics if row["step"] == progress.best_step)
    return (
        f"validation loss {best['val_loss']:.4f} ({best[metric]:.4f} {metric.replace('_', ' ')}) at update "
        f"{best['step']:,}; {progress.seconds:.0f} s in all"
    )


def explain_divergence(error: Exception, run: Run) -> int:
    config = run.config
    remedies = [f"--learning_rate {config.learning_rate / 3:.1g} (it was {config.learning_rate:g})"]
    if config.grad_clip == 0 or config.grad_clip > 1:
        remedies.append("--grad_clip 1")
    if config.warmup_iters < config.max_iters // 10:
        remedies.append(f"--warmup_iters {config.max_iters // 10}")
    cli.print_error(f"\nerror: {error}: training has diverged")
    cli.print_error(f"try a new run with {', or '.join(remedies)}")
    if run.folder.has_state():
        cli.print_error(f"{run.folder.path} has the last good state")
    return 1


def print_stopped(run: Run, file: object) -> None:
    print(f"\nstopped after update {run.state.progress.step:,}, which is saved", file=file)
    print(f"resume        {resume_command(run)}", file=file)


def resume_command(run: Run) -> str:
    return f"python train.py --resume --out_dir {shlex.quote(str(run.folder.path))}"


if __name__ == "__main__":
    cli.run_command(main)
