"""How the axes of a study's picture are stretched, and what is written beside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mingpt.tuning.parameters import Choice, Parameter
from mingpt.tuning.report import fit, short, with_short_exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 14  # characters of a word below an axis
MOST_WORDS = 12  # below an axis; of more, every second or third is written


@dataclass(frozen=True)
class Scale:
    """A vertical axis: how it is stretched, and how far it reaches."""

    kind: str  # "linear", "log", or "asinh": like log on both sides of zero
    unit: float  # of asinh: how far from zero it is still about linear
    lowest: float
    highest: float  # what lies above is marked at the upper edge

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """One in which these values can be told apart, though one in ten may lie far above the others."""
        y = np.array(values, dtype=float)
        low, few, most = y.min(), *np.quantile(y, [0.25, 0.9], method="lower")
        unit = float(max(-low, few - low))
        kind = "linear"
        if low > 0 and most > 10 * low:
            kind = "log"
        elif low <= 0 and most / 30 - low / 30 > unit > 0:
            kind = "asinh"
        scale = cls(kind, unit, float(low), float(low))
        t = scale.stretched(y)
        reach = 4 * (scale.stretched(most) - t.min()) or np.inf
        return cls(kind, unit, float(low), float(y[t <= t.min() + reach].max()))

    def stretched(self, y: np.ndarray | float) -> np.ndarray:
        """Where values lie on the paper, up to shift and size."""
        return {"linear": np.asarray, "log": np.log, "asinh": lambda y: np.arcsinh(y / self.unit)}[self.kind](y)

    def values(self, t: np.ndarray) -> np.ndarray:
        """What lies at places on the paper."""
        return {"linear": np.asarray, "log": np.exp, "asinh": lambda t: self.unit * np.sinh(t)}[self.kind](t)

    def ends(self, below: float, above: float) -> tuple[float, float]:
        """The values that lie so many heights of the picture below its lowest and above its highest one."""
        low, high = float(self.stretched(self.lowest)), float(self.stretched(self.highest))
        size = (high - low) or abs(low) or 1.0
        first, last = self.values(np.array([low - below * size, high + above * size]))
        return float(first), float(last)

    def near(self, y: np.ndarray) -> np.ndarray:
        """Values that lie far outside brought near, where a line to them still leaves the picture."""
        return np.clip(y, *self.ends(1, 1))

    def powers(self, low: float, high: float) -> list[float]:
        """0 and powers of ten on its both sides, those that lie apart on the paper of asinh."""
        apart = 0.1 * (self.stretched(high) - self.stretched(low))
        kept = [0.0] if high > 0 else []
        for end in (high, low):
            last = 0.0
            for e in range(math.floor(math.log10(self.unit)), 308):
                value = math.copysign(10.0**e, end)
                if abs(value) > abs(end):
                    break
                if abs(self.stretched(value) - self.stretched(last)) >= apart:
                    kept.append(value)
                    last = value
        return kept

    def apply(self, axes: Axes) -> None:
        """Give the axis of a panel this stretch, this range, and plain numbers beside it."""
        from matplotlib import ticker

        axes.set_yscale(self.kind, **(dict(linear_width=self.unit) if self.kind == "asinh" else {}))
        low, high = self.ends(0.1, 0.13)  # room for what is marked at the upper edge, and written at the lower
        axes.set_ylim(low, high)
        if self.kind == "linear" or (self.kind == "log" and high < 10 * low):
            axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        elif self.kind == "log":
            subs = (1, 2, 5) if high < 300 * low else (1,)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=7))
        else:
            axes.yaxis.set_major_locator(ticker.FixedLocator(self.powers(low, high)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: number(y)))


def number(y: float) -> str:
    """A round number as it stands beside an axis."""
    return with_short_exponent(f"{y:.6g}")


def ticks(parameter: Parameter, room: int) -> tuple[list[float], list[str], bool]:
    """Coordinates and texts to write below a parameter's axis, where `room` characters fit; whether to slant them."""
    values = values_to_show(parameter)
    texts = [fit(short(value), LONGEST) for value in values]
    if len(set(texts)) < len(texts) and not isinstance(parameter, Choice):  # close to each other
        texts = [number(value) for value in values]
    positions = [float(parameter.coordinate(value)) for value in values]
    if isinstance(parameter, Choice) and not Choice.is_ordered_by_number(parameter.values):
        return positions, texts, sum(map(len, texts)) + 3 * len(texts) > room
    kept: list[int] = []
    for i in range(len(values)):  # a number that would touch the one before is left out
        needed = (len(texts[i]) + len(texts[kept[-1]])) / 2 + 1.5 if kept else 0
        if not kept or (positions[i] - positions[kept[-1]]) * room >= needed:
            kept.append(i)
    return [positions[i] for i in kept], [texts[i] for i in kept], False


def values_to_show(parameter: Parameter) -> list:
    """All values of a parameter that has few, round ones of another, in their order."""
    if isinstance(parameter, Choice):
        return list(parameter.values)[:: -(-parameter.k // MOST_WORDS)]
    if parameter.k is not None and parameter.k <= 8:
        return [parameter.value(float(parameter.at(j))) for j in range(parameter.k)]
    round_ones = round_numbers(parameter.low, parameter.high, parameter.log)
    if parameter.k is None:
        return round_ones
    nearest = [parameter.value(float(parameter.coordinate(value))) for value in round_ones]
    return [value for value, _ in itertools.groupby(nearest)]


def round_numbers(low: float, high: float, log: bool) -> list[float]:
    """A few round numbers from low to high, evenly spread where log says what even is."""
    from matplotlib import ticker

    if log and high > 5 * low:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        digits = (1, 2, 5) if high < 300 * low else (1,)
        every = -(-(last - first) // 7)
        found = [digit * 10.0**e for e in range(first, last + 1, every) for digit in digits]
    else:
        found = ticker.MaxNLocator(5).tick_values(low, high)
    return [float(f"{value:.6g}") for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)] or [low, high]
