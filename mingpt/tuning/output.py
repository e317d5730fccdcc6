"""The results of a study: a table for the terminal, and the importance of each parameter.

Notation:

    D      number of parameters
    f(u)   mean of the Gaussian process at point u of the unit cube, in standardized units
    V_i    E[Var(f(u) | all coordinates but u_i)] for u uniform in the cube; V_i / Var f(u) is the total-order Sobol'
           index of parameter i: its effect alone and its interactions (Homma and Saltelli 1996)

    share of parameter i = V_i / (V_1 + ... + V_D)

With A and B two sets of n points, and A_i the set A whose column i is that of B (Jansen 1999):

    V_i ~ 1 / (2n) sum over the points of (f(A) - f(A_i))^2
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

LOG2_POINTS = 10  # n = 1024: with 12 parameters, shares within 0.01 of those at n = 16384
SETTING_WIDTH, ERROR_WIDTH = 10, 80  # characters; longer texts are shortened


class Table:
    """Trials as lines with columns of fixed width, to be printed one by one.

    The value of a stopped trial is its lowest one, in brackets.

    >>> from mingpt.tuning import Float, Space, Trial
    >>> table = Table(Space({"learning_rate": Float(1e-4, 1, log=True)}), "loss")
    >>> print(table.header, table.line(Trial(7, {"learning_rate": 0.021544}, "done", 1.70124)), sep="\\n")
    trial    state          loss    seconds  learning_rate
        7     done        1.7012          -         0.0215
    """

    def __init__(self, space: Space, value_name: str):
        self.names = space.names
        self.widths = [5, 7, max(13, len(value_name) + 1), 8, *(max(len(name), SETTING_WIDTH) for name in self.names)]
        self.header = self.join(["trial", "state", f"{value_name} ", "seconds", *self.names])

    def line(self, trial: Trial) -> str:
        values = {"done": f"{format_number(trial.value)} ", "stopped": f"({format_number(trial.lowest)})"}
        seconds = f"{trial.attributes['seconds']:.1f}" if "seconds" in trial.attributes else "-"
        cells = [str(trial.number), trial.state, values.get(trial.state, "- "), seconds]
        cells += [format_setting(trial.config[name]) if name in trial.config else "-" for name in self.names]
        return f"{self.join(cells)}  {shorten(trial.attributes.get('error', ''), ERROR_WIDTH)}".rstrip()

    def join(self, cells: list[str]) -> str:
        return "  ".join(shorten(cell, width).rjust(width) for cell, width in zip(cells, self.widths, strict=True))


def format_number(value: float) -> str:
    """A value with five significant digits, trailing zeros included: 1.7 is 1.7000."""
    return f"{value:#.5g}".removesuffix(".")


def format_setting(value: Any) -> str:
    """A setting; of a float three significant digits."""
    if isinstance(value, float):
        return f"{float(f'{value:.3g}'):g}"
    return value if isinstance(value, str) else json.dumps(value)


def shorten(text: str, width: int) -> str:
    """Printable characters in one line; of a longer text the beginning and the end."""
    text = "".join(c if c.isprintable() else " " for c in text)
    half = width // 2 - 1
    return text if len(text) <= width else f"{text[:half]}..{text[-half:]}"


def best_trials(trials: list[Trial], count: int) -> list[Trial]:
    """The finished trials with the lowest values, the lowest first."""
    done = [trial for trial in trials if trial.state == "done"]
    return sorted(done, key=lambda trial: (trial.value, trial.number))[:count]


def importance(space: Space, trials: list[Trial]) -> dict[str, float]:
    """The share of each parameter, the largest first; empty where there are too few trials for a Gaussian process."""
    from scipy.stats import qmc  # here: scipy takes a second to import

    from mingpt.tuning import bayesian

    posterior = bayesian.posterior(space, [trial for trial in trials if space.contains(trial.config)])
    if posterior is None:
        return {}
    D = len(space.names)
    A, B = np.hsplit(qmc.Sobol(2 * D, scramble=False).random_base2(LOG2_POINTS), 2)  # (n, D) each
    mean = posterior.gp.predict(space.snap(A))[0]  # (n,)
    V = np.empty(D)
    for i in range(D):
        A_i = A.copy()
        A_i[:, i] = B[:, i]
        V[i] = np.mean((mean - posterior.gp.predict(space.snap(A_i))[0]) ** 2) / 2
    return {space.names[i]: float(V[i] / V.sum()) for i in np.argsort(-V, kind="stable")} if V.any() else {}
