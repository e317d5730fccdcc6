"""The time of a study: equal training time for every trial, and a budget for all of them.

Notation, for the defaults (0) and another configuration, timed in turn on the machine that trains:

    t0, t   seconds of an update          r = t / t0
    e0, e   of an evaluation, in updates of the defaults
    N0, N   updates of a whole run        E its evaluations

    N r + E e = N0 + E e0       so that        N = (N0 + E e0 - E e) / r

Only ratios enter: seconds alone change with what else the machine does, and a study takes many minutes.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from mingpt import run, trainer
from mingpt.config import OptimizerSettings, TrainConfig
from mingpt.resolve import Facts, resolve
from mingpt.tuning.journal import Journal

EVALUATIONS = 8  # E, of a trial
WARM_UP, UPDATES, ROUNDS = 2, 5, 3
MIN_SECONDS = 0.5  # of a round; slower configurations make fewer updates
MINUTES = 15  # the default budget of a study
RUNS = 12  # the budget of a study is at least so many runs: where it is less, all runs are shortened
CONFIRMATION = 1 / 3  # of the budget, to train the best settings and the defaults again
SEEDS = (2, 8)  # fewest and most with which they are trained
STOPPED = 0.6  # a trial takes about this share of a run, since many are stopped early
# Settings that do not change the time of an update.
FREE = OptimizerSettings.model_fields.keys() - {"optimizer"} | {"seed", "label_smoothing", "max_iters", "eval_interval"}


class Timer:
    """A throwaway run of a configuration, to be timed."""

    def __init__(self, asked: TrainConfig):
        data, facts = run.read_facts(asked)
        config = resolve(asked, facts)
        self.task = run.load_task(config.task)(config, data)
        model_config = run.build_model_config(config, self.task, facts.base)
        self.config = config.model_copy(update={"max_iters": 2**31, "eval_interval": 2**31})
        self.state = trainer.State(self.config, model_config)
        self.time_updates(WARM_UP)

    def time_updates(self, count: int = UPDATES) -> float:
        """Seconds per update, over `count` updates or about MIN_SECONDS."""
        start = now = time.perf_counter()
        made = 0

        def should_stop() -> bool:
            nonlocal made, now
            made, now = made + 1, time.perf_counter()
            return made == count or now - start > MIN_SECONDS

        for _ in trainer.train(self.config, self.task, NoFolder(), self.state, should_stop):
            pass
        return (now - start) / made

    def time_evaluation(self) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            self.task.evaluate(self.state.averaged)
        return time.perf_counter() - start


class NoFolder:
    """In place of a run's folder: saves nothing."""

    def save_state(self, state: dict[str, Any]) -> None:
        pass


def equal_updates(defaults: TrainConfig, config: TrainConfig, facts: Facts, updates: int) -> int:
    """The updates of `config` that take as long as `updates` of the defaults, a multiple of EVALUATIONS."""
    ours, others = (dict(resolve(asked, facts)) for asked in (defaults, config))
    if all(value == others[name] or name in FREE for name, value in ours.items()):
        return updates
    timers = Timer(defaults), Timer(config)
    rounds = [[timer.time_updates() for timer in timers] for _ in range(ROUNDS)]
    t0, t = (min(times) for times in zip(*rounds, strict=True))
    e0, e = (timer.time_evaluation() / t0 for timer in timers)
    return whole_intervals((updates + EVALUATIONS * (e0 - e)) * t0 / t)


def whole_intervals(updates: float) -> int:
    """The nearest multiple of EVALUATIONS below, at least one."""
    return max(1, int(updates / EVALUATIONS)) * EVALUATIONS


class Budget:
    """How many updates a trial makes, and how long the study may take.

    updates      of a run with the defaults, a multiple of EVALUATIONS
    run_seconds  of that run, as measured when the study began
    seeds        with which the best settings and the defaults are trained again
    """

    def __init__(self, defaults: TrainConfig, resolved: TrainConfig, minutes: float | None, journal: Journal):
        """Measured once for a study, and read from its journal when it is resumed."""
        self.journal, self.start = journal, time.monotonic()
        self.seconds = math.inf if minutes is None else 60 * minutes
        if "updates" not in journal.attributes:
            timer = Timer(defaults)
            t0, e0 = min(timer.time_updates() for _ in range(ROUNDS)), timer.time_evaluation()
            updates = resolved.max_iters
            if defaults.max_iters is None:
                updates = min(updates, (self.seconds / RUNS - EVALUATIONS * e0) / t0)
            journal.set_attribute("updates", whole_intervals(updates))
            journal.set_attribute("run_seconds", journal.attributes["updates"] * t0 + EVALUATIONS * e0)
        self.updates, self.run_seconds = journal.attributes["updates"], journal.attributes["run_seconds"]
        self.earlier = journal.attributes.get("seconds", 0.0)
        pairs = min(self.seconds, 60 * MINUTES) * CONFIRMATION / (2 * self.run_seconds)
        self.seeds = int(min(max(pairs, SEEDS[0]), SEEDS[1]))
        self.search_seconds = self.seconds - 2 * self.seeds * self.run_seconds

    def may_start(self) -> bool:
        """Whether there is time for another trial before the confirmation."""
        spent = self.earlier + time.monotonic() - self.start
        return spent + STOPPED * self.run_seconds <= self.search_seconds

    def save(self) -> None:
        """Record the time spent."""
        self.journal.set_attribute("seconds", round(self.earlier + time.monotonic() - self.start, 1))

    def expected_trials(self, workers: int) -> int:
        return max(1, round(workers * self.search_seconds / (STOPPED * self.run_seconds)))
