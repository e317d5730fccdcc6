"""A study in one picture: progress, importance (output.py), learning curves, and a panel for each parameter.

Stopped trials are at their lowest value, failed ones at the upper edge; the axes contain every value.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mingpt import files
from mingpt.tuning.bayesian import Posterior, posterior
from mingpt.tuning.output import best_trials, format_number, format_setting, importance, shorten
from mingpt.tuning.parameters import Choice
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors that differ with any color vision (Okabe and Ito 2008, "Color Universal Design")
COLORS = {"done": "0.6", "stopped": "#E69F00", "failed": "0.2", "running": "0.8", "best": "#D55E00", "GP": "#0072B2"}
MARKERS = {"done": "o", "stopped": "v", "failed": "x", "best": "D"}


def plot_study(space: Space, trials: list[Trial], path: Path, value_name: str) -> str:
    """Write the picture of a study with a finished trial; returns its path, or a line that says why there is none."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'none; install it with pip install -e ".[plot]"'
    rows = 1 + math.ceil(len(space.names) / 3)
    figure = Figure(figsize=(14, 0.5 + 3.2 * rows), layout="constrained")
    progress, bars, curves, *panels = figure.subplots(rows, 3).flat
    for axes in panels:
        axes.sharey(progress)
    plot_progress(progress, trials)
    plot_curves(curves, trials)
    inside = [trial for trial in trials if space.contains(trial.config)]
    shares, model = importance(space, inside), posterior(space, inside)
    bars.barh(places := -np.arange(len(shares)), list(shares.values()), color=COLORS["GP"])
    bars.set_yticks(places, [f"{shorten(name, 20)}  {share:.0%}" for name, share in shares.items()], parse_math=False)
    bars.set(title="importance", xticks=[])
    for axes, name in zip(panels, shares or space.names, strict=False):
        plot_parameter(axes, space, [trial for trial in inside if name in trial.config], name, model)
    for axes in figure.axes:
        axes.set_visible(axes.has_data())
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel(value_name, parse_math=False)  # a $ in a name is no formula
    legend = {label: h for axes in figure.axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=len(legend), frameon=False)
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return str(path)


def plot_progress(axes: Axes, trials: list[Trial]) -> None:
    best, numbers = best_trials(trials, 1)[0], [trial.number for trial in trials]
    axes.step(numbers, np.fmin.accumulate([trial.value for trial in trials]), color=COLORS["best"], where="post")
    plot_trials(axes, trials, numbers)
    set_scale(axes, [trial.lowest if trial.state == "stopped" else trial.value for trial in trials])
    axes.set(title=f"best: {format_number(best.value)} (trial {best.number})", xlabel="trial", ylim=axes.get_ylim())
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def plot_curves(axes: Axes, trials: list[Trial]) -> None:
    for kind, trial in [*((trial.state, trial) for trial in trials), ("best", best_trials(trials, 1)[0])]:
        points = [point for point in trial.curve if math.isfinite(point[1])]
        axes.plot(*np.transpose(points), color=COLORS[kind], linewidth=1, marker=".", markevery=[-1])
    set_scale(axes, [value for trial in trials for _, value in trial.curve])
    axes.set(title="learning curves", xlabel="step")


def plot_parameter(axes: Axes, space: Space, trials: list[Trial], name: str, model: Posterior | None) -> None:
    """The values of a parameter, and the mean and 95% band of the GP along it, all others as in the best trial."""
    p, best = space.parameters[name], best_trials(trials, 1)
    if is_listed := isinstance(p, Choice) or (p.k is not None and p.k <= 12 and not p.log):
        u = x = space.levels(space.names.index(name))
        places = [p.coordinate(t.config[name]) + (t.number * 0.618 % 1 - 0.5) / (2 * p.k) for t in trials]
        shown = u[:: 1 + p.k // 16]
        labels = [shorten(format_setting(p.value(at)), 14) for at in shown]
        is_long = len(labels) * max(map(len, labels)) > 40
        axes.set_xticks(shown, labels, parse_math=False, rotation=30 * is_long, ha="right" if is_long else "center")
        axes.set_xlim(0, 1)
    else:
        u = np.linspace(0, 1, 101)
        x, places = [p.value(at) for at in u], [trial.config[name] for trial in trials]
        if p.log:
            axes.set_xscale("log", subs=(2, 5))
        if p.log and p.high < 30 * p.low:
            axes.xaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
    axes.set_title(shorten(name, 30), parse_math=False, pad=9)
    plot_trials(axes, trials, places)
    if model and best:
        X = np.where(np.array(space.names) == name, u[:, None], space.point(best[0].config))  # (m, D)
        mean, *band = (model.values(space.snap(X), deviations) for deviations in (0, -1.96, 1.96))
        axes.plot(x, mean, "s" if is_listed else "-", color=COLORS["GP"], label="GP mean")
        plot_band = axes.vlines if is_listed else axes.fill_between
        plot_band(x, *np.clip(band, *axes.get_ylim()), color=COLORS["GP"], alpha=0.25, label="95% band")


def plot_trials(axes: Axes, trials: list[Trial], x: list[float]) -> None:
    best = best_trials(trials, 1)
    kinds = np.array(["best" if trial in best else trial.state for trial in trials])
    y = np.array([{"stopped": trial.lowest, "failed": 1}.get(trial.state, trial.value) for trial in trials])
    for kind in [kind for kind in MARKERS if kind in kinds]:
        style = {"c": COLORS[kind], "marker": MARKERS[kind], "s": 18, "zorder": 3, "clip_on": False, "label": kind}
        transform = axes.get_xaxis_transform() if kind == "failed" else axes.transData
        axes.scatter(np.array(x)[kinds == kind], y[kinds == kind], transform=transform, **style)


def set_scale(axes: Axes, values: list[float]) -> None:
    """A linear, log or symlog axis, on which the lower half of the values spreads however high the highest is."""
    values = [value for value in values if math.isfinite(value)] or [0.0]
    low, middle, high = np.quantile(values, [0, 0.5, 1], method="lower")
    limit = max(abs(low), abs(low + 3 * (middle - low)))
    if low > 0 and middle > 10 * low:
        axes.set_yscale("log")
    elif high - low > 10 * (middle - low) > 0 and high > 2 * limit:  # linear up to limit, at two thirds of the height
        axes.set_yscale("symlog", linthresh=limit, linscale=1.8 * limit / (limit - low) * np.log10(high / limit))
        ticks = [*np.linspace(low, limit, 4), *(float(f"{y:.1g}") for y in np.geomspace(limit, high, 4)[1:])]
        axes.set_yticks(ticks, [f"{y:.4g}" for y in ticks])
