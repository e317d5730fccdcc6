"""What a study minimizes: a configuration becomes a training run that reports, and its value.

The only file that knows both training and tuning. A worker process imports it, starts the run of a trial in a
folder of its own, or resumes it where the trial was begun before.

    space_of     what is typed behind --search, as a space of train.py's settings
    Objective    trial -> settings -> run -> the best value of its evaluations, reported along the way
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingpt.config import Architecture, TrainConfig, Training
from mingpt.config_tune import TRIAL_ITERS, TuneConfig
from mingpt.errors import UserError
from mingpt.resolve import FREE_IN_FINE_TUNING, Facts, resolve
from mingpt.settings import choices, nearest, validate_value, value_type
from mingpt.tuning.parameters import Choice, Float, Int, Parameter
from mingpt.tuning.parsing import parse_parameter
from mingpt.tuning.space import Space

if TYPE_CHECKING:
    from mingpt.run import Run
    from mingpt.tasks.base import Task
    from mingpt.tuning.loop import Report, Stop
    from mingpt.tuning.trial import Trial

NOT_SEARCHED = ("seed", "config", "threads", "device", "init_from")  # where a trial is trained, not how
SIZES = ("batch_size", "block_size")  # of an update; max_iters follows them
# What the model of --init_from brings with it.
FROM_BASE = Architecture.model_fields.keys() - {*FREE_IN_FINE_TUNING, "block_size"} | {"tokenizer", "vocab_size"}


def space_of(searched: tuple[str, ...], init_from: str | None = None) -> Space | None:
    """The space that `--search NAME=...` asks for, each checked against the flag's type and range; None without one.

    Raises UserError with a line for each problem.
    """
    parameters: dict[str, Parameter] = {}
    problems = []
    for text in searched:
        name, _, body = (part.strip() for part in text.partition("="))
        try:
            if name in parameters:
                raise UserError("is searched twice")
            if init_from is not None and name in FROM_BASE:
                raise UserError("comes with the model of --init_from")
            parameters[name] = validate_parameter(name, parse_parameter(body))
        except UserError as error:
            problems += [f"--search {name}: {line.removeprefix(f'--{name} ')}" for line in error.problems]
    if not problems:
        try:
            return Space(parameters) if searched else None
        except UserError as error:
            problems = [f"--search {line}" for line in error.problems]
    raise UserError(*problems)


def validate_parameter(name: str, parameter: Parameter) -> Parameter:
    """The parameter with values of the flag's type. Raises UserError where train.py does not accept them."""
    names = [name for name in Training.model_fields if name not in NOT_SEARCHED]
    if name not in names:
        raise UserError(f"cannot be searched; settings of train.py can{nearest(name, names)}")
    if isinstance(parameter, Choice):
        return Choice(*(validate_value(Training, name, v) for v in parameter.values), when=parameter.when)
    kind = value_type(Training, name)
    if kind not in (int, float):
        words = "true, false" if kind is bool else ", ".join(choices(Training, name)) or "texts"
        raise UserError(f"is not a number, and has no range; a list of these is accepted: {words}")
    if kind is int and not isinstance(parameter, Int):
        raise UserError(f"{parameter.low}..{parameter.high}: a range of whole numbers is accepted")
    low, high = (validate_value(Training, name, end) for end in (parameter.low, parameter.high))
    step = None if parameter.step is None else kind(parameter.step)
    return {int: Int, float: Float}[kind](low, high, log=parameter.log, step=step, when=parameter.when)


def default_space(base: TrainConfig, facts: Facts, given: Iterable[str]) -> Space:
    """A space around the default settings `base` that fits most users, without the settings that were given."""
    rate = base.learning_rate
    parameters: dict[str, Parameter] = {
        "learning_rate": Float(float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}"), log=True)
    }
    if facts.base is not None:  # its architecture is fixed
        parameters |= {"batch_size": Choice(4, 8, 16), "dropout": Float(0.0, 0.3)}
    else:
        widths = [width for width in (64, 96, 128, 160) if width % base.n_head == 0]
        parameters |= {
            "n_layer": Int(1, 4),
            "n_embd": Choice(*widths or [base.n_embd]),
            "batch_size": Choice(8, 16, 32),
        }
        # dialogues and rows have a length of their own, and are few
        parameters |= {"block_size": Choice(32, 64, 128)} if facts.examples is None else {"dropout": Float(0.0, 0.5)}
    return Space({name: parameter for name, parameter in parameters.items() if name not in given})


def shared_settings(asked: TuneConfig, facts: Facts) -> dict[str, Any]:
    """The settings that all trials of a study share: those asked for, and max_iters."""
    shared = {name: value for name, value in asked.given().items() if name in Training.model_fields}
    shared.pop("config", None)
    default = TRIAL_ITERS if asked.task == "text" else resolve(TrainConfig(**shared), facts).max_iters
    return {"max_iters": default} | shared


def defaults_in(space: Space, base: TrainConfig) -> dict[str, Any]:
    """The default settings `base` as a configuration of the space: the first trial of a study."""
    config: dict[str, Any] = {}
    for name in space.parents_first:
        if space.is_active(name, config):
            config[name] = getattr(base, name)
    return {name: config[name] for name in space.names if name in config}


def value_name(task: type[Task] | Task) -> str:
    """What a study of the task minimizes, see Task.objective."""
    return f"1 - {task.metric}" if task.higher_is_better else task.metric


def update_size(config: Training, facts: Facts) -> int:
    """How much an update learns from: the tokens of a text, or its examples, however long each is."""
    return config.batch_size * (config.block_size if facts.examples is None else 1)


@dataclass(frozen=True)
class Objective:
    """Called with a trial, trains it, and returns the best value of its evaluations: see `value_name`.

    shared   what all trials share, see `shared_settings`
    facts    what the data and the machine say
    folder   where trial NUMBER has its run, in trials/NUMBER
    amount   of tokens or examples that every trial learns from, however large its updates are; None: max_iters updates
    """

    shared: Mapping[str, Any]
    facts: Facts
    folder: Path
    amount: int | None = None
    configs: Mapping[int, Mapping[str, Any]] | None = None  # to train again: those that a trial names by number

    @classmethod
    def over(cls, space: Space, shared: Mapping[str, Any], facts: Facts, folder: Path) -> Objective:
        """The objective of a space. Where the size of an update is searched, every trial learns from as much."""
        base = resolve(TrainConfig(**shared), facts)
        is_sized = any(name in space.names for name in SIZES)
        return cls(shared, facts, folder, base.max_iters * update_size(base, facts) if is_sized else None)

    def settings_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a trial's run as asked for. Raises UserError where they contradict each other."""
        if self.configs is not None:
            config = {**self.configs[config["trial"]], "seed": config["seed"]}
        settings = {**self.shared, **config}
        if self.amount is not None:
            size = update_size(resolve(TrainConfig(**settings), self.facts), self.facts)
            settings["max_iters"] = max(1, round(self.amount / size))
        return settings

    def __call__(self, trial: Trial, report: Report, stop: Stop) -> float | None:
        """None where it was asked to stop and has saved its state instead."""
        from mingpt.trainer import train

        run = self.open_run(trial)
        config, task, state = run.config, run.task, run.state
        reported = trial.curve[-1][0] if trial.curve else 0
        earlier = list(state.metrics)  # a kill may have come between an evaluation and its report
        best = math.inf
        training = train(config, task, run.folder, state, stop.is_set)
        with contextlib.closing(run.folder), contextlib.closing(training):
            for metrics in itertools.chain(earlier, () if state.progress.is_finished(config) else training):
                value = task.objective(metrics)
                best = min(best, value)
                step = metrics["step"] * update_size(config, self.facts)
                if step > reported and not report(step, value):
                    return best
            return best if state.progress.is_finished(config) else None

    def open_run(self, trial: Trial) -> Run:
        """The run of a trial: resumed, or new."""
        from mingpt import run

        folder = self.folder_of(trial)
        if (folder / "train.json").exists():
            return run.resume(TrainConfig(out_dir=str(folder), resume=True))
        shutil.rmtree(folder, ignore_errors=True)  # it was killed before its settings were saved
        return run.start(TrainConfig(**self.settings_of(trial.config), out_dir=str(folder)))

    def folder_of(self, trial: Trial) -> Path:
        return self.folder / "trials" / f"{trial.number:04}"

    def remove_state(self, trial: Trial) -> None:
        """Remove what resuming needs, once a trial has ended: many trials' would fill the disk."""
        (self.folder_of(trial) / "state.pt").unlink(missing_ok=True)
