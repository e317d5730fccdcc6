"""What the searches are compared on: six functions and a table of real runs, each with its space and its least value.

    branin, hartmann3, hartmann6           smooth; hartmann6 has a second valley .12 above the first
    rosenbrock4                            a curved valley, values over five orders of magnitude
    styblinski_tang4                       sixteen valleys
    gpt_like                               what tuning a GPT is like: mixed, with a region where runs diverge (nan)
    gpt_like_noisy                         the same, as measured with a standard deviation of .02
    table                                  bits per byte of real runs (table.py), on its levels alone

Formulas of the first five: Surjanovic and Bingham, "Virtual Library of Simulation Experiments". The regret of
a setting is its value without noise, less the least value that there is.

gpt_like, for learning rate lr, batch size B, weight decay wd, dropout p, L layers, and an optimizer
with its own base and best exponent u of the learning rate:

    b = log2 B
    d = log10 lr - (u + .15 (b - 5) - .4 log10(L / 4));     nan where d > 1.3
    y = base + min(.25 d^2 if d < 0 else .6 (e^(1.5 d) - 1 - 1.5 d), 2) + .02 (b - 5)^2
        + .03 (L - 5)^2 / (1 + .1 (L - 5)^2) + .8 (p - .1)^2 + .02 (log10 wd + 1)^2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import table

from mingpt.tuning import Choice, Float, Int
from mingpt.tuning.parameters import Parameter

Config = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Something to minimize."""

    parameters: dict[str, Parameter]
    value: Callable[[Config], float]  # without noise; nan where it fails
    optimum: float
    noise: float = 0.0  # standard deviation of what a search sees

    def regret(self, config: Config) -> float:
        """How far a setting is above the best; never below 0, where the optimum is known to 15 digits."""
        return max(self.value(config) - self.optimum, 0.0)


def vector(config: Config) -> np.ndarray:
    return np.array([config[f"x{i}"] for i in range(len(config))])


def branin(config: Config) -> float:
    x, y = config["x0"], config["x1"]
    parabola = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return parabola**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A3 = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
P3 = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381.5, 5743, 8828]])
A6 = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(A: np.ndarray, P: np.ndarray, config: Config) -> float:
    return -float(ALPHA @ np.exp(-(A * (vector(config) - P) ** 2).sum(axis=1)))


def hartmann3(config: Config) -> float:
    return hartmann(A3, P3, config)


def hartmann6(config: Config) -> float:
    return hartmann(A6, P6, config)


def rosenbrock(config: Config) -> float:
    x = vector(config)
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def styblinski_tang(config: Config) -> float:
    x = vector(config)
    return float((x**4 - 16 * x**2 + 5 * x).sum() / 2)


OPTIMIZERS = {"adamw": (2.0, -2.5), "sgd": (2.35, -0.7), "lion": (2.03, -3.5)}  # base and u


def gpt_like(config: Config) -> float:
    base, u = OPTIMIZERS[config["optimizer"]]
    b, L = math.log2(config["batch_size"]), config["n_layer"]
    d = math.log10(config["learning_rate"]) - (u + 0.15 * (b - 5) - 0.4 * math.log10(L / 4))
    if d > 1.3:
        return math.nan
    rate = 0.25 * d**2 if d < 0 else 0.6 * (math.exp(1.5 * d) - 1 - 1.5 * d)
    depth = 0.03 * (L - 5) ** 2 / (1 + 0.1 * (L - 5) ** 2)
    rest = 0.8 * (config["dropout"] - 0.1) ** 2 + 0.02 * (math.log10(config["weight_decay"]) + 1) ** 2
    return base + min(rate, 2) + 0.02 * (b - 5) ** 2 + depth + rest


def gpt_like8(config: Config) -> float:
    rest = (config["warmup"] - 0.05) ** 2 + (config["beta2"] - 0.98) ** 2
    return gpt_like({name: config[name] for name in GPT_LIKE}) + rest


def box(dimensions: int, low: float, high: float) -> dict[str, Parameter]:
    return {f"x{i}": Float(low, high) for i in range(dimensions)}


GPT_LIKE: dict[str, Parameter] = {
    "learning_rate": Float(1e-5, 1.0, log=True),
    "batch_size": Choice(8, 16, 32, 64, 128),
    "weight_decay": Float(1e-5, 1.0, log=True),
    "dropout": Float(0.0, 0.5),
    "n_layer": Int(1, 8),
    "optimizer": Choice("adamw", "sgd", "lion"),
}

# Eight parameters, for the time that a suggestion takes.
GPT_LIKE8 = Problem(
    {**GPT_LIKE, "warmup": Float(0.0, 0.2), "beta2": Float(0.9, 0.999)},
    gpt_like8,
    2.0,
)

FUNCTIONS = {
    "branin": Problem({"x0": Float(-5, 10), "x1": Float(0, 15)}, branin, 0.397887357729738),
    "hartmann3": Problem(box(3, 0, 1), hartmann3, -3.86278214782076),
    "hartmann6": Problem(box(6, 0, 1), hartmann6, -3.32236801141551),
    "rosenbrock4": Problem(box(4, -5, 10), rosenbrock, 0.0),
    "styblinski_tang4": Problem(box(4, -5, 5), styblinski_tang, 4 * -39.16616570377142),
    "gpt_like": Problem(GPT_LIKE, gpt_like, 2.0),
    "gpt_like_noisy": Problem(GPT_LIKE, gpt_like, 2.0, noise=0.02),
}


def of_table(path: Path = table.FILE) -> tuple[Problem, Callable[[Config], table.Setting]]:
    """The table as a problem, and its setting of a configuration."""
    flags, settings = table.read(path)
    found = {tuple(setting.config.values()): setting for setting in settings}

    def look_up(config: Config) -> table.Setting:
        return found[tuple(config[name] for name in flags)]

    least = min(setting.value for setting in settings if not math.isnan(setting.value))
    parameters = {name: Choice(*levels) for name, levels in flags.items()}
    return Problem(parameters, lambda config: look_up(config).value, least), look_up


def problem(name: str) -> Problem:
    """The problem of that name."""
    return of_table()[0] if name == "table" else FUNCTIONS[name]


NAMES = [*FUNCTIONS, "table"]
