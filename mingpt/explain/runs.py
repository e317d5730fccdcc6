"""What the page shows of training runs, and of a study, from their files."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mingpt import run
from mingpt.checkpoint import read_metrics
from mingpt.config import TrainConfig
from mingpt.data.tokenizer import load_tokenizer
from mingpt.files import read_json
from mingpt.generation.streaming import Completion, complete, encode_prompt
from mingpt.model import GPT
from mingpt.tuning import bayesian, output
from mingpt.tuning.journal import CREATE_TRIAL, NAME, History
from mingpt.tuning.parameters import Choice, Int, Parameter
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

SAMPLE_TOKENS, TEMPERATURE = 200, 0.8
POINTS = 33  # along each parameter
EXPLAINED = 100  # newest trials that are explained: their history is evaluated anew for each
DEVIATIONS = 1.96  # of the band


def read_run(folder: Path) -> dict[str, Any]:
    """The settings and metrics of a run, which may be in progress."""
    settings = read_json(folder / "train.json")
    task = run.load_task(settings["task"])
    return {
        "name": str(folder),
        "settings": {name: settings[name] for name in TrainConfig.model_fields if name in settings},
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "metrics": read_metrics(folder),
        "sample": sample(folder) if settings["task"] == "text" and (folder / "model.safetensors").exists() else "",
    }


def sample(folder: Path) -> str:
    """Text that the best checkpoint generates."""
    model, tokenizer = GPT.from_pretrained(folder), load_tokenizer(folder)
    ids = encode_prompt(tokenizer, "")
    return "".join(complete(model, ids, Completion(tokenizer), SAMPLE_TOKENS, seed=0, temperature=TEMPERATURE))


def read_study(folder: Path) -> dict[str, Any]:
    """The trials of a study, which may be in progress, and why each was suggested."""
    history = History(folder / NAME)
    explained = explain_suggestions(history)
    space = Space.parse(history.attributes["space"])
    best = output.best_trials(history.trials, 1)
    return {
        "value_name": "objective",
        "parameters": {name: describe_parameter(parameter) for name, parameter in space.parameters.items()},
        "first": history.attributes.get("first", 1),
        "trials": [describe_trial(trial) for trial in history.trials],
        "importance": output.importance(space, history.trials),
        "best": best[0].number if best else None,
        "why": {str(number): why for number, why in explained.items()},
    }


def explain_suggestions(history: History) -> dict[int, Any]:
    """For the newest trials of a Bayesian search, what it saw when it suggested them; reads the journal."""
    seen: list[tuple[int, list[Trial]]] = []
    for operation in history.read():
        if operation["op_code"] == CREATE_TRIAL:
            seen = [*seen[1 - EXPLAINED :], (len(history.trials), copy.deepcopy(history.trials))]
    space = Space.parse(history.attributes["space"])
    asked = history.attributes.get("asked", {})
    if asked.get("strategy", "gp") != "gp":
        return {}
    result = {}
    for number, trials in seen:
        trial = history.trials[number]
        if number >= history.attributes.get("first", 1) and space.contains(trial.config):
            why = explain_suggestion(space, [t for t in trials if space.contains(t.config)], trial)
            result |= {} if why is None else {number: why}
    return result


def explain_suggestion(space: Space, trials: list[Trial], trial: Trial) -> dict[str, Any] | None:
    """Along each parameter through the trial: the value that the trials before it predict, and the acquisition."""
    posterior, acquisition = bayesian.acquisition(space, trials, trial.number, is_local=True)
    if posterior is None or acquisition is None:
        return None
    point, slices = space.point(trial.config), {}
    for d, (name, parameter) in enumerate(space.parameters.items()):
        if name in trial.config:
            u = space.levels(d) if isinstance(parameter, Choice) else np.linspace(0, 1, POINTS)
            X = np.tile(point, (len(u), 1))
            X[:, d] = u
            X = space.snap(X)
            slices[name] = {
                "x": [parameter.value(at) for at in u],
                "mean": finite(posterior.values(X)),
                "low": finite(posterior.values(X, -DEVIATIONS)),
                "high": finite(posterior.values(X, DEVIATIONS)),
                "acquisition": finite(acquisition(X)),
            }
    return {"informed_by": [t.number for t in trials if t.state != "running"], "slices": slices}


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
