"""The time of a study: equal training time for every trial, and a budget for all of them.

Notation, for the defaults (0) and another configuration, timed in turn on the machine that trains:

    t0, t   seconds of an update
    e0, e   seconds of an evaluation
    N0, N   updates of a whole run        E its evaluations

    N t + E e = N0 t0 + E e0        so that        N = (N0 t0 + E (e0 - e)) / t

Only ratios enter: seconds alone change with what else the machine does, and a study takes many minutes.
"""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import torch

from mingpt import run, trainer
from mingpt.config import OptimizerSettings, TrainConfig
from mingpt.errors import UserError
from mingpt.resolve import Facts, resolve
from mingpt.tuning.journal import Journal

EVALUATIONS = 8  # E, of a trial
# Each round of timing makes 16 updates, since those of dialogues and rows vary with the length of their texts, or as
# many as take a second; the fastest of three rounds counts, the one that other programs disturbed least.
WARM_UP, UPDATES, MAX_SECONDS, ROUNDS = 2, 16, 1.0, 3
# Settings that do not change the time of an update.
SAME_TIME = OptimizerSettings.model_fields.keys() - {"optimizer", "grad_clip"}
SAME_TIME |= {"seed", "label_smoothing", "max_iters", "eval_interval", "patience"}

MINUTES = 15  # the default budget of a study
MIN_RUNS = 12  # that fit into the budget: where they do not, all runs are shortened
CONFIRMATION = 1 / 3  # of the budget, to train the best settings and the defaults again
SEEDS = (2, 8)  # fewest and most with which they are trained
MEAN_SHARE = 0.6  # of a run that a trial takes, since many are stopped early


class Timer:
    """A throwaway run of a configuration, to be timed."""

    def __init__(self, asked: TrainConfig):
        data, facts = run.read_facts(asked)
        config = resolve(asked, facts)
        run.prepare_machine(config)
        self.task = run.load_task(config.task)(config, data)
        model_config = run.build_model_config(config, self.task, facts.base)
        # without an end, and with steps so small that no configuration diverges while it is timed
        endless = {"max_iters": 2**31, "eval_interval": 2**31, "learning_rate": 1e-9, "min_learning_rate": 1e-9}
        self.config = config.model_copy(update=endless)
        self.state = trainer.State(self.config, model_config)
        self.time_updates(WARM_UP)
        self.time_evaluation()

    def time_updates(self, count: int = UPDATES) -> float:
        """Seconds per update."""
        start, first, folder = time.perf_counter(), self.state.progress.step, SimpleNamespace(save_state=lambda _: None)

        def updates() -> int:
            return self.state.progress.step - first

        def should_stop() -> bool:
            return updates() == count or time.perf_counter() - start > MAX_SECONDS

        for _ in trainer.train(self.config, self.task, folder, self.state, should_stop):
            pass
        return (time.perf_counter() - start) / updates()

    def time_evaluation(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        with torch.no_grad():
            self.task.evaluate(self.state.averaged)
        return time.perf_counter() - start


def time_in_turn(*asked: TrainConfig) -> list[tuple[float, float]]:
    """Seconds of an update and of an evaluation, of each configuration."""
    timers = [Timer(each) for each in asked]
    rounds = [[(timer.time_updates(), timer.time_evaluation()) for timer in timers] for _ in range(ROUNDS)]
    return [tuple(map(min, zip(*times, strict=True))) for times in zip(*rounds, strict=True)]


def equal_updates(defaults: TrainConfig, config: TrainConfig, facts: Facts, updates: int) -> int:
    """The updates of `config` that take as long as `updates` of the defaults, a multiple of EVALUATIONS."""
    ours, others = (dict(resolve(asked, facts)) for asked in (defaults, config))
    if all(value == others[name] or name in SAME_TIME for name, value in ours.items()):
        return updates
    (t0, e0), (t, e) = time_in_turn(defaults, config)
    return whole_intervals((updates * t0 + EVALUATIONS * (e0 - e)) / t)


def whole_intervals(updates: float) -> int:
    """The multiple of EVALUATIONS at or below, and above 0."""
    return max(1, int(updates / EVALUATIONS)) * EVALUATIONS


class Budget:
    """How many updates a trial makes, and how long the study may take.

    updates      of a run with the defaults, a multiple of EVALUATIONS
    run_seconds  of that run, as measured when the study began
    scale        how many times as long the defaults' own run is: above 1 where the runs were shortened
    seeds        with which the best settings and the defaults are trained again
    """

    def __init__(self, journal: Journal, defaults: TrainConfig, minutes: float | None):
        """`defaults` are resolved; the journal has the attributes that `measure` returned."""
        self.journal, self.start = journal, time.monotonic()
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.updates, self.run_seconds = (journal.attributes[name] for name in ("updates", "run_seconds"))
        self.scale = max(1.0, defaults.max_iters / (self.updates + EVALUATIONS))
        for_confirmation = CONFIRMATION * (self.seconds if minutes else 60 * MINUTES)
        self.seeds = int(min(max(for_confirmation / (2 * self.run_seconds), SEEDS[0]), SEEDS[1]))
        self.search_seconds = self.seconds - 2 * self.seeds * self.run_seconds

    def spent(self) -> float:
        """Seconds of the study so far, in all its processes."""
        return self.journal.attributes.get("seconds", 0.0) + time.monotonic() - self.start

    def may_start(self) -> bool:
        """Whether there is time for another trial before the confirmation."""
        return self.spent() + MEAN_SHARE * self.run_seconds <= self.search_seconds

    def save(self) -> None:
        """Record the time spent."""
        spent, self.start = self.spent(), time.monotonic()
        self.journal.set_attribute("seconds", round(spent, 1))

    def expected_trials(self, workers: int) -> float:
        """How many more trials there is time for."""
        return max(0.0, workers * (self.search_seconds - self.spent()) / (MEAN_SHARE * self.run_seconds))


def measure(asked: TrainConfig, resolved: TrainConfig, minutes: float | None) -> dict[str, float]:
    """The attributes of a new study: updates and seconds of a trial, whose runs are shortened where time is short.

    Raises UserError where max_iters was asked for and does not fit into the minutes.
    """
    ((t0, e0),) = time_in_turn(asked)
    updates: float = resolved.max_iters
    if asked.max_iters is None and minutes is not None:
        updates = min(updates, (60 * minutes / MIN_RUNS - EVALUATIONS * e0) / t0)
    updates = whole_intervals(updates)
    seconds = updates * t0 + EVALUATIONS * e0
    needed = math.ceil((2 + 2 * SEEDS[0]) * seconds / 60)  # two trials and the confirmation
    if asked.max_iters is not None and minutes is not None and minutes < needed:
        raise UserError(f"--minutes {minutes:g}: are too few for runs of {seconds:.0f} s; needs {needed}")
    return {"updates": updates, "run_seconds": seconds}
