"""Every setting of a study beside those of the runs that are its trials."""

from __future__ import annotations

from typing import Literal

from mingpt.config import Training
from mingpt.settings import Settings, setting
from mingpt.tuning.stopping import PRUNERS
from mingpt.tuning.strategies import STRATEGIES

TRIAL_ITERS = 200  # updates of a trial on text

Strategy = Literal[tuple(STRATEGIES)]
Stopping = Literal[tuple(PRUNERS)]


class Search(Settings):
    """How a study searches, apart from how each of its trials is trained."""

    group = "search"
    strategy: Strategy = setting("gp", "grid search, random search, or Bayesian optimization with a Gaussian process")
    search: tuple[str, ...] = setting(
        (),
        "a setting to search; may be given several times: learning_rate=1e-5..1 log, n_layer=1..8, "
        "optimizer=adamw,sgd, momentum=0.5..0.99 when optimizer=sgd; default: learning rate, model and batch size",
        metavar="NAME=VALUES",
    )
    trials: int | None = setting(None, "number of trials", ge=1, follows="strategy: 20, or the whole grid")
    minutes: float | None = setting(None, "start no trial after this many minutes", gt=0)
    workers: int = setting(1, "trials in parallel, each in its own process", ge=1, le=1024)
    stopping: Stopping = setting("halving", "early stopping of trials: none, the median rule, or successive halving")
    confirm: int = setting(0, "retrain this many of the best trials with new seeds; the lowest mean wins", ge=0)
    study: str | None = setting(
        None,
        "folder of the study, which is resumed if it exists",
        metavar="FOLDER",
        follows="data: a new folder out/tune-NAME",
    )


class TuneConfig(Training, Search):
    """One study: its search, and the settings that its trials share."""

    max_iters: int | None = setting(
        None,
        "number of updates of a trial; where batch_size or block_size is searched, all see the same amount of data",
        ge=1,
        follows=f"task: {TRIAL_ITERS} for text",
    )
