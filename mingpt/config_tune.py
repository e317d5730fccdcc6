"""Every setting of a study beside those of the runs that it makes."""

from __future__ import annotations

from dataclasses import dataclass

from mingpt.config import TRAINING, Training
from mingpt.defaults import TRIAL_ITERS
from mingpt.settings import Settings, setting

SEARCH = "search"


@dataclass(kw_only=True)
class Search(Settings):
    """How a study searches, apart from how each of its trials is trained."""

    strategy: str = setting(
        "gp",
        group=SEARCH,
        choices=("grid", "random", "gp"),
        help="every combination, chance, or Bayesian optimisation with a Gaussian process",
    )
    search: tuple[str, ...] = setting(
        (),
        group=SEARCH,
        metavar="NAME=VALUES",
        help="a setting to search, each with its own --search: learning_rate=1e-5..1 log, n_layer=1..8, "
        "optimizer=adamw,sgd, momentum=0.5..0.99 when optimizer=sgd; left out: a space that fits most users",
    )
    trials: int | None = setting(
        None, group=SEARCH, within="[1, inf)", follows="strategy: 20, or the whole grid", help="runs in all"
    )
    minutes: float | None = setting(None, group=SEARCH, within="(0, inf)", help="begin no trial after so long")
    workers: int = setting(1, group=SEARCH, within="[1, 1024]", help="trials at once, each in a process of its own")
    stopping: str = setting(
        "halving",
        group=SEARCH,
        choices=("off", "median", "halving"),
        help="give up early on trials that are worse than the others were at the same step",
    )
    confirm: int = setting(
        0, group=SEARCH, within="[0, inf)", help="train so many of the best again with fresh seeds; the mean decides"
    )
    study: str | None = setting(
        None, group=SEARCH, metavar="FOLDER", help="where the study is kept, and goes on; left out: a new out/NAME"
    )


@dataclass(kw_only=True)
class TuneConfig(Training, Search):
    """One study: its search, and the settings that its trials share."""

    max_iters: int | None = setting(
        None,
        group=TRAINING,
        within="[1, inf)",
        follows=f"task: {TRIAL_ITERS}, or some passes over the data",
        help="updates of a trial; where the size of one is searched, each trial learns from as much",
    )
