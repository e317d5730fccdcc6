"""Whether the best settings of a study are better than the defaults: both are trained again with new seeds.

The best of many trials is partly lucky, so its value in the search promises too much. Notation:

    K       new seeds; for a table each seed has another validation part
    d_k     value of the defaults minus that of the best settings, with seed k: the gain
    t       quantile of Student's distribution with K - 1 degrees of freedom

    gain = mean(d) +- t std(d) / sqrt(K),    a 90 % confidence interval

The best settings win if all of the interval lies above 0; otherwise the defaults do.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mingpt.objective import Objective, settings_to_repeat
from mingpt.tuning.journal import Journal
from mingpt.tuning.loop import StartExecutor, run_trials
from mingpt.tuning.output import best_trials
from mingpt.tuning.parameters import Choice
from mingpt.tuning.space import Space
from mingpt.tuning.study import Study
from mingpt.tuning.trial import Trial

CANDIDATES = 3  # among so many of the best trials the posterior mean decides
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Confirmation:
    """The values of the defaults and of the best settings, seed by seed; empty where the defaults were the best."""

    defaults: Trial
    best: Trial
    values: dict[int, list[float]]  # by the number of the trial

    @property
    def gain(self) -> tuple[float, float]:
        """Mean of the gain, and half the width of its confidence interval."""
        from scipy.stats import t

        d = [a - b for a, b in zip(self.values[self.defaults.number], self.values[self.best.number], strict=True)]
        quantile = t.ppf((1 + CONFIDENCE) / 2, len(d) - 1)
        return statistics.fmean(d), quantile * statistics.stdev(d) / math.sqrt(len(d))

    @property
    def winner(self) -> Trial:
        if not self.values:
            return self.defaults
        mean, margin = self.gain
        return self.best if mean - margin > 0 else self.defaults

    def lines(self) -> list[str]:
        """What came of it, for the terminal."""
        if not self.values:
            return ["result        no trial is better than the defaults; best.json holds the defaults"]
        mean, margin = self.gain
        reference = statistics.fmean(self.values[self.defaults.number])
        low, high = (100 * (mean + side * margin) / reference for side in (-1, 1))
        lines = [
            f"{name:<14}{' '.join(f'{value:.4f}' for value in self.values[trial.number])}  (new seeds)"
            for name, trial in (("defaults", self.defaults), (f"trial {self.best.number}", self.best))
        ]
        gain = f"{100 * mean / reference:.1f} % lower than the defaults (90 % interval {low:.1f} to {high:.1f} %)"
        if self.winner is self.best:
            return [*lines, f"result        trial {self.best.number} is {gain}"]
        return [*lines, f"result        no gain is confirmed: {gain}; best.json holds the defaults"]


def confirm(
    study: Study, objective: Objective, seeds: int, start_executor: StartExecutor, should_stop: Callable[[], bool]
) -> Confirmation | None:
    """Train the best settings and the defaults again; None where no trial is done, or where it is interrupted."""
    best = choose(study)
    if best is None or should_stop():
        return None
    defaults = study.trials[0]
    if best is defaults or defaults.state != "done":
        return Confirmation(best, best, {})
    seed = objective.shared.get("seed", 0)
    pairs = Space({"seed": Choice(*range(seed + 1, seed + 1 + seeds)), "trial": Choice(0, best.number)})
    folder = objective.folder / "confirmation" / f"{best.number:04}"
    configs = {trial.number: settings_to_repeat(trial) for trial in (defaults, best)}
    repeated = replace(objective, folder=folder, configs=configs)

    def on_end(trial: Trial) -> None:
        repeated.remove_state(trial)
        repeated.remove_model(trial)

    with contextlib.closing(Journal(folder)) as journal:
        again = Study(pairs, "grid", journal=journal)
        run_trials(again, repeated, start_executor, 1, lambda: True, should_stop, on_end=on_end)
    if any(trial.state == "running" for trial in again.trials):
        return None
    values = {n: [t.value for t in again.trials if t.config["trial"] == n] for n in configs}
    if any(trial.state == "failed" for trial in again.trials):  # the defaults are safer
        values = {}
    return Confirmation(defaults, best, values)


def choose(study: Study) -> Trial | None:
    """Of the best trials the one with the lowest posterior mean, which is less lucky than the lowest value."""
    from mingpt.tuning.bayesian import posterior

    best = best_trials(study.trials, CANDIDATES)
    expected = posterior(study.space, study.in_space)
    if not best or expected is None or any(trial not in study.in_space for trial in best):
        return best[0] if best else None
    means = expected.values(np.array([study.space.point(trial.config) for trial in best]))
    return best[int(means.argmin())]
