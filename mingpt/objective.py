"""What a study minimizes: a configuration becomes a training run as long as the defaults', and its value.

With budget.py, plan.py and confirmation.py the only files that know both training and tuning.

    parse_space    the values of --search, as a space of train.py's settings
    default_space  the space without --search
    first_configs  the configurations of the first trials
    Objective      trial -> settings -> run in a folder of its own -> curve
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt import files, run, trainer
from mingpt.budget import EVALUATIONS, equal_updates
from mingpt.checkpoint import read_metrics
from mingpt.config import Architecture, TrainConfig, Training
from mingpt.errors import UserError
from mingpt.resolve import FREE_IN_FINE_TUNING, Facts, resolve
from mingpt.settings import choices, nearest, validate_value, value_type
from mingpt.tuning.parameters import Choice, Float, Int, Parameter, parse_parameter
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Curve, Trial

NOT_SEARCHED = ("seed", "config", "threads", "device", "init_from", "data", "task", "max_iters")
NOT_SEARCHED += ("eval_interval", "patience")  # every trial has the same
# What the model of --init_from brings with it.
FROM_BASE = Architecture.model_fields.keys() - {*FREE_IN_FINE_TUNING, "block_size"} | {"tokenizer", "vocab_size"}


def parse_space(searched: tuple[str, ...], init_from: str | None = None) -> Space:
    """The space that `--search NAME=...` asks for. Raises UserError with a line for each problem."""
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
    if problems:
        raise UserError(*problems)
    try:
        return Space(parameters)
    except UserError as error:
        raise UserError(*(f"--search {line}" for line in error.problems)) from None


def validate_parameter(name: str, parameter: Parameter) -> Parameter:
    """The parameter with values of the setting's type. Raises UserError where train.py does not accept them."""
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
        raise UserError(f"{parameter}: must be a range of whole numbers")
    low, high = (validate_value(Training, name, end) for end in (parameter.low, parameter.high))
    step = None if parameter.step is None else kind(parameter.step)
    return {int: Int, float: Float}[kind](low, high, log=parameter.log, step=step, when=parameter.when)


def default_space(base: TrainConfig, facts: Facts, given: Collection[str]) -> Space:
    """A space around the default settings `base`, without the settings that were given."""
    rate = base.learning_rate
    ends = (float(f"{rate * factor:.2g}") for factor in (0.2, 5))
    parameters: dict[str, Parameter] = {"learning_rate": Float(*ends, log=True)}
    if facts.base is not None:  # its architecture is fixed
        parameters |= {"batch_size": Choice(*{4, 8, 16, base.batch_size}), "dropout": Float(0.0, 0.3)}
    else:
        widths = {width for width in (64, 96, 128, 160) if width % base.n_head == 0} | {base.n_embd}
        layers = Int(min(1, base.n_layer), max(4, base.n_layer))
        parameters |= {
            "n_layer": layers,
            "n_embd": Choice(*widths),
            "batch_size": Choice(*{8, 16, 32, base.batch_size}),
        }
        # dialogues and rows have a length of their own, and are few
        is_text = facts.examples is None
        parameters |= {"block_size": Choice(*{32, 64, 128, base.block_size})} if is_text else {"dropout": Float(0, 0.5)}
        sizes = {1024, 4096, base.vocab_size or 1024}
        if "tokenizer" not in given and "vocab_size" not in given:
            when = {"tokenizer": ["bpe"]}
            parameters |= {"tokenizer": Choice("char", "bpe"), "vocab_size": Choice(*sizes, when=when)}
        elif base.tokenizer == "bpe":
            parameters |= {"vocab_size": Choice(*sizes)}
    return Space({name: parameter for name, parameter in parameters.items() if name not in given})


def first_configs(space: Space, shared: Mapping[str, Any], facts: Facts) -> list[dict[str, Any]]:
    """The defaults, then each categorical setting changed alone, with the defaults that follow from it.

    Where the change makes another choice active, such as the vocabulary size of a BPE, each of its values has a turn.
    """

    def complete(changed: dict[str, Any]) -> dict[str, Any]:
        defaults = resolve(TrainConfig(**{**shared, **changed}), facts)
        config: dict[str, Any] = {}
        for name in space.parents_first:
            if space.is_active(name, config):
                value, parameter = getattr(defaults, name), space.parameters[name]
                is_outside = value is None or (changed and not parameter.contains(value))
                config[name] = parameter.value(0.5) if is_outside else value
        return {name: config[name] for name in space.names if name in config}

    changes: list[dict[str, Any]] = [{}]
    for name, is_category in zip(space.names, space.is_category, strict=True):
        for value in space.parameters[name].values if is_category and not space.when[name] else ():
            children = [(n, p) for n, p in space.parameters.items() if space.when[n] and isinstance(p, Choice)]
            active = [(n, v) for n, p in children if space.is_active(n, {name: value}) for v in p.values]
            changes += [{name: value, n: v} for n, v in active] or [{name: value}]
    configs = [complete(changed) for changed in changes]
    return [config for i, config in enumerate(configs) if config not in configs[:i]]


@dataclass(frozen=True)
class Objective:
    """Trains a trial in a folder of its own; see tuning/loop.py.

    shared   what all trials have in common, as asked for
    facts    what the data and the machine say, and the task, whose metric is minimized
    folder   of the trials
    updates  of a run with the defaults; every trial without max_iters gets the same time
    """

    shared: Mapping[str, Any]
    facts: Facts
    folder: Path
    updates: int

    def settings_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a trial's run as asked for, with the number of updates that equal time allows."""
        settings = {**self.shared, **config}
        if "max_iters" not in config:  # of a confirmation it has
            asked = (TrainConfig(**each) for each in (self.shared, settings))
            settings["max_iters"] = equal_updates(*asked, self.facts, self.updates)
        # all evaluations, at the same share of each run
        return settings | {"eval_interval": settings["max_iters"] // EVALUATIONS, "patience": 0}

    def __call__(self, number: int, config: dict[str, Any]) -> bool:
        folder = self.run_folder(number)
        if len(read_metrics(folder)) == EVALUATIONS:  # the process was killed before it returned
            return True
        wait_until_free(folder)
        if (folder / "train.json").exists():
            places = {name: self.shared[name] for name in ("data", "init_from") if name in self.shared}
            current = run.resume(TrainConfig(out_dir=str(folder), resume=True, **places))
        else:
            settings = self.settings_of(config)
            shutil.rmtree(folder)  # what is left of a process that was killed before it saved its settings
            current = run.start(TrainConfig(**settings, out_dir=str(folder)))
        should_stop = self.stop_file(number).exists
        training = trainer.train(
            current.config, current.task, current.folder, current.state, should_stop, samples=False
        )
        with contextlib.closing(current.folder), contextlib.closing(training):
            for _ in training:
                pass
        return current.state.progress.is_finished(current.config)

    def run_folder(self, number: int) -> Path:
        return self.folder / f"{number:04}"

    def stop_file(self, number: int) -> Path:
        """Beside the run's folder: where it exists, the run stops after an update."""
        return self.folder / f"{number:04}.stop"

    def prepare(self, trial: Trial) -> None:
        self.stop_file(trial.number).unlink(missing_ok=True)

    def stop(self, trial: Trial) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stop_file(trial.number).touch()

    def curve(self, trial: Trial) -> Curve:
        """The objective at each evaluation; number k of them lies at the same share of every trial's run."""
        metrics = read_metrics(self.run_folder(trial.number))
        return list(enumerate(map(self.facts.task.objective, metrics), start=1))

    def attributes(self, trial: Trial) -> dict[str, Any]:
        """The updates and the seconds of the run."""
        folder = self.run_folder(trial.number)
        path, metrics = folder / "train.json", read_metrics(folder)
        updates = {"max_iters": files.read_json(path)["max_iters"]} if path.exists() else {}
        return updates | {"seconds": metrics[-1]["seconds"]} if metrics else updates

    def remove(self, trial: Trial, *names: str) -> None:
        """Remove files of a trial that has ended: many trials' would fill the disk."""
        for path in (self.stop_file(trial.number), *(self.run_folder(trial.number) / name for name in names)):
            path.unlink(missing_ok=True)


def settings_to_repeat(trial: Trial) -> dict[str, Any]:
    """The settings of a trial that has ended, with the number of updates that it had."""
    return trial.config | {"max_iters": trial.attributes["max_iters"]}


def wait_until_free(folder: Path) -> None:
    """Wait for a process that still trains here: a cluster's worker outlives the study's process."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            return files.lock(folder / "lock").close()
        except BlockingIOError:
            time.sleep(1)
