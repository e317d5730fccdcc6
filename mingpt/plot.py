"""loss.png: the losses of a run against its updates."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mingpt import files


def plot_losses(folder: Path, metrics: list[dict[str, Any]], best_step: int) -> str:
    """Write loss.png with the best checkpoint marked; returns its path, or a line that says why there is none."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'none; install it with pip install -e ".[plot]"'
    if not metrics:
        return "none before the first evaluation"
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in metrics]
    best = next(row for row in metrics if row["step"] == best_step)
    axes.plot(steps, [row["train_loss"] for row in metrics], color="0.6", label="training")
    axes.plot(steps, [row["val_loss"] for row in metrics], color="C0", label="validation")
    axes.plot(best["step"], best["val_loss"], "o", color="C0", label=f"best checkpoint, {best['val_loss']:.3f}")
    axes.set(xlabel="updates", ylabel="loss", xlim=(0, None))
    axes.set_title(str(folder), parse_math=False)  # a $ in a name is no formula
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with files.atomic_write(folder / "loss.png") as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that the font lacks
        figure.savefig(temporary, format="png", dpi=150)
    return str(folder / "loss.png")
