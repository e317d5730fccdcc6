"""Metrics of classification and regression, and the confusion matrix as text.

Notation: N predictions; K classes; n[i, j] examples of class i predicted as class j.

    accuracy       sum of n[i, i] / N
    F1 of class i  2 n[i, i] / (n[i, :] + n[:, i]), the harmonic mean of precision and recall
    macro F1       mean F1 of the classes that occur
    RMSE, MAE      root mean squared error, mean absolute error: in the unit of the data
    R2             1 - (mean squared error) / (variance of the targets): 0 for predicting their mean
    correlation    Pearson's
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mingpt.data.tables import shorten

MAX_CLASSES = 10  # in a table; of more classes, the most frequent errors are listed


def confusion_matrix(classes: np.ndarray, predicted: np.ndarray, K: int) -> np.ndarray:
    """n (K, K) of classes (N,) and predicted classes (N,), integers below K."""
    return np.bincount(classes * K + predicted, minlength=K * K).reshape(K, K)


def classification_metrics(n: np.ndarray) -> dict[str, float]:
    """accuracy and macro_f1 of a confusion matrix (K, K)."""
    total = n.sum(axis=0) + n.sum(axis=1)
    f1 = 2 * n.diagonal() / np.maximum(1, total)
    return {"accuracy": float(n.trace() / n.sum()), "macro_f1": float(f1[total > 0].mean())}


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """rmse, mae, r2 and correlation of targets and predictions (N,); the last two are 0 where they are undefined."""
    error = predictions - targets
    mse = float(np.square(error).mean())
    # np.ptp, since the variance of equal numbers may be above 0 by rounding
    r2 = 1 - mse / float(targets.var()) if np.ptp(targets) else 0.0
    is_defined = np.ptp(targets) and np.ptp(predictions)
    correlation = float(np.corrcoef(targets, predictions)[0, 1]) if is_defined else 0.0
    return {"rmse": mse**0.5, "mae": float(np.abs(error).mean()), "r2": r2, "correlation": correlation}


def format_confusion_matrix(n: np.ndarray, labels: Sequence[str]) -> tuple[str, list[str]]:
    """A title and lines of text: the matrix, or of many classes the most frequent errors.

    >>> print(*format_confusion_matrix(np.array([[40, 2], [0, 7]]), ["ham", "spam"])[1], sep="\\n")
             ham    spam
    ham       40       2
    spam       0       7
    """
    names = [shorten(label, 20) for label in labels]
    if len(names) > MAX_CLASSES:
        errors = sorted((-n[i, j], i, j) for i, j in np.argwhere(n).tolist() if i != j)
        lines = [f"{-count:>6,}  {names[i]} predicted as {names[j]}" for count, i, j in errors[:MAX_CLASSES]]
        return ("most frequent errors" if lines else "no errors"), lines
    first, widths = max(map(len, names)), [max(len(name), 6) for name in names]
    rows = [["", *names], *([name, *(f"{count:,}" for count in row)] for name, row in zip(names, n, strict=True))]
    lines = [
        f"{row[0]:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in rows
    ]
    return "confusion matrix (rows: true class, columns: predicted)", lines
