"""What tuning.py found, to print and to draw.

The ratio is the median regret of gp over the lowest median of a peer; its interval is a bootstrap over
seeds, in which each sample has its own best peer. gp is first where the interval's upper end is at
most 1, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers import OURS, PEERS

AT = (10, 20, 40)  # trials
SAMPLES = 2_000
COLORS = {
    "gp": "#c1121f",
    "random": "#8d99ae",
    "optuna-tpe": "#1f77b4",
    "optuna-gp": "#2a9d8f",
    "botorch": "#e09f3e",
    "hyperopt": "#7b2d8b",
}

Curves = dict[str, np.ndarray]  # (seeds, trials) regrets of each search


def curves_of(runs: dict[str, dict[str, list[float]]]) -> Curves:
    """The regrets of the seeds that every search has run; empty where there is no such seed."""
    common = sorted(set.intersection(*map(set, runs.values())) if runs else set(), key=int)
    return {name: numbers([by_seed[seed] for seed in common]) for name, by_seed in runs.items()} if common else {}


def numbers(values: list[Any]) -> np.ndarray:
    """Where JSON has null, there is nothing yet: inf."""
    array = np.array(values, dtype=float)
    return np.where(np.isnan(array), np.inf, array)


def regret_lines(problem: str, curves: Curves) -> Iterator[str]:
    """The regrets on one problem, a line to a search, and how gp stands to the peers."""
    seeds, trials = next(iter(curves.values())).shape
    at = [t for t in AT if t <= trials] or [trials]
    yield f"{problem}, {seeds} seed{'s' if seeds > 1 else ''}"
    yield " " * 14 + "".join(f"{f'at {t}: median':>16}{'75 %':>9}{'mean':>9}" for t in at)
    for name, regrets in curves.items():
        columns = [regrets[:, t - 1] for t in at]
        yield f"  {name:12}" + "".join(
            f"{number(np.median(c)):>16}{number(np.quantile(c, 0.75)):>9}{number(c.mean()):>9}" for c in columns
        )
    peers = [name for name in PEERS if name in curves]
    if "gp" in curves and peers:
        yield f"  {verdict(curves, peers, at[-1])}"


def number(value: float) -> str:
    return f"{value:.2g}" if 0 < abs(value) < 99.5 else f"{value:.0f}"


def verdict(curves: Curves, peers: list[str], t: int) -> str:
    ours, theirs = curves["gp"][:, t - 1], np.stack([curves[name][:, t - 1] for name in peers])
    best = peers[int(np.argmin(np.median(theirs, axis=1)))]
    ratio, low, high = ratio_of_medians(ours, theirs)
    word = "first" if high <= 1 else "not shown to be first"
    return f"gp / best peer ({best}) at {t}: {ratio:.2g}, 95 % {low:.2g} to {high:.2g}: {word}"


def ratio_of_medians(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The ratio for ours (seeds,) and theirs (peers, seeds), and its interval."""
    n = len(ours)
    picks = np.random.default_rng(0).integers(n, size=(SAMPLES, n))
    sampled = ratios(np.median(ours[picks], axis=1), np.median(theirs[:, picks], axis=2).min(axis=0))
    whole = ratios(np.median(ours), np.median(theirs, axis=1).min())
    low, high = np.quantile(sampled, [0.025, 0.975], method="inverted_cdf")
    return float(whole), float(low), float(high)


def ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """ours / theirs; 1 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((ours == 0) & (theirs == 0), 1.0, np.divide(ours, theirs))


def speed_lines(milliseconds: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """The time of a suggestion after so many trials: median of ten, and the longest of them."""
    yield "milliseconds of processor time for a suggestion, eight parameters: median of ten about the n-th (longest)"
    counts = list(next(iter(milliseconds.values())))
    yield " " * 14 + "".join(f"{'n = ' + n:>18}" for n in counts)
    for name, by_count in milliseconds.items():
        cells = [f"{np.median(times):.1f} ({max(times):.0f})" for times in by_count.values()]
        yield f"  {name:12}" + "".join(f"{cell:>18}" for cell in cells)


def draw(problems: dict[str, Curves], path: Path, shown: dict[str, Any]) -> None:
    """A panel for each problem: medians as lines, quartiles as bands."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(problems))
    rows = -(-len(problems) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.1 * columns, 3.3 * rows + 0.7), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(problems) :]:
        axis.axis("off")
    for axis, (problem, curves) in zip(axes.flat, problems.items(), strict=False):
        draw_panel(axis, curves)
        axis.set_title(problem.replace("_", " "), fontsize=11, loc="left")
    for axis in axes[:, 0]:
        axis.set_ylabel("regret")
    for axis in axes[-1]:
        axis.set_xlabel("trials")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes.flat), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110, metadata=shown)
    plt.close(figure)


def draw_panel(axis: Any, curves: Curves) -> None:
    medians = np.stack([np.median(regrets, axis=0) for regrets in curves.values()])
    positive = medians[(medians > 0) & np.isfinite(medians)]
    floor = positive.min() / 2 if len(positive) else 1e-3  # where a regret of 0 is drawn
    worst = max(regrets[np.isfinite(regrets)].max() for regrets in curves.values())  # for none yet
    for name, regrets in curves.items():
        t = np.arange(1, regrets.shape[1] + 1)
        finite = np.where(np.isfinite(regrets), regrets, worst)
        low, middle, high = np.maximum(np.quantile(finite, [0.25, 0.5, 0.75], axis=0), floor)
        style = dict(color=COLORS[name], zorder=3 if name in OURS else 2)
        axis.plot(t, middle, lw=2.4 if name == "gp" else 1.4, ls=":" if name == "random" else "-", label=name, **style)
        if name != "random":
            axis.fill_between(t, low, high, alpha=0.16 if name == "gp" else 0.07, lw=0, color=COLORS[name])
    axis.set_yscale("log")
    axis.set_xlim(1, regrets.shape[1])
    axis.grid(alpha=0.2, which="major")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
