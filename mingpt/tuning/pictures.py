"""What happened in a study, as one picture: pictures.png.

    progress             the value of every trial, and the lowest until then
    learning curves      those of trials that ended early pale
    importance           the shares that report.importance finds
    one for each         its values in the trials, and what the Gaussian process expects along it
    parameter            while all others are as in the best trial; the most important first

The horizontal axis of a parameter is u, its coordinate of the unit cube (space.py), with the parameter's own
values written below: logarithms, whole numbers and words are drawn in one way, and as the search sees
them. What lies far above most values is marked at the upper edge, so that the rest can be told apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mingpt import files
from mingpt.tuning import report
from mingpt.tuning.axes import Scale, ticks
from mingpt.tuning.evidence import inside
from mingpt.tuning.space import Space
from mingpt.tuning.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "pictures.png"
# Told apart whatever colours one sees (Okabe and Ito 2008, "Color Universal Design"); shapes differ too.
BLUE, LIGHT, RED, GREY, PALE = "#0072B2", "#6FAFD3", "#D55E00", "0.5", "0.82"
STYLES = {
    "done": dict(marker="o", s=15, facecolor=GREY, edgecolor="none", alpha=0.8),
    "stopped": dict(marker="o", s=15, facecolor="white", edgecolor=GREY, linewidth=0.8),
    "failed": dict(marker="x", s=20, color="0.2", linewidth=0.9),
}
BEST = dict(marker="D", s=34, facecolor=RED, edgecolor="white", linewidth=0.8, zorder=5)
EDGE = 0.96  # where marks at the upper edge stand, as a share of the panel's height
BAND = 1.96  # standard deviations: 95% of a normal distribution
POINTS = 12  # numbers of a parameter with at most so many are drawn one by one, of others as a line; words always
CHARACTERS = 150  # that stand beside each other below the whole picture


def draw(space: Space, history: list[Trial], folder: Path, value_name: str = "value") -> str | None:
    """Draw pictures.png and say where it is, or how to get it; None, and no file, where no trial has a value.

    Raises OSError where it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'none; pip install -e ".[plot]" draws one'
    if not report.best_trials(history):
        return None
    shares = report.importance(space, history)
    names = [name for name, _ in report.by_share(shares)] or space.names
    curves = [trial for trial in history if sum(math.isfinite(value) for _, value in trial.curve) > 1]
    across = columns(len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(12, 3.9 + 2.7 * down), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.4, 2.7 * down], hspace=0.02)
    widths = [1.8, *[1.8] * bool(curves), *[1] * bool(shares)]
    panels = iter(top.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    scale = Scale.of([trial.value for trial in history if trial.state == "done"])
    draw_progress(next(panels), history, scale, value_name)
    if curves:
        draw_curves(next(panels), curves, report.best_trials(history)[0], value_name)
    if shares:
        draw_importance(next(panels), shares)
    rest = bottom.subplots(down, across, sharey=True, squeeze=False)
    draw_parameters(rest, space, history, names, scale, value_name)
    add_legend(top, history, scale, bool(shares))
    save(figure, Path(folder) / NAME)
    return str(Path(folder) / NAME)


def columns(count: int) -> int:
    """How many parameters stand in a row, so that the last row has few gaps."""
    return count if count <= 3 else min((4, 3), key=lambda across: -count % across)


def save(figure: Figure, path: Path) -> None:
    with files.atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that the font lacks
        figure.savefig(temporary, format="png", dpi=120)


# ---- The panels ----


def draw_progress(axes: Axes, history: list[Trial], scale: Scale, value_name: str) -> None:
    done = [trial for trial in history if trial.state == "done"]
    lowest = np.minimum.accumulate([trial.value for trial in done])
    last = history[-1].number
    numbers = [trial.number for trial in done]
    axes.step([*numbers, last], [*lowest, lowest[-1]], where="post", color=RED, linewidth=1.2)
    draw_trials(axes, history, lambda trial: trial.number, scale)
    best = report.best_trials(history)[0]
    axes.scatter(best.number, best.value, **BEST)
    aside = "left" if best.number < 0.05 * last else "right" if best.number > 0.95 * last > 0 else "center"
    below = dict(xytext=(0, -13), textcoords="offset points", ha=aside, fontsize=8, color=RED)
    axes.annotate(report.as_value(best.value), (best.number, best.value), **below)
    axes.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    scale.apply(axes)
    tidy(axes, "trial", value_name)


def draw_curves(axes: Axes, trials: list[Trial], best: Trial, value_name: str) -> None:
    """The best trial's on top, those of trials that ran to the end below, the others pale and below these."""
    alpha = max(0.5, min(0.9, 30 / len(trials)))
    finite = [value for trial in trials for _, value in trial.curve if math.isfinite(value)]
    scale = Scale.of(finite)
    for trial in trials:
        steps, values = np.array(trial.curve).T
        values = np.where(np.isfinite(values), values, np.nan)
        style = dict(color=PALE, linewidth=0.8, alpha=alpha, zorder=1)
        if trial.state == "done":
            style = dict(color=GREY, linewidth=0.8, alpha=alpha, zorder=2)
        if trial.number == best.number:
            style = dict(color=RED, linewidth=1.5, zorder=3)
        axes.plot(steps, values, **style)
        if trial.state in ("stopped", "failed") and values[-1] <= scale.highest:
            axes.scatter(steps[-1], values[-1], **{**STYLES[trial.state], "s": 9, "zorder": 2})
    scale.apply(axes)
    tidy(axes, "step", f"{value_name} at that step")


def draw_importance(axes: Axes, shares: dict[str, float]) -> None:
    entries = report.by_share(shares)
    names, values = [name for name, _ in entries], [share for _, share in entries]
    axes.barh(range(len(names)), values, height=0.5, color=BLUE)
    for i, share in enumerate(values):
        axes.text(share + 0.02 * max(values), i, f"{share:.0%}", va="center", fontsize=8, color="0.3")
    axes.set_yticks(range(len(names)), [report.fit(name, 24) for name in names], parse_math=False)
    axes.set_ylim(max(len(names), 6) - 0.5, -0.5)
    axes.set_xlim(0, 1.18 * max(values))
    axes.set_xticks([])
    tidy(axes, "importance", "")
    axes.spines["bottom"].set_visible(False)


def draw_parameters(
    panels: np.ndarray, space: Space, history: list[Trial], names: list[str], scale: Scale, value_name: str
) -> None:
    """A panel for each parameter. Trials outside the space, of which its process knows nothing, are left out."""
    history = inside(space, history)
    found = report.surface(space, history)
    across = panels.shape[1]
    scale.apply(panels[0, 0])  # and so all, which share it
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for i, name in enumerate(names):
        axes = panels.flat[i]
        draw_parameter(axes, space, [trial for trial in history if name in trial.config], name, scale, found)
        room = CHARACTERS // across
        positions, texts, is_slanted = ticks(space.parameters[name], room)
        slant = dict(rotation=30, ha="right", rotation_mode="anchor") if is_slanted else {}
        axes.set_xticks(positions, texts, parse_math=False, **slant)
        when = (space.parameters[name].when or {}).items()
        lines = [name, *(f"where {parent} = {' or '.join(map(report.short, values))}" for parent, values in when)]
        below = "\n".join(report.fit(line, round(0.8 * room), end=0) for line in lines)
        tidy(axes, below, value_name if i % across == 0 else "")


def draw_parameter(
    axes: Axes, space: Space, history: list[Trial], name: str, scale: Scale, found: report.Surface | None
) -> None:
    """The trials in which the parameter is active, and the process along it through the best of them."""
    d, parameter, levels = space.names.index(name), space.parameters[name], space.levels(space.names.index(name))
    is_pointwise = levels is not None and (space.is_category[d] or len(levels) <= POINTS)
    gap = np.diff(levels, append=levels[0] + 1).min() if is_pointwise else 0.0

    def place(trial: Trial) -> float:
        aside = (trial.number * 0.618) % 1 - 0.5  # so that trials of one value lie beside each other
        return parameter.coordinate(trial.config[name]) + 0.5 * gap * aside

    draw_trials(axes, history, place, scale)
    axes.set_xlim(-0.04, 1.04)
    best = next(iter(report.best_trials(history)), None)
    if best is None:
        return
    axes.scatter(place(best), best.value, **BEST)
    if found is None:
        return
    u = np.linspace(0, 1, 121) if levels is None or len(levels) > 121 else levels
    X = np.tile(space.point(best.config), (len(u), 1))
    X[:, d] = u
    low, middle, high = (scale.near(found.values(space.snap(X), k)) for k in (-BAND, 0, BAND))
    if is_pointwise:
        bars = np.maximum([middle - low, high - middle], 0)
        axes.errorbar(
            u, middle, bars, fmt="s", markersize=4, color=BLUE, ecolor=LIGHT, elinewidth=1, capsize=2.5, zorder=3
        )
    else:
        axes.fill_between(u, low, high, color=BLUE, alpha=0.13, linewidth=0, zorder=1)
        axes.plot(u, middle, color=BLUE, linewidth=1.2, zorder=3)


def draw_trials(axes: Axes, history: list[Trial], place: Callable[[Trial], float], scale: Scale) -> None:
    """A mark for each trial that has ended, at `place` along the horizontal axis."""
    for state, style in STYLES.items():
        trials = [trial for trial in history if trial.state == state]
        x = np.array([place(trial) for trial in trials], dtype=float)
        y = np.array([value_of(trial) for trial in trials], dtype=float)
        is_above = y > scale.highest
        axes.scatter(x[~is_above], y[~is_above], **style)
        at_edge = style if state == "failed" else {**style, "marker": "^", "s": 22}
        axes.scatter(x[is_above], np.full(is_above.sum(), EDGE), transform=axes.get_xaxis_transform(), **at_edge)


def value_of(trial: Trial) -> float:
    """How high a trial that has ended is marked."""
    return {"done": trial.value, "stopped": report.lowest(trial)}.get(trial.state, math.inf)


def tidy(axes: Axes, below: str, beside: str) -> None:
    axes.set_xlabel(below, fontsize=9, parse_math=False)  # a $ in a name is no formula
    axes.set_ylabel(beside, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8, width=0.6, length=3, color="0.4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.4")
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def add_legend(figure: Figure, history: list[Trial], scale: Scale, has_surface: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(marker: str, face: str, edge: str, size: float = 4.5) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=edge, markerfacecolor=face, markersize=size)

    states = {trial.state for trial in history}
    entries = {
        "done": (mark("o", GREY, GREY), "a trial"),
        "stopped": (mark("o", "white", GREY), "stopped early, at its lowest"),
        "failed": (mark("x", "0.2", "0.2"), "failed"),
    }
    shown = [entry for state, entry in entries.items() if state in states]
    if any(value_of(trial) > scale.highest for trial in history if trial.state in ("done", "stopped")):
        shown += [(mark("^", GREY, GREY), "above what is shown")]
    shown += [(Line2D([], [], color=RED, linewidth=1.2, marker="D", markersize=5), "the best")]
    if has_surface:
        shown += [
            (Line2D([], [], color=BLUE, linewidth=1.2, marker="s", markersize=4), "expected, others as in the best")
        ]
        shown += [(Patch(color=BLUE, alpha=0.13, linewidth=0), "its 95% range")]
    handles, labels = zip(*shown, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=len(shown), frameon=False, fontsize=8.5)
