"""What a study minimizes: a configuration becomes a training run as long as the defaults', and its value.

The only file that knows both training and tuning.

    parse_space    what is typed behind --search, as a space of train.py's settings
    default_space  the space where nothing is typed, and `first_configs`, with which its search begins
    Objective      trial -> settings -> run in trials/NUMBER -> curve
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingpt import files
from mingpt.budget import EVALUATIONS, equal_updates
from mingpt.config import Architecture, TrainConfig, Training
from mingpt.errors import UserError
from mingpt.resolve import FREE_IN_FINE_TUNING, Facts
from mingpt.settings import choices, nearest, validate_value, value_type
from mingpt.tuning.parameters import Choice, Float, Int, Parameter, parse_parameter
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Curve, Trial

NOT_SEARCHED = ("seed", "config", "threads", "device", "init_from", "data", "task", "max_iters", "eval_interval")
# What the model of --init_from brings with it.
FROM_BASE = Architecture.model_fields.keys() - {*FREE_IN_FINE_TUNING, "block_size"} | {"tokenizer", "vocab_size"}
# Follows from the time that a trial has, and belongs to its result.
DURATION = ("max_iters", "eval_interval", "warmup_iters", "min_learning_rate")


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
        parameters |= {"batch_size": Choice(4, 8, 16), "dropout": Float(0.0, 0.3)}
    else:
        widths = [width for width in (64, 96, 128, 160) if width % base.n_head == 0]
        parameters |= {
            "n_layer": Int(1, 4),
            "n_embd": Choice(*widths or [base.n_embd]),
            "batch_size": Choice(8, 16, 32),
        }
        # dialogues and rows have a length of their own, and are few
        is_text = facts.examples is None
        parameters |= {"block_size": Choice(32, 64, 128)} if is_text else {"dropout": Float(0.0, 0.5)}
        parameters |= {"tokenizer": Choice("char", "bpe")}
        parameters |= {"vocab_size": Choice(1024, 4096, when={"tokenizer": ["bpe"]})}
        if "tokenizer" in given:
            del parameters["vocab_size"]
            parameters |= {"vocab_size": Choice(1024, 4096)} if base.tokenizer == "bpe" else {}
    return Space({name: parameter for name, parameter in parameters.items() if name not in given})


def first_configs(space: Space, base: TrainConfig) -> list[dict[str, Any]]:
    """The default settings `base`, then each categorical setting changed alone.

    A parameter that only the changed setting makes active takes its lowest and its highest value.
    """

    def complete(changed: dict[str, Any], end: float) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name in space.parents_first:
            if space.is_active(name, config):
                value = changed.get(name, getattr(base, name))
                config[name] = space.parameters[name].value(end) if value is None else value
        return {name: config[name] for name in space.names if name in config}

    configs = [complete({}, 0.0)]
    for name, is_category in zip(space.names, space.is_category, strict=True):
        values = space.parameters[name].values if is_category and name in configs[0] else ()
        others = [complete({name: value}, end) for value in values for end in (0.0, 1.0)]
        configs += [config for config in others if config not in configs]
    return list({space.key(config): config for config in configs}.values())


@dataclass(frozen=True)
class Objective:
    """Called with a trial, trains it in a folder of its own; see tuning/loop.py.

    shared   what all trials have in common, as asked for
    facts    what the data and the machine say, and the task, whose metric is minimized
    folder   of the study
    updates  of a run with the defaults; every trial gets the same time
    configs  of `confirm`: the settings that a trial names by number
    """

    shared: Mapping[str, Any]
    facts: Facts
    folder: Path
    updates: int
    configs: Mapping[int, Mapping[str, Any]] | None = None

    def settings_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a trial's run as asked for, with the number of updates that equal time allows."""
        if self.configs is not None:
            return {**self.shared, **self.configs[config["trial"]], "seed": config["seed"]}
        settings = {**self.shared, **config}
        updates = equal_updates(TrainConfig(**self.shared), TrainConfig(**settings), self.facts, self.updates)
        return settings | {"max_iters": updates, "eval_interval": updates // EVALUATIONS}

    def __call__(self, number: int, config: dict[str, Any]) -> bool:
        from mingpt import run, trainer

        folder = self.folder_of(number)
        wait_until_free(folder)
        (folder / "stop").unlink(missing_ok=True)
        if (folder / "train.json").exists():
            current = run.resume(TrainConfig(out_dir=str(folder), resume=True, data=self.shared["data"]))
        else:
            settings = self.settings_of(config)
            shutil.rmtree(folder)  # a process was killed before its settings were saved
            current = run.start(TrainConfig(**settings, out_dir=str(folder)))
        config, state = current.config, current.state
        training = trainer.train(config, current.task, current.folder, state, (folder / "stop").exists)
        with contextlib.closing(current.folder), contextlib.closing(training):
            if not state.progress.is_finished(config):
                for _ in training:
                    pass
        return state.progress.is_finished(config)

    def metrics(self, trial: Trial) -> list[dict[str, float]]:
        """The evaluations of a trial's run."""
        path = self.folder_of(trial.number) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def curve(self, trial: Trial) -> Curve:
        """The objective at each evaluation; number k of them lies at the same share of every trial's run."""
        return list(enumerate(map(self.facts.task.objective, self.metrics(trial)), start=1))

    def stop(self, trial: Trial) -> None:
        self.folder_of(trial.number).mkdir(parents=True, exist_ok=True)
        (self.folder_of(trial.number) / "stop").touch()

    def attributes(self, trial: Trial) -> dict[str, Any]:
        """The seconds of the run, and the settings that follow from its time."""
        path = self.folder_of(trial.number) / "train.json"
        settings = files.read_json(path) if path.exists() else {}
        duration = {name: settings[name] for name in DURATION if name in settings}
        return {"seconds": row["seconds"], **duration} if (row := (self.metrics(trial) or [None])[-1]) else duration

    def folder_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    def remove_state(self, trial: Trial) -> None:
        """Remove what only resuming needs, once a trial has ended: many trials' would fill the disk."""
        (self.folder_of(trial.number) / "state.pt").unlink(missing_ok=True)

    def remove_model(self, trial: Trial) -> None:
        (self.folder_of(trial.number) / "model.safetensors").unlink(missing_ok=True)


def settings_to_repeat(trial: Trial) -> dict[str, Any]:
    """The settings of a trial that has ended, with the duration that it had."""
    return trial.config | {name: trial.attributes[name] for name in DURATION if name in trial.attributes}


def wait_until_free(folder: Path) -> None:
    """Wait for a process that still trains here: a cluster's worker outlives the study's process."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            return files.lock(folder / "lock").close()
        except BlockingIOError:
            time.sleep(1)
