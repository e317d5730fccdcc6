"""Every setting of a study beside those of the runs that are its trials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from mingpt.config import Training
from mingpt.settings import Settings, setting
from mingpt.tuning.pruning import PRUNERS
from mingpt.tuning.strategies import STRATEGIES

Strategy = Literal[tuple(STRATEGIES)]
Pruner = Literal[tuple(PRUNERS)]


class Search(Settings):
    """How a study searches, apart from how each of its trials is trained."""

    group = "search"
    strategy: Strategy = setting("gp", "grid search, random search, or Bayesian optimization with a Gaussian process")
    search: tuple[str, ...] = setting(
        (),
        "a setting to search; may be given several times: learning_rate=1e-5..1 log, n_layer=1..8, "
        "optimizer=adamw,sgd, momentum=0.5..0.99 when optimizer=sgd; "
        "default: learning rate, architecture, batch and tokenizer",
        metavar="NAME=VALUES",
    )
    minutes: float | None = setting(
        None, "time for the whole study, confirmation included", gt=0, follows="15, or no limit with trials or a grid"
    )
    trials: int | None = setting(None, "number of trials", ge=1, follows="minutes, or the whole grid")
    pruner: Pruner = setting("forecast", "early stopping of trials: none, or by a forecast of their final value")
    workers: int = setting(1, "trials in parallel, each in its own process", ge=1, le=1024)
    dask: str | None = setting(
        None, "address of a Dask scheduler whose workers train; they need the study's folder", metavar="ADDRESS"
    )
    study: str | None = setting(
        None,
        "folder of the study, which is resumed if it exists",
        metavar="FOLDER",
        follows="data: a new folder out/tune-NAME",
    )


class TuneConfig(Training, Search):
    """One study: its search, and the settings that its trials share."""

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from super().conflicts()
        for name in {"eval_interval", "patience"} & self.given().keys():
            yield (name,), f"--{name}: is not used by a study, in which every trial has the same evaluations"

    max_iters: int | None = setting(
        None,
        "updates of the run with the default settings; every trial gets the same time",
        ge=1,
        follows="task and minutes",
    )
