"""What came of a study: lines for a terminal, trials.csv, and how much each parameter matters.

Notation:

    D        number of parameters;  u a point of the unit cube [0, 1]^D, as in space.py
    z        a value, warped and standardised as in evidence.py: what the Gaussian process models
    f(u)     the process's mean of z at u
    V_i      the part of f's variance that u_i takes part in, alone or together with others

Nothing here prints: each function returns what it says.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mingpt import files
from mingpt.tuning.parameters import Choice, Float, Parameter
from mingpt.tuning.sequence import evenly
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

if TYPE_CHECKING:
    from mingpt.tuning.gp import GP

LEAST_KNOWN = 3  # values; fewer say nothing about what matters
LINES, PLACES = 256, 8  # along each parameter, and on each line; with more the shares move by less than 0.02
WIDEST = 18  # characters of a setting in a table
WIDEST_WHY = 80  # and of why a trial failed
COLUMNS = ("number", "state", "value", "seconds", "attempts", "why")


# ---- Lines for a terminal ----


@dataclass(frozen=True)
class Table:
    """Trials as lines of one width for each column, so that they can be printed one by one.

    >>> from mingpt.tuning import Float, Space, Trial
    >>> table = Table(Space({"learning_rate": Float(1e-4, 1, log=True)}), "loss")
    >>> print(table.header, table.line(Trial(7, {"learning_rate": 0.021544}, "done", 1.70124, seconds=8.31)), sep="\\n")
      trial  state          loss    seconds  learning_rate
          7  done         1.7012        8.3         0.0215
    """

    space: Space
    value_name: str = "value"

    @property
    def header(self) -> str:
        names = [one_line(name).rjust(width(name, p)) for name, p in self.space.parameters.items()]
        facts = [f"{'trial':>7}", f"{'state':<7}", f"{self.value_name:>{self.value_width}} ", f"{'seconds':>8}"]
        return "  ".join([*facts, *names])

    @property
    def value_width(self) -> int:
        return max(10, len(self.value_name))

    def line(self, trial: Trial) -> str:
        """A trial in a line. The value of one stopped early is its lowest, in brackets; a failed one says why."""
        parts = [f"{trial.number:>7}", f"{trial.state:<7}", self.value(trial), f"{seconds(trial):>8}"]
        for name, parameter in self.space.parameters.items():
            room = width(name, parameter)
            parts.append(fit(short(trial.config[name]) if name in trial.config else "-", room).rjust(room))
        if trial.why:
            parts.append(fit(trial.why, WIDEST_WHY, end=0))
        return "  ".join(parts)

    def value(self, trial: Trial) -> str:
        if trial.state == "done":
            return f"{as_value(trial.value):>{self.value_width}} "
        if trial.state == "stopped":
            return f"{'(' + as_value(lowest(trial)) + ')':>{self.value_width + 1}}"
        return f"{'-':>{self.value_width}} "


def best_trials(history: list[Trial], count: int = 5) -> list[Trial]:
    """The done trials with the lowest values, the lowest first."""
    done = [trial for trial in history if trial.state == "done"]
    return sorted(done, key=lambda trial: (trial.value, trial.number))[:count]


def gain(history: list[Trial], first: str = "the first trial") -> str:
    """How much lower than trial 0 the best is. `first` is what trial 0 is called, such as "the defaults"."""
    best = next(iter(best_trials(history)), None)
    start = next((trial for trial in history if trial.number == 0), None)
    if best is None:
        return "no trial has a value"
    if start is None or start.state != "done":
        what = {"failed": "failed", "stopped": "was stopped early"}.get(start.state if start else "", "has not ended")
        return f"unknown: trial 0, {first}, {what}"
    if best.value >= start.value:
        return f"nothing better than {first} (trial 0) was found"
    values = f"{as_value(start.value)} -> {as_value(best.value)} (trial {best.number})"
    return f"{difference(start.value, best.value)} lower than {first} (trial 0): {values}"


def difference(before: float, after: float) -> str:
    """How much lower `after` is: a share where both are above 0, as "5.9%"."""
    if after <= 0:
        return as_value(before - after)
    if before / after >= 10:
        return f"{before / after:,.0f} times"
    percent = 100 * (1 - after / before)
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.1g}%"


def importance_line(shares: dict[str, float]) -> str:
    """The shares of `importance` in words: "learning_rate 62%, n_layer 38%"."""
    return ", ".join(f"{name} {share:.0%}" for name, share in by_share(shares)) or "not known yet"


def by_share(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda entry: -entry[1])


def described(parameter: Parameter) -> str:
    """A parameter's values as they are typed: "1e-5..1 log", "adamw,sgd when n_layer=1,2"."""
    if isinstance(parameter, Choice):
        text = ",".join(short(value) for value in parameter.values)
    else:
        text = f"{short(parameter.low)}..{short(parameter.high)}" + " log" * parameter.log
        text += "" if parameter.step is None else f" step {short(parameter.step)}"
    conditions = [f"{name}={','.join(map(short, values))}" for name, values in (parameter.when or {}).items()]
    return text + (" when " + " and ".join(conditions) if conditions else "")


def short(value: Any) -> str:
    """A setting as people write it: numbers with three digits that count, whole ones with all."""
    if type(value) is float and math.isfinite(value):
        rounded = float(f"{value:.3g}")
        if 1e3 <= abs(rounded) < 1e6:
            return f"{rounded:.0f}"
        is_small = 0 < abs(rounded) < 1e-3
        return with_short_exponent(f"{rounded:.2e}" if is_small else f"{rounded:.3g}")
    return one_line(cell(value))


def as_value(value: float) -> str:
    """A value with five digits that count, zeros among them, so that values stand well below each other."""
    is_plain = value == 0 or 1e-4 <= abs(value) < 1e5
    return with_short_exponent(f"{value:#.5g}" if is_plain else f"{value:.4e}").removesuffix(".")


def with_short_exponent(number: str) -> str:
    """1.20e-05 -> 1.2e-5"""
    mantissa, e, exponent = number.partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}" if e else number


def one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def fit(text: str, width: int, end: int | None = None) -> str:
    """A text in one line of at most so many characters; of a longer one the beginning and the end."""
    text = one_line(text)
    end = width // 2 - 1 if end is None else end
    return text if len(text) <= width else f"{text[: width - 2 - end]}..{text[len(text) - end :]}"


def width(name: str, parameter: Parameter) -> int:
    """Of a parameter's column: that of its name, or of its widest value."""
    values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
    fractions = [-1.23e-5 if parameter.low < 0 else 1.23e-5] if isinstance(parameter, Float) else []
    return max(len(name), *(min(WIDEST, len(short(value))) for value in (*values, *fractions)))


def seconds(trial: Trial) -> str:
    return "-" if math.isnan(trial.seconds) else f"{trial.seconds:,.1f}"


def lowest(trial: Trial) -> float:
    """The lowest value that a trial reported; nan where it reported none."""
    return min((value for _, value in trial.curve), default=math.nan)


# ---- trials.csv ----


def save_csv(space: Space, history: list[Trial], path: Path) -> None:
    """Write a row for each trial: COLUMNS, then a column for each parameter, with those of another space at the end.

    Numbers have all their digits; what is not there (the value of a failed trial, a parameter that was
    not active) is left empty. Raises OSError where it cannot be written.
    """
    names = list(dict.fromkeys([*space.names, *(name for trial in history for name in trial.config)]))
    # An error's words may hold bytes that no encoding made: they are shown, not refused
    with (
        files.atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *names])
        for trial in history:
            facts = [cell(getattr(trial, column)) for column in COLUMNS]
            writer.writerow([*facts, *(cell(trial.config[name]) if name in trial.config else "" for name in names)])


def cell(value: Any) -> str:
    """A fact in full: text as it is, true and false as in a config file, nothing for nan."""
    if type(value) is str:
        return value
    return "" if type(value) is float and math.isnan(value) else json.dumps(value, ensure_ascii=False)


# ---- What matters ----


@dataclass
class Surface:
    """The Gaussian process of the values so far, and the way back from z to values."""

    gp: GP
    y: np.ndarray  # the values it was given
    warp: float | None

    def values(self, X: np.ndarray, deviations: float = 0.0) -> np.ndarray:
        """The values (m,) at X (m, D) that lie so many standard deviations of z above its mean."""
        mu, variance = self.gp.predict(X)
        return unwarped(mu + deviations * np.sqrt(np.maximum(variance, 0)), self.y, self.warp)


def surface(space: Space, history: list[Trial]) -> Surface | None:
    """What the search believes of the value everywhere; None where fewer than three values, or only one, are known."""
    from mingpt.tuning import bayesian, evidence  # here, for scipy takes a second to import

    known = evidence.gather(space, evidence.inside(space, history))
    if len(known.y) < LEAST_KNOWN or len(np.unique(known.y)) < 2:
        return None
    gp, warp = bayesian.posterior(space, known)
    return Surface(gp, bayesian.with_failures(known)[1], warp)


def unwarped(z: np.ndarray, y: np.ndarray, warp: float | None) -> np.ndarray:
    """The values that evidence.warped(y, warp) would turn into z: y = b + s (exp(z) - 1), or y = b + z."""
    above = y - y.min()
    if warp is None:
        return y.min() + above.mean() + z * (above.std() or 1.0)
    s = warp * np.median(above[above > 0])
    stretched = np.log(above / s + 1)
    return y.min() + s * np.expm1(np.minimum(stretched.mean() + z * stretched.std(), 700))


def importance(space: Space, history: list[Trial]) -> dict[str, float]:
    """The share of each parameter in how z varies over the space, by the Gaussian process; together they are 1.

        share of i = V_i / (V_1 + ... + V_D),    V_i = E[Var(f(u) | all of u but u_i)],    u uniform in the cube

    V_i / Var f is the total-order index of Sobol' (Homma and Saltelli 1996, "Importance measures in global
    sensitivity analysis of nonlinear models"): what would be left of the variance, on average, if all other
    parameters were known.

    A parameter whose effect hangs on others is counted with each of them. One that decides whether others
    are active takes part in their effect; where they are not, they are 0.5, so that they change nothing.
    Of z, not of the value: so a few settings that went very wrong do not decide it all. Empty where
    fewer than three values are known.
    """
    found = surface(space, history)
    if found is None:
        return {}
    V = total_effects(lambda U: found.gp.predict(space.snap(U))[0], len(space.names))
    return dict(zip(space.names, (V / V.sum()).tolist(), strict=True)) if V.sum() > 0 else {}


def total_effects(f: Callable[[np.ndarray], np.ndarray], D: int) -> np.ndarray:
    """V (D,) of a function of points (n, D): the mean over lines along i of f's variance on the line.

    The lines are spread evenly over the cube, the places evenly over each line, from another start on each.
    """
    centres = evenly(LINES, D, np.random.default_rng(0))
    V = np.empty(D)
    for i in range(D):
        U = np.repeat(centres, PLACES, axis=0)
        U[:, i] = (U[:, i] + np.tile(np.arange(PLACES) / PLACES, LINES)) % 1
        V[i] = f(U).reshape(LINES, PLACES).var(axis=1).mean()
    return V
