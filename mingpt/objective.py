"""What a study minimises: a configuration becomes a training run that reports, and its value.

The only file that knows both training and tuning. A worker process imports it, makes the run of a
trial in a folder of its own, and goes on with what is there when the trial was begun before.

    space_of     what is typed behind --search, or a default, as a space of train.py's settings
    Objective    trial -> settings -> run -> the best value of its evaluations, reported along the way
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingpt.config import TABLES, TrainConfig, Training, resolve
from mingpt.defaults import completed
from mingpt.errors import UserError
from mingpt.finetune import SHAPE
from mingpt.settings import accepted, as_kind, is_accepted, nearest, shown, type_of
from mingpt.tuning.parameters import Choice, Float, Int, Parameter
from mingpt.tuning.parsing import parse_parameter
from mingpt.tuning.space import Space

if TYPE_CHECKING:
    from mingpt.run import Run
    from mingpt.tasks import Task
    from mingpt.trainer import State
    from mingpt.tuning.loop import Report, Stop
    from mingpt.tuning.study import Trial

NOT_SEARCHED = ("seed", "config", "threads", "device", "init_from")  # where a trial is trained, not how
SIZES = ("batch_size", "block_size")  # of an update; max_iters follows them


def space_of(searched: tuple[str, ...], training: Training, given: set[str]) -> Space:
    """The space that `--search NAME=...` asks for, each checked against the flag's own type and range.

    Without one, a space around the defaults that fits most users, less the settings that were typed.
    Raises UserError with a line for each problem.
    """
    if not searched:
        return Space({name: p for name, p in default_parameters(training).items() if name not in given})
    parameters: dict[str, Parameter] = {}
    problems = []
    for text in searched:
        name, _, body = (part.strip() for part in text.partition("="))
        try:
            if name in parameters:
                raise UserError("is searched twice")
            if training.init_from is not None and name in (*SHAPE, "tokenizer"):
                raise UserError("comes with the model of --init_from")
            parameters[name] = checked(name, parse_parameter(body))
        except UserError as error:
            problems += [f"--search {name}: {line}" for line in error.problems]
    if not problems:
        try:
            return Space(parameters)
        except UserError as error:
            problems = [f"--search {line}" for line in error.problems]
    raise UserError(*problems)


def default_parameters(training: Training) -> dict[str, Parameter]:
    """What most users would vary: the learning rate tenfold both ways, the size of the model and of an update."""
    rate = completed(training).learning_rate
    if training.init_from is not None:  # the model's shape is given
        return {
            "learning_rate": Float(float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}"), log=True),
            "batch_size": Choice(4, 8, 16),
            "dropout": Float(0.0, 0.3),
        }
    widths = [width for width in (64, 96, 128, 160) if width % training.n_head == 0]
    parameters: dict[str, Parameter] = {
        "learning_rate": Float(float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}"), log=True),
        "n_layer": Int(1, 4),
        "n_embd": Choice(*widths or [training.n_embd]),
        "batch_size": Choice(8, 16, 32),
    }
    if training.task == "text":
        return parameters | {"block_size": Choice(32, 64, 128)}
    return parameters | {"dropout": Float(0.0, 0.5)}  # dialogues and rows have a length of their own, and are few


def checked(name: str, parameter: Parameter) -> Parameter:
    """The parameter with values of the flag's type. Raises UserError where train.py would not take them."""
    names = [f.name for f in dataclasses.fields(Training) if f.name not in NOT_SEARCHED]
    if name not in names:
        raise UserError(f"cannot be searched; settings of train.py can{nearest(name, names)}")
    field = next(f for f in dataclasses.fields(Training) if f.name == name)
    kind = type_of(Training, name)
    if isinstance(parameter, Choice):
        values = [as_kind(kind, value) for value in parameter.values]
        parameter = Choice(*values, when=parameter.when)
    elif kind is float and isinstance(parameter, Int):
        step = None if parameter.step is None else float(parameter.step)
        low, high = float(parameter.low), float(parameter.high)
        parameter = Float(low, high, log=parameter.log, step=step, when=parameter.when)
        values = [low, high]
    elif kind in (int, float):
        values = [parameter.low, parameter.high]
    else:
        raise UserError(f"a range; {accepted(field, kind)}")
    wrong = [value for value in values if not is_accepted(field, kind, value)]
    if wrong:
        raise UserError(f"{', '.join(map(shown, wrong))}: {accepted(field, kind)}")
    return parameter


def defaults_in(space: Space, training: Training) -> dict[str, Any]:
    """What train.py would take for the searched settings by itself: the first trial of a study."""
    whole = completed(training)
    config: dict[str, Any] = {}
    for name in space.parents_first:
        if space.is_active(name, config):
            config[name] = getattr(whole, name)
    return {name: config[name] for name in space.names if name in config}


def value_name(task: Task) -> str:
    """What a study of the task makes small: its metric, or where that is better the higher, what it lacks to 1."""
    return f"1 - {task.metric}" if task.is_higher_better else task.metric


def run_of(training: Training, config: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run of the study. Raises UserError where they do not fit together."""
    shared = {f.name: getattr(training, f.name) for f in dataclasses.fields(Training) if f.name != "config"}
    return resolve(TrainConfig(**{**shared, **config}))


def size_of(training: Training) -> int:
    """What an update learns from: its tokens, or of a table its texts, however long each is."""
    return training.batch_size * (1 if training.task in TABLES else training.block_size)


@dataclass(frozen=True)
class Objective:
    """Called with a trial, trains it, and returns the best value of its evaluations: see `value_name`.

    training  what all trials share
    folder    where trial NUMBER has its run, in trials/NUMBER
    amount    of tokens or texts that every trial learns from, however large its updates are; None: max_iters updates
    """

    training: Training
    folder: Path
    amount: int | None = None
    configs: Mapping[int, Mapping[str, Any]] | None = None  # to train again: those that a trial names by number

    @classmethod
    def over(cls, space: Space, training: Training, folder: Path) -> Objective:
        """The objective of a space. Where the size of an update is searched, every trial learns from as much."""
        is_sized = any(name in space.names for name in SIZES)
        return cls(training, folder, training.max_iters * size_of(training) if is_sized else None)

    def settings_of(self, config: Mapping[str, Any]) -> TrainConfig:
        """The settings of a trial's run. Raises UserError where they do not fit together."""
        if self.configs is not None:
            config = {**self.configs[config["trial"]], "seed": config["seed"]}
        if self.amount is not None:
            size = size_of(dataclasses.replace(self.training, **config))
            config = {**config, "max_iters": max(1, round(self.amount / size))}
        return run_of(self.training, config)

    def __call__(self, trial: Trial, report: Report, stop: Stop) -> float | None:
        """None where it was asked to stop and has saved its state instead."""
        from mingpt.device import on_this_machine
        from mingpt.tasks import new_task
        from mingpt.trainer import train, value_of

        config = on_this_machine(self.settings_of(trial.config))
        task = new_task(config)
        run, state = self.begun(trial, config, task)
        reported = trial.curve[-1][0] if trial.curve else 0
        earlier = list(state.metrics)  # a kill may have come between an evaluation and its report
        best = math.inf
        with contextlib.closing(run), contextlib.closing(train(config, task, run, state, stop.is_set)) as rows:
            for row in itertools.chain(earlier, rows):
                value = value_of(task, row)
                best = min(best, value)
                step = row["step"] * size_of(config)
                if step > reported and not report(step, value):
                    return best
            return best if state.progress.is_finished(config) else None

    def begun(self, trial: Trial, config: TrainConfig, task: Task) -> tuple[Run, State]:
        """The run of a trial: as its last state has it, or from the start."""
        from mingpt.finetune import starting_weights
        from mingpt.run import Run, sums_of
        from mingpt.trainer import State

        folder = self.folder_of(trial)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder)
        shape = task.model_config()
        state = State(config, shape, None if run.has_state() else starting_weights(config, shape))
        if not run.restore(config, task, state, sums_of(task)):
            run.save_settings(config, task)
        return run, state

    def folder_of(self, trial: Trial) -> Path:
        return self.folder / "trials" / f"{trial.number:04}"

    def forget_state(self, trial: Trial) -> None:
        """Remove what resuming needs, once a trial has ended: many trials' would fill the disk."""
        (self.folder_of(trial) / "state.pt").unlink(missing_ok=True)
