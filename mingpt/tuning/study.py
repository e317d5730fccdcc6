"""A study: asks a strategy for configurations, and keeps their trials. One process owns a study at a time.

With a journal, what a call says is in the file when it returns, and a study whose process was killed continues from
it: a suggestion depends on the space, the seed and the trials alone, so that trials run one at a time are the same
as without the kill.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mingpt.tuning.journal import Journal
from mingpt.tuning.parameters import Parameter
from mingpt.tuning.pruning import PRUNERS
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES
from mingpt.tuning.trial import Trial


class Study:
    """Ask for a trial, report its curve, tell its value.

    space     what is searched
    strategy  a name of STRATEGIES
    pruner    a name of PRUNERS
    first     configurations of the first trials, in the space or not; gp then begins its search near the best of them
    journal   where the study is kept, and continued from

    >>> from mingpt.tuning import Choice
    >>> study = Study(Space({"x": Choice(1, 2, 3)}), strategy="grid")
    >>> trial = study.ask()
    >>> study.tell(trial, value=trial.config["x"] ** 2)
    >>> study.best.config
    {'x': 1}
    """

    def __init__(
        self,
        space: Space,
        strategy: str = "gp",
        seed: int = 0,
        pruner: str = "none",
        first: Sequence[dict[str, Any]] = (),
        journal: Journal | None = None,
    ):
        self.space, self.prune, self.first, self.journal = space, PRUNERS[pruner], first, journal
        self.strategy = STRATEGIES[strategy](space, seed, is_local=bool(first))
        self.trials: list[Trial] = [] if journal is None else journal.trials
        self.in_space = [trial for trial in self.trials if space.contains(trial.config)]

    @property
    def best(self) -> Trial | None:
        """The finished trial with the lowest value."""
        return min((trial for trial in self.trials if trial.state == "done"), key=lambda t: t.value, default=None)

    def ask(self) -> Trial | None:
        """A new trial to run; None where the space is used up."""
        number = len(self.trials)
        is_first = number < len(self.first)
        config = self.first[number] if is_first else self.strategy.suggest(self.in_space, number)
        if config is None:
            return None
        trial = Trial(number, config)
        if self.journal is None:
            self.trials.append(trial)
        else:
            self.journal.create_trial(self.space.parameters, trial)  # whose list of trials is ours
        if self.space.contains(config):
            self.in_space.append(trial)
        return trial

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """A point of the trial's curve, with a step above those before; whether the trial should go on."""
        step, value = int(step), float(value)
        value = math.inf if math.isnan(value) else value
        if self.journal is not None:
            self.journal.report(trial, step, value)
        trial.curve.append((step, value))
        return not self.should_prune(trial)

    def should_prune(self, trial: Trial) -> bool:
        """Whether the pruner stops a trial at the last step of its curve; never the first, which is the reference."""
        if trial.number == 0 or not trial.curve or self.prune is PRUNERS["none"]:
            return False
        return self.prune(trial.curve, [t for t in self.trials if t.state == "done" and t.curve])

    def set_attribute(self, trial: Trial, name: str, value: Any) -> None:
        if self.journal is not None:
            self.journal.set_trial_attribute(trial, name, value)
        trial.attributes[name] = value

    def tell(self, trial: Trial, value: float = math.nan, state: str = "done", **attributes: Any) -> None:
        """The end of a trial: "done" with a value, "stopped" with a curve, or "failed".

        It counts as failed if its value, or the lowest reported value of a stopped trial, is not finite.
        """
        needed = {"done": float(value), "stopped": trial.lowest}.get(state)
        if needed is not None and not math.isfinite(needed):
            state, attributes["error"] = "failed", f"its value is {needed}"
        for name, attribute in attributes.items():
            self.set_attribute(trial, name, attribute)
        trial.state, trial.value = state, float(value) if state == "done" else math.nan
        if self.journal is not None:
            self.journal.end_trial(trial)


def minimize(
    f: Callable[..., Any],
    space: Mapping[str, Parameter],
    strategy: str = "gp",
    trials: int = 30,
    seed: int = 0,
    pruner: str = "none",
    folder: Path | str | None = None,
) -> Study:
    """Search for the lowest value of f(config), where config is a dict of a value for each parameter.

    If f also takes `report`, then report(step, value) says whether to go on; where it does not, f should return at
    once, and its trial is stopped. Where f raises an exception or returns no finite number, the trial has failed and
    the search continues. With a folder, a study that was interrupted continues when `minimize` is called again.

    >>> from mingpt.tuning import Float
    >>> study = minimize(lambda config: (config["x"] - 0.3) ** 2, {"x": Float(0, 1)}, trials=8)
    >>> round(study.best.config["x"], 1)
    0.3
    """
    journal = None if folder is None else Journal(folder)
    study = Study(Space(space), strategy, seed, pruner, journal=journal)
    try:
        for trial in [trial for trial in study.trials if trial.state == "running"]:
            trial.curve.clear()  # it begins again
            evaluate(study, f, trial)
        while len(study.trials) < trials and (trial := study.ask()) is not None:
            evaluate(study, f, trial)
    finally:
        if journal is not None:
            journal.close()
    return study


def evaluate(study: Study, f: Callable[..., Any], trial: Trial) -> None:
    """Call f for a trial, and tell what came of it."""
    start, is_pruned = time.perf_counter(), False

    def report(step: int, value: float) -> bool:
        nonlocal is_pruned
        is_pruned = is_pruned or not study.report(trial, step, value)
        return not is_pruned

    options = {"report": report} if "report" in parameters_of(f) else {}
    value, end = math.nan, {}
    try:
        value = float(f(trial.config, **options))
    except Exception as error:  # whatever f raises: the search continues
        if not is_pruned:  # f need not return a value where it was told to stop
            end = {"state": "failed", "error": describe(error)}
    end = {"state": "stopped"} if is_pruned else end
    study.tell(trial, value, **end, seconds=round(time.perf_counter() - start, 3))


def parameters_of(f: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(f).parameters
    except ValueError:  # some functions written in C do not say
        return {}


def describe(error: BaseException) -> str:
    """The class and the first line of an error."""
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
