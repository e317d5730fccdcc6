"""Train a GPT on text: `python train.py`. Every setting: `python train.py --help`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tqdm import tqdm

from mingpt import cli
from mingpt.config import TABLES, TrainConfig, resolve

if TYPE_CHECKING:  # torch takes a second to import: --help and a mistyped flag need not wait for it
    from mingpt.run import Run
    from mingpt.tasks import Task
    from mingpt.trainer import Diverged, State

DESCRIPTION = (
    "Train a GPT on text, dialogues or labelled rows. With no flag: on the manual inside Python, in about two minutes."
)


def main(argv: list[str]) -> int:
    asked, given = cli.parse(TrainConfig, argv, "python train.py", DESCRIPTION, check)
    config, task, run, state = go_on(asked, given) if asked.resume else begin(asked, given)
    try:
        return work(config, task, run, state)
    except BrokenPipeError:  # `python train.py | head`, say
        if state.progress.is_finished(config):
            raise
        sys.stdout = None  # what is left in it would fail again at the end
        with contextlib.suppress(BrokenPipeError):
            saved = f"stopped after update {state.progress.step:,}; all of it is saved"
            print(f"{saved}, but nobody reads the output any more", file=sys.stderr)
            print(f"to go on      {resume_command(run)}", file=sys.stderr)
        return cli.UNREAD


def check(asked: TrainConfig) -> list[str]:
    """What is wrong with the flags. Those of a run that goes on are only a part: see run.settings_to_go_on."""
    return list(asked.out_of_range().values()) if asked.resume else asked.problems()


def work(config: TrainConfig, task: Task, run: Run, state: State) -> int:
    """Train, and tell the user; gives the exit code."""
    from mingpt.trainer import Diverged, train

    if state.progress.is_finished(config):
        print(f"{run.folder} is finished: {describe_best(state, task)}")
        print(
            f"picture       {run.draw(state.metrics, state.progress.best_step)}"
        )  # again, since it may have been killed before
        print(f"to train on   {resume_command(run)} --max_iters {2 * config.max_iters}")
        return 0
    print_header(config, task, run, state)
    with (
        cli.CtrlC("finishing this update, then saving") as ctrl_c,
        contextlib.closing(train(config, task, run, state, lambda: ctrl_c.is_pressed)) as rows,
    ):
        try:
            print_rows(rows, task.metric)
        except Diverged as error:
            return explain(error, config, run)
    picture = run.draw(state.metrics, state.progress.best_step)
    if not state.progress.is_finished(config):
        print(f"\nstopped after update {state.progress.step:,}; all of it is saved")
        print(f"to go on      {resume_command(run)}")
        return cli.CANCELLED
    print_ending(config, task, run, state, picture)
    return 0


def begin(asked: TrainConfig, given: set[str]) -> tuple[TrainConfig, Task, Run, State]:
    """A new run in a new folder."""
    from mingpt.device import on_this_machine
    from mingpt.finetune import starting_weights, with_defaults, with_updates
    from mingpt.run import Run
    from mingpt.tasks import new_task
    from mingpt.trainer import State

    asked = with_defaults(asked, given)
    config = on_this_machine(resolve(asked))
    task = new_task(config)
    config = on_this_machine(resolve(with_updates(asked, task)))
    shape = task.model_config()
    state = State(config, shape, starting_weights(config, shape))  # before there is a folder: it may not fit in memory
    run = Run.create(config.out_dir, task.name)
    run.save_settings(config, task)
    return config, task, run, state


def go_on(asked: TrainConfig, given: set[str]) -> tuple[TrainConfig, Task, Run, State]:
    """An earlier run, as its last state has it."""
    from mingpt.device import on_this_machine
    from mingpt.finetune import starting_weights
    from mingpt.run import Run, settings_to_go_on
    from mingpt.tasks import new_task
    from mingpt.trainer import State

    run, recorded, sums = Run.open(asked.out_dir)
    config = on_this_machine(settings_to_go_on(asked, given, recorded))
    task = new_task(config, origin=run.folder)
    shape = task.model_config()
    state = State(config, shape, None if run.has_state() else starting_weights(config, shape))
    if run.restore(config, task, state, sums):
        print(f"resuming {run.folder} after update {state.progress.step:,}")
    else:
        print(f"resuming {run.folder} from the start: it was stopped before its first state was saved")
    run.save_settings(config, task)
    return config, task, run, state


def print_header(config: TrainConfig, task: Task, run: Run, state: State) -> None:
    size = f"{config.batch_size} x {config.block_size} = {config.batch_size * config.block_size:,} tokens"
    if config.task in TABLES:
        size = f"{config.batch_size:,} texts"
    parameters = sum(w.numel() for w in state.model.parameters())
    learning = sum(w.numel() for w in state.model.parameters() if w.requires_grad)
    parts = config.gradient_accumulation
    lines = {
        "text" if config.task == "text" else "data": task.description(),
        "model": f"n_layer {config.n_layer}, n_head {config.n_head}, n_embd {config.n_embd}, "
        f"block_size {state.model.config.block_size}: {parameters / 1e6:.2f} million parameters"
        + (f", of which {learning / 1e6:.2f} million learn" if learning < parameters else ""),
        "training": f"{config.max_iters:,} updates of {size}"
        + (f" in {parts} parts" if parts > 1 else "")
        + f", {config.optimizer} at {config.learning_rate:g}",
        "machine": f"{config.device}, {config.threads} threads, {config.dtype}"
        + (", compiled" if config.compile else ""),
        "saved in": str(run.folder),
    }
    if config.init_from:
        lines["starts from"] = f"{config.init_from}; what was not given has the defaults of fine-tuning"
    for name, line in lines.items():
        print(f"{name:<14}{line}")


def print_rows(rows: Iterable[dict[str, float]], metric: str) -> None:
    """One aligned line per evaluation, above the progress bar where there is one."""
    head = {"bits_per_byte": "bits/byte"}.get(metric, metric)
    print(f"\n{'step':>8}{'train':>9}{'val':>9}{head:>11}{'lr':>10}{'tokens/s':>11}{'seconds':>9}", flush=True)
    for row in rows:
        tqdm.write(
            f"{row['step']:>8,}{row['train_loss']:>9.4f}{row['val_loss']:>9.4f}{row[metric]:>11.4f}"
            f"{row['learning_rate']:>10.2e}{row['tokens_per_second']:>11,}{row['seconds']:>9.1f}"
        )
        sys.stdout.flush()


def print_ending(config: TrainConfig, task: Task, run: Run, state: State, picture: str) -> None:
    from mingpt.model import GPT

    best = GPT.from_pretrained(run.folder).to(config.device)
    *shown, command = task.ending(best, run.folder)
    print("", *shown, "", sep="\n")
    if state.progress.step < config.max_iters:
        print(f"stopped early: {config.patience} evaluations in a row were no better")
    print(f"best          {describe_best(state, task)}")
    print(f"picture       {picture}")
    print(command)


def describe_best(state: State, task: Task) -> str:
    best = next(row for row in state.metrics if row["step"] == state.progress.best_step)
    measure = f"{best[task.metric]:.4f} {task.metric.replace('_', ' ')}"
    return (
        f"validation loss {best['val_loss']:.4f} ({measure}) at update {best['step']:,}, "
        f"{state.progress.seconds:.0f} s in all"
    )


def explain(error: Diverged, config: TrainConfig, run: Run) -> int:
    kept = run.load_state()
    step = kept["progress"]["step"] if kept else 0
    remedies = [f"--learning_rate {config.learning_rate / 3:.1g} (it was {config.learning_rate:g})"]
    if config.grad_clip == 0 or config.grad_clip > 1:
        remedies.append("--grad_clip 1")
    if config.warmup_iters < config.max_iters // 10:
        remedies.append(f"--warmup_iters {config.max_iters // 10}")
    print(f"\nerror: {error}: the run has diverged and stops here", file=sys.stderr)
    print(f"try a new run with {', or '.join(remedies)}", file=sys.stderr)
    if kept:
        print(f"{run.folder} keeps the last good state, of update {step:,}", file=sys.stderr)
    return 1


def resume_command(run: Run) -> str:
    return f"python train.py --resume --out_dir {shlex.quote(str(run.folder))}"


if __name__ == "__main__":
    cli.run_command(main)
