"""Seconds of training on the table of real runs until a value is reached, when bad trials are given up early.

A trial replays the curve of its setting and reports every evaluation. It costs the setting's seconds,
or, stopped after k of its m evaluations, k / m of them; one that diverges costs what it took. The
value of a trial that ended is its least; one that was stopped has none, in every library alike.

    ours      mingpt.tuning.minimize with each of its rules, and with none
    peers     Optuna's TPE with MedianPruner and with HyperbandPruner, all at their defaults

For each seed the target is the lower of the values that the peers end with; a search that does not reach
it needs endless seconds there. The ratio is to that peer which reaches it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import functions
import numpy as np
import peers
import table
from tuning_report import numbers, ratio_of_medians

from mingpt.tuning import minimize
from mingpt.tuning.space import Space

PEER_TRIALS = 40
OUR_TRIALS = 80
OURS = {"gp": "none", "gp + forecast": "forecast"}
PEERS = ("optuna-tpe + median", "optuna-tpe + hyperband")

Look = Callable[[dict[str, Any]], table.Setting]


class Bill:
    """What a search has spent, and what it had found by then."""

    def __init__(self):
        self.seconds = 0.0
        self.stopped = 0
        self.found = math.inf
        self.steps: list[tuple[float, float]] = []  # (seconds, lowest value) after each trial

    def ran(self, setting: table.Setting, evaluations: int, value: float) -> None:
        """A trial has ended after so many evaluations; value is nan where it was stopped or failed."""
        whole = len(setting.curve)
        self.seconds += setting.seconds * (evaluations / whole if whole else 1.0)
        self.stopped += evaluations < whole
        self.found = min(self.found, value) if math.isfinite(value) else self.found
        self.steps.append((self.seconds, self.found))

    def seconds_until(self, target: float) -> float | None:
        """None where it was not reached."""
        return next((seconds for seconds, found in self.steps if found <= target), None)


def ours(rule: str, space: Space, look_up: Look, trials: int, seed: int) -> Bill:
    bill = Bill()

    def objective(config: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        setting = look_up(config)
        for step, value in enumerate(setting.curve, start=1):
            if not report(step, value):
                bill.ran(setting, step, math.nan)
                return math.nan
        bill.ran(setting, len(setting.curve), setting.value)
        return setting.value

    minimize(objective, space.parameters, "gp", trials, seed, pruner=rule)
    return bill


def optuna_tpe(pruner: str, space: Space, look_up: Look, trials: int, seed: int) -> Bill:
    import optuna

    bill = Bill()

    def objective(trial: Any) -> float:
        setting = look_up(peers.optuna_config(space, trial))
        for step, value in enumerate(setting.curve, start=1):
            trial.report(value, step)
            if trial.should_prune():
                bill.ran(setting, step, math.nan)
                raise optuna.TrialPruned
        bill.ran(setting, len(setting.curve), setting.value)
        return setting.value

    pruners = {"median": optuna.pruners.MedianPruner, "hyperband": optuna.pruners.HyperbandPruner}
    study = peers.optuna_study(optuna.samplers.TPESampler(seed=seed), pruners[pruner](), name=f"seed {seed}")
    study.optimize(objective, trials)
    return bill


def compare(seed: int) -> dict[str, dict[str, float | None]]:
    """For each search: seconds until the target (None: never) and in all; trials, those stopped, the value found."""
    problem, look_up = functions.of_table()
    space = Space(problem.parameters)
    bills = {name: optuna_tpe(name.split(" + ")[1], space, look_up, PEER_TRIALS, seed) for name in PEERS}
    target = min(bill.found for bill in bills.values())
    bills |= {name: ours(rule, space, look_up, OUR_TRIALS, seed) for name, rule in OURS.items()}
    found: dict[str, dict[str, float | None]] = {}
    for name, bill in bills.items():
        until = bill.seconds_until(target)
        found[name] = dict(until=None if until is None else round(until, 3), whole=round(bill.seconds, 3))
        found[name] |= dict(trials=len(bill.steps), stopped=bill.stopped, found=round(bill.found, 5))
    return found


def lines(found: list[dict[str, dict[str, float | None]]]) -> Iterator[str]:
    """The comparison over all seeds, to print."""
    best_peer = np.min([numbers([seed[name]["until"] for seed in found]) for name in PEERS], axis=0)
    yield f"seconds of training until the best peer's value after {PEER_TRIALS} trials, {len(found)} seeds"
    yield f"{'':26}{'median':>8}{'75 %':>8}{'reached':>9}{'stopped':>9}{'of':>5}   of the first peer's, 95 %"
    for name in (*OURS, *PEERS):
        rows = [seed[name] for seed in found]
        until = numbers([row["until"] for row in rows])
        quartile = np.quantile(until, 0.75, method="higher")
        line = f"{name:26}{np.median(until):>8.1f}{quartile:>8.1f}{np.isfinite(until).mean():>9.0%}"
        line += f"{np.median([row['stopped'] for row in rows]):>9.0f}{rows[0]['trials']:>5}"
        if name in OURS:
            ratio, low, high = ratio_of_medians(until, best_peer[None])
            line += f"   {ratio:.2f}, {low:.2f} to {high:.2f}"
        yield line
