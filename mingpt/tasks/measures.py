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

from collections.abc import Sequence

import numpy as np

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
    """rmse, mae, r2 and correlation of targets and predictions (N,); 0 where all of one of them are alike."""
    error = predicted - targets
    spread, spread_predicted = targets.std(), predicted.std()
    joint = ((targets - targets.mean()) * (predicted - predicted.mean())).mean()
    return {
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - np.square(error).mean() / spread**2) if spread else 0.0,
        "correlation": float(joint / (spread * spread_predicted)) if spread and spread_predicted else 0.0,
    }


def table(n: np.ndarray, labels: Sequence[str]) -> list[str]:
    """A confusion table in lines of text, a row for each class; of many classes only the commonest mistakes."""
    if len(labels) > WIDEST_TABLE:
        wrong = n * (1 - np.eye(len(labels), dtype=n.dtype))
        worst = [divmod(int(place), len(labels)) for place in np.argsort(-wrong, axis=None, kind="stable")]
        return [f"{wrong[i, j]:>6,}  {labels[i]} taken for {labels[j]}" for i, j in worst[:WIDEST_TABLE] if wrong[i, j]]
    width = max(len(label) for label in labels)
    widths = [max(len(label), 6) for label in labels]
    head = "  ".join(f"{label:>{w}}" for label, w in zip(labels, widths, strict=True))
    lines = [f"{'':{width}}  {head}"]
    for label, row in zip(labels, n, strict=True):
        lines.append(f"{label:{width}}  " + "  ".join(f"{count:>{w},}" for count, w in zip(row, widths, strict=True)))
    return lines
