"""Whether the best settings of a study are better than the defaults: both are trained again with new seeds.

The best of many trials is partly lucky, so its value in the search promises too much. Notation:

    K       new seeds; for a table each seed has another validation part
    d_k     value of the defaults minus that of the best settings, with seed k: the gain
    t       quantile of Student's distribution with K - 1 degrees of freedom
    rho     size of the validation part over that of the training part where each seed splits the rows anew, else 0:
            such splits overlap, and differ less than independent samples would (Nadeau and Bengio 2003)

    gain = mean(d) +- t std(d) sqrt(1 / K + rho),    a 90 % confidence interval

The best settings win if all of the interval lies above 0; otherwise the defaults do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mingpt.objective import Objective, settings_to_repeat
from mingpt.tuning.loop import StartExecutor, run_trials
from mingpt.tuning.output import best_trials
from mingpt.tuning.study import Study
from mingpt.tuning.trial import Trial

CANDIDATES = 3  # among so many of the best trials the posterior mean decides; their models are kept until then
CONFIDENCE = 0.9
RHO = 1 / 9  # a tenth of the rows is held out


@dataclass(frozen=True)
class Confirmation:
    """The defaults and the best settings, trained again."""

    defaults: Trial
    best: Trial
    defaults_again: list[Trial]  # a run for each seed; none where the defaults are the best
    best_again: list[Trial]
    rho: float

    @property
    def gain(self) -> tuple[float, float]:
        """Mean of the gain, and half the width of its confidence interval."""
        from scipy.stats import t

        d = [a.value - b.value for a, b in zip(self.defaults_again, self.best_again, strict=True)]
        width = statistics.stdev(d) * math.sqrt(1 / len(d) + self.rho)
        return statistics.fmean(d), t.ppf((1 + CONFIDENCE) / 2, len(d) - 1) * width

    @property
    def failed(self) -> Trial | None:
        return next((trial for trial in self.defaults_again + self.best_again if trial.state == "failed"), None)

    @property
    def winner(self) -> Trial:
        if self.failed or not self.best_again:
            return self.defaults
        mean, margin = self.gain
        return self.best if mean - margin > 0 else self.defaults

    def line(self) -> str:
        """What came of it, for the terminal."""
        if not self.best_again:
            return "no trial is expected to be better than the defaults"
        if self.failed:
            return f"a run with a new seed failed ({self.failed.attributes['error']})"
        mean, margin = self.gain
        reference = statistics.fmean(trial.value for trial in self.defaults_again)
        percent = f" or {100 * abs(mean) / reference:.1f} %" if reference > 0 else ""
        gain = f"{abs(mean):.4f}{percent} {'lower' if mean > 0 else 'higher'} than the defaults"
        gain += f" (90 % interval of the gain: {mean - margin:.4f} to {mean + margin:.4f})"
        unconfirmed = "" if self.winner is self.best else "no gain is confirmed: "
        return f"{unconfirmed}trial {self.best.number} is {gain}"


def confirm(
    study: Study,
    objective: Objective,
    seeds: int,
    start_executor: StartExecutor,
    should_stop: Callable[[], bool],
    on_end: Callable[[str], None],
) -> Confirmation | None:
    """Train the best settings and the defaults again; None where it is interrupted.

    The finished runs of an interrupted confirmation are not repeated. on_end(line) is called after each run.
    """
    defaults, best = study.trials[0], choose(study)
    rho = 0.0 if objective.facts.examples is None else RHO
    if best is defaults:
        return Confirmation(defaults, best, [], [], rho)
    new_seeds = [(objective.shared.get("seed", 0) + 1 + i) % 2**31 for i in range(seeds)]
    configs = [settings_to_repeat(trial) | {"seed": seed} for seed in new_seeds for trial in (defaults, best)]
    repeated = replace(objective, folder=objective.folder.parent / "confirmation" / f"{best.number:04}")
    again = Study(study.space, "random", first=configs)  # kept in the folders of its runs alone

    def on_run_end(trial: Trial) -> None:
        repeated.remove(trial, "state.pt", "model.safetensors")
        name = f"trial {best.number}" if trial.number % 2 else "defaults"
        if trial.state == "done":
            result = f"{trial.value:.4f}, {trial.attributes['seconds']:.1f} s"
        else:
            result = f"failed ({trial.attributes['error']})"
        on_end(f"{name:<14}seed {trial.config['seed']}: {result}")

    run_trials(again, repeated, start_executor, 1, lambda: len(again.trials) < len(configs), should_stop, on_run_end)
    if should_stop():
        return None
    return Confirmation(defaults, best, again.trials[::2], again.trials[1::2], rho)


def choose(study: Study) -> Trial:
    """Of the best trials the one with the lowest posterior mean, which is less lucky than the lowest value.

    The defaults, where none has a lower value.
    """
    from mingpt.tuning.bayesian import posterior

    best = best_trials(study.trials, CANDIDATES)
    if study.trials[0].value == best[0].value:
        return study.trials[0]
    expected = posterior(study.space, study.in_space)
    if expected is None or any(trial not in study.in_space for trial in best):
        return best[0]
    means = expected.values(np.array([study.space.point(trial.config) for trial in best]))
    return best[int(means.argmin())]
