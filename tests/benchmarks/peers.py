"""The searches that are compared: this project's, and each peer as its own documentation sets it up.

    gp, random      the strategies of mingpt.tuning
    optuna-tpe      optuna.create_study().optimize: its default sampler, TPE
    optuna-gp       the same with GPSampler
    botorch         SingleTaskGP and LogExpectedImprovement, after 2 (D + 1) Sobol points as in its tutorials;
                    20 restarts from 512 raw samples, all else as it comes
    hyperopt        hyperopt.fmin with tpe.suggest

All run as `search(space, objective, trials, seed)`: the objective is called with one configuration after
another, and gives a number, or nan where it fails.

Each is told of a failure in its own way: nan returned to Optuna (the trial is FAIL), STATUS_FAIL to Hyperopt; for
BoTorch, which has none, the worst value so far stands for it.

Spaces: numbers in a list are in order, and every library is told so: an index from 0 to k - 1 to Optuna
(suggest_int) and Hyperopt (uniformint), a level in the unit cube to BoTorch. Words are suggest_categorical, hp.choice,
and columns of 0 and 1. BoTorch's acquisition is optimized with optimize_acqf, over each combination of words
apart (optimize_acqf_mixed) where there are any, and over all settings not yet seen (optimize_acqf_discrete) where
they can be counted; whole numbers are rounded afterwards.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mingpt.tuning.parameters import Choice, Int, Parameter
from mingpt.tuning.space import Space
from mingpt.tuning.strategies import STRATEGIES
from mingpt.tuning.trial import Trial

Config = dict[str, Any]
Objective = Callable[[Config], float]
Search = Callable[[Space, Objective, int, int], None]
MOST_LISTED = 5_000  # settings of a space that BoTorch is given as a list


def ours(strategy: str) -> Search:
    def search(space: Space, objective: Objective, trials: int, seed: int) -> None:
        chosen, history = STRATEGIES[strategy](space, seed), []
        for number in range(trials):
            config = chosen.suggest(history, number)
            value = objective(config)
            history.append(Trial(number, config, "done" if math.isfinite(value) else "failed", value))

    return search


# ---- Optuna ----


def optuna_tpe(space: Space, objective: Objective, trials: int, seed: int) -> None:
    import optuna

    study = optuna_study(optuna.samplers.TPESampler(seed=seed))
    study.optimize(lambda trial: objective(optuna_config(space, trial)), trials)


def optuna_gp(space: Space, objective: Objective, trials: int, seed: int) -> None:
    import optuna

    study = optuna_study(optuna.samplers.GPSampler(seed=seed))
    study.optimize(lambda trial: objective(optuna_config(space, trial)), trials)


def optuna_study(sampler: Any, pruner: Any = None, name: str | None = None) -> Any:
    """A study in memory that says nothing. HyperbandPruner draws from its name, which is random if left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna.create_study(sampler=sampler, pruner=pruner, study_name=name)


def optuna_config(space: Space, trial: Any) -> Config:
    """What Optuna suggests, in the order in which conditions can be met."""
    config: Config = {}
    for name in space.parents_first:
        if space.is_active(name, config):
            config[name] = optuna_value(name, space.parameters[name], trial)
    return config


def optuna_value(name: str, p: Parameter, trial: Any) -> Any:
    if isinstance(p, Choice):
        if p.is_ordered:
            return p.values[trial.suggest_int(name, 0, p.k - 1)]
        return trial.suggest_categorical(name, p.values)
    if isinstance(p, Int):
        return trial.suggest_int(name, p.low, p.high, step=p.step or 1, log=p.log)
    return trial.suggest_float(name, p.low, p.high, step=p.step, log=p.log)


# ---- Hyperopt ----


def hyperopt_tpe(space: Space, objective: Objective, trials: int, seed: int) -> None:
    import hyperopt

    logging.getLogger("hyperopt").setLevel(logging.ERROR)

    def loss(drawn: Config) -> Config:
        value = objective(hyperopt_config(space, drawn))
        return {"status": hyperopt.STATUS_FAIL} if math.isnan(value) else {"status": hyperopt.STATUS_OK, "loss": value}

    hyperopt.fmin(
        loss,
        {name: hyperopt_dimension(name, p) for name, p in space.parameters.items()},
        algo=hyperopt.tpe.suggest,
        max_evals=trials,
        rstate=np.random.default_rng(seed),
        show_progressbar=False,
        verbose=False,
    )


def hyperopt_dimension(name: str, p: Parameter) -> Any:
    """How a parameter is drawn; whole numbers in the logarithm are rounded afterwards."""
    from hyperopt import hp

    if isinstance(p, Choice):
        if p.is_ordered:
            return hp.uniformint(name, 0, p.k - 1)
        return hp.choice(name, p.values)
    if p.log:
        return hp.loguniform(name, math.log(p.low), math.log(p.high))
    if p.k is not None:
        return hp.uniformint(name, 0, p.k - 1)
    return hp.uniform(name, p.low, p.high)


def hyperopt_config(space: Space, drawn: Config) -> Config:
    config: Config = {}
    for name in space.parents_first:
        p, value = space.parameters[name], drawn[name]
        if isinstance(p, Choice) and p.is_ordered:
            value = p.values[int(value)]
        elif not isinstance(p, Choice) and p.k is not None:
            value = p.value(p.coordinate(value) if p.log else float(p.at(int(value))))
        if space.is_active(name, config):
            config[name] = value
    return config


# ---- BoTorch ----


class Columns:
    """The unit cube as BoTorch sees it: a column for a number, a column of 0 and 1 for each of the words."""

    def __init__(self, space: Space):
        self.space = space
        self.widths = [p.k if c else 1 for p, c in zip(space.parameters.values(), space.is_category, strict=True)]
        self.starts = np.cumsum([0, *self.widths])

    def of(self, config: Config) -> np.ndarray:
        columns = []
        for u, p, is_category in self.parts(self.space.point(config)):
            columns.append(np.eye(p.k)[int(p.index(u))] if is_category else [u])
        return np.concatenate(columns)

    def config(self, x: np.ndarray) -> Config:
        u = np.array(
            [
                p.at(np.argmax(x[start : start + p.k])) if is_category else x[start]
                for start, p, is_category in self.parts(self.starts[:-1])
            ]
        )
        return self.space.config(self.space.snap(u[None])[0])

    def parts(self, values: np.ndarray) -> Any:
        return zip(values, self.space.parameters.values(), self.space.is_category, strict=True)

    def words(self) -> list[dict[int, float]]:
        """The columns of 0 and 1 of each combination of words; none where there are no words."""
        blocks = [
            [{int(start) + i: float(i == j) for i in range(p.k)} for j in range(p.k)]
            for start, p, is_category in self.parts(self.starts[:-1])
            if is_category
        ]
        return [dict(itertools.chain(*(b.items() for b in combined))) for combined in itertools.product(*blocks)]


def botorch(space: Space, objective: Objective, trials: int, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    columns = Columns(space)
    D = len(space.names)
    sobol = torch.quasirandom.SobolEngine(D, scramble=True, seed=seed)
    listed = None
    if space.size is not None and space.size <= MOST_LISTED:
        listed = np.array([columns.of(config) for config in space.configurations()])
    X: list[np.ndarray] = []
    y: list[float] = []
    for number in range(trials):
        if number < 2 * (D + 1) or len({value for value in y if math.isfinite(value)}) < 2:
            config = space.config(space.snap(sobol.draw(1, dtype=torch.double).numpy())[0])
        else:
            config = columns.config(botorch_suggestion(np.array(X), np.array(y), columns, listed))
        X.append(columns.of(config))
        y.append(objective(config))


def botorch_suggestion(X: np.ndarray, y: np.ndarray, columns: Columns, listed: np.ndarray | None) -> np.ndarray:
    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf, optimize_acqf_discrete, optimize_acqf_mixed
    from gpytorch.mlls import ExactMarginalLogLikelihood

    warnings.filterwarnings("ignore", module="botorch")
    warnings.filterwarnings("ignore", module="linear_operator")
    seen = torch.tensor(X, dtype=torch.double)
    gain = -torch.tensor(np.where(np.isfinite(y), y, np.nanmax(y)), dtype=torch.double)[:, None]
    model = SingleTaskGP(seen, gain)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    acquisition = LogExpectedImprovement(model, best_f=gain.max())
    if listed is not None:
        x, _ = optimize_acqf_discrete(acquisition, q=1, choices=torch.tensor(listed), X_avoid=seen)
        return x[0].numpy()
    bounds = torch.tensor([[0.0], [1.0]], dtype=torch.double).expand(2, X.shape[1])
    effort = dict(q=1, num_restarts=20, raw_samples=512)
    if columns.space.is_category.any():
        x, _ = optimize_acqf_mixed(acquisition, bounds, fixed_features_list=columns.words(), **effort)
    else:
        x, _ = optimize_acqf(acquisition, bounds, **effort)
    return x[0].detach().numpy()


OURS: dict[str, Search] = {name: ours(name) for name in ("gp", "random")}
PEERS: dict[str, Search] = {
    "optuna-tpe": optuna_tpe,
    "optuna-gp": optuna_gp,
    "botorch": botorch,
    "hyperopt": hyperopt_tpe,
}
SEARCHES = OURS | PEERS


def is_installed(name: str) -> bool:
    """Whether a search's library is there."""
    return name in OURS or importlib.util.find_spec(name.partition("-")[0]) is not None
