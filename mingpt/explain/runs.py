"""What the page shows of training runs, and of a study, from their files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mingpt import run
from mingpt.checkpoint import read_metrics
from mingpt.config import TASKS, TrainConfig
from mingpt.errors import UserError
from mingpt.files import read_json
from mingpt.tuning import bayesian, output
from mingpt.tuning.journal import NAME, History
from mingpt.tuning.parameters import Choice, Int, Parameter
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

POINTS = 33  # along each parameter
DEVIATIONS = 1.96  # of the band


def read_run(folder: Path) -> dict[str, Any]:
    """The settings and metrics of a run, which may be in progress. Raises UserError where it is none of mingpt."""
    settings = read_json(folder / "train.json")
    if settings.get("task") not in TASKS:
        raise UserError(f"{folder / 'train.json'}: is not of a run of mingpt")
    task = run.load_task(settings["task"])
    return {
        "name": str(folder),
        "settings": {name: settings[name] for name in TrainConfig.model_fields if name in settings},
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "metrics": read_metrics(folder),
    }


def read_study(folder: Path) -> dict[str, Any]:
    """The trials of a study, which may be in progress."""
    history = History(folder / NAME)
    for _ in history.read():
        pass
    attributes, trials = history.attributes, history.trials
    space, best = parse_space(history), output.best_trials(trials, 1)
    task = run.load_task(attributes.get("asked", {}).get("task", TrainConfig.model_fields["task"].default))
    return {
        "value_name": f"1 - {task.metric}" if task.higher_is_better else task.metric,
        "parameters": {name: describe_parameter(parameter) for name, parameter in space.parameters.items()},
        "trials": [describe_trial(trial) for trial in trials],
        "importance": output.importance(space, [trial for trial in trials if space.contains(trial.config)]),
        "best": best[0].number if best else None,
    }


def explain_suggestions(folder: Path, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    """Why trials were suggested: the journal is read again, up to the line that created each."""
    history, reasons = History(folder / NAME), {}
    for _ in itertools.chain(history.read(), [None]):  # which yields before it applies a line
        number = len(history.trials) - 1
        if history.trials and number in numbers and number not in reasons:
            reasons[number] = explain_suggestion(history)
    return reasons


def explain_suggestion(history: History) -> dict[str, Any]:
    """Why the newest trial was suggested: a note, or along each parameter through it the value that the trials before
    predict, and the acquisition.
    """
    (*trials, trial), attributes = history.trials, history.attributes
    strategy, space = attributes.get("asked", {}).get("strategy", "gp"), parse_space(history)
    first = attributes.get("first", 1)
    if trial.number < first:
        return {"note": "An initial configuration: the defaults, or these with one categorical setting changed."}
    if strategy != "gp":
        return {"note": f"Chosen by {strategy} search, which does not look at other trials."}
    trials = [t for t in trials if space.contains(t.config)]
    posterior, acquisition = bayesian.acquisition(space, trials, trial.number, is_local=first > 0)
    if posterior is None or acquisition is None:
        near = ", near the best one" if any(t.state == "done" for t in trials) and first else ""
        return {"note": f"Too few trials had ended for a Gaussian process: a quasi-random (Sobol) point{near}."}
    point, slices = space.point(trial.config), {}
    for d, (name, parameter) in enumerate(space.parameters.items()):
        if name in trial.config:
            u = space.levels(d) if isinstance(parameter, Choice) else np.linspace(0, 1, POINTS)
            X = np.tile(point, (len(u), 1))
            X[:, d] = u
            X = space.snap(X)
            slices[name] = {
                "x": [parameter.value(at) for at in u],
                "median": finite(posterior.values(X)),
                "low": finite(posterior.values(X, -DEVIATIONS)),
                "high": finite(posterior.values(X, DEVIATIONS)),
                "acquisition": finite(acquisition(X)),
            }
    return {"informed_by": [t.number for t in trials if t.state != "running"], "slices": slices}


def parse_space(history: History) -> Space:
    """The newest space of a study. Raises UserError where it has none, as `minimize` writes none."""
    if "space" not in history.attributes:
        raise UserError(f"{history.path}: is not a study of tune.py")
    return Space.parse(history.attributes["space"])


def describe_parameter(parameter: Parameter) -> dict[str, Any]:
    if isinstance(parameter, Choice):
        return {"kind": "choice", "values": list(parameter.values)}
    kind = "int" if isinstance(parameter, Int) else "float"
    return {"kind": kind, "low": parameter.low, "high": parameter.high, "log": parameter.log}


def describe_trial(trial: Trial) -> dict[str, Any]:
    value, lowest = finite([trial.value, trial.lowest])
    return {
        "number": trial.number,
        "state": trial.state,
        "value": value,
        "lowest": lowest,
        "seconds": trial.attributes.get("seconds"),
        "config": trial.config,
        "curve": [[step, value] for step, value in trial.curve if math.isfinite(value)],
        "error": trial.attributes.get("error", ""),
    }


def finite(values: Sequence[float]) -> list[float | None]:
    """Numbers with 6 digits, as JSON has them: None for one that is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
