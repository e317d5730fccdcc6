"""How good predictions are: accuracy, macro-F1 and a table of confusions; RMSE, MAE, R2 and correlation.

Notation: N predictions; K classes; n[i, j] how many of class i were taken for class j.

    accuracy      sum of n[i, i] / N
    F1 of class i 2 n[i, i] / (n[i, all] + n[all, i]), the harmonic mean of precision and recall
    macro-F1      the mean F1 of the classes that occur, each counting the same however rare it is
    RMSE, MAE     root of the mean squared error, mean absolute error: in the unit of the data
    R2            1 - (mean squared error) / (variance of the targets): 0 for who always says their mean
    correlation   Pearson's
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from mingpt.data import rows

WIDEST_TABLE = 10  # classes; of more, only the commonest mistakes are listed


def confusion(classes: np.ndarray, predicted: np.ndarray, K: int) -> np.ndarray:
    """n[i, j] of classes and predictions (N,), whole numbers below K: (K, K)."""
    return np.bincount(classes * K + predicted, minlength=K * K).reshape(K, K)


def of_classes(n: np.ndarray) -> dict[str, float]:
    """accuracy and macro_f1 of a confusion table."""
    both = n.sum(axis=0) + n.sum(axis=1)
    f1 = 2 * n.diagonal() / np.maximum(1, both)
    return {"accuracy": float(n.trace() / n.sum()), "macro_f1": float(f1[both > 0].mean())}


def of_numbers(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """rmse, mae, r2 and correlation of targets and predictions (N,); the last two are 0 where they have no meaning.

    That is where all targets are alike, or for the correlation all predictions.
    """
    error = predicted - targets
    # Of numbers that are alike the deviation comes out as a little more than 0, where their mean is rounded.
    spread, spread_predicted = (part.std() if np.ptp(part) else 0.0 for part in (targets, predicted))
    joint = ((targets - targets.mean()) * (predicted - predicted.mean())).mean()
    return {
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - np.square(error).mean() / spread**2) if spread else 0.0,
        "correlation": float(joint / (spread * spread_predicted)) if spread and spread_predicted else 0.0,
    }


def table(n: np.ndarray, labels: Sequence[str]) -> list[str]:
    """A confusion table in lines of text, a row for each class; of many classes only the commonest mistakes."""
    names = [rows.brief(label) for label in labels]
    if len(names) > WIDEST_TABLE:
        mistakes = [(-n[i, j], i, j) for i, j in np.argwhere(n).tolist() if i != j]
        worst = sorted(mistakes)[:WIDEST_TABLE]
        return [f"{-count:>6,}  {names[i]} taken for {names[j]}" for count, i, j in worst]
    first = max(map(width, names))
    widths = [max(width(name), 6) for name in names]
    head = "  ".join(" " * (w - width(name)) + name for name, w in zip(names, widths, strict=True))
    lines = [f"{'':{first}}  {head}"]
    for name, row in zip(names, n, strict=True):
        counts = "  ".join(f"{count:>{w},}" for count, w in zip(row, widths, strict=True))
        lines.append(f"{name}{' ' * (first - width(name))}  {counts}")
    return lines


def width(text: str) -> int:
    """The columns that a text takes in a terminal: two for each Chinese character."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
