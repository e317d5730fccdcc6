"""Metrics against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mingpt.tasks.metrics import classification_metrics, confusion_matrix, format_confusion_matrix, regression_metrics


@pytest.mark.parametrize("K", [2, 5, 30])  # of 30 classes, some do not occur among 40 examples
def test_classification_metrics_equal_scikit_learn(K):
    rng = np.random.default_rng(K)
    classes, predicted = rng.integers(0, K, 40), rng.integers(0, K, 40)
    n = confusion_matrix(classes, predicted, K)
    assert np.array_equal(n, sklearn.confusion_matrix(classes, predicted, labels=range(K)))
    values = classification_metrics(n)
    assert values["accuracy"] == pytest.approx(sklearn.accuracy_score(classes, predicted))
    assert values["macro_f1"] == pytest.approx(sklearn.f1_score(classes, predicted, average="macro"))


def test_regression_metrics_equal_scikit_learn():
    rng = np.random.default_rng(1)
    targets, predictions = rng.normal(size=100), rng.normal(size=100)
    values = regression_metrics(targets, predictions)
    assert values["rmse"] == pytest.approx(sklearn.root_mean_squared_error(targets, predictions))
    assert values["mae"] == pytest.approx(sklearn.mean_absolute_error(targets, predictions))
    assert values["r2"] == pytest.approx(sklearn.r2_score(targets, predictions))
    assert values["correlation"] == pytest.approx(np.corrcoef(targets, predictions)[0, 1])


def test_regression_metrics_of_equal_numbers():
    equal, others = np.full(3, 0.1), np.array([0.1, 0.2, 0.3])
    assert equal.std() > 0  # by rounding
    values = regression_metrics(equal, others)
    assert values["r2"] == values["correlation"] == 0
    values = regression_metrics(others, equal)
    assert values["r2"] == pytest.approx(-1.5) and values["correlation"] == 0


def test_a_confusion_matrix_is_aligned_and_long_labels_are_shortened():
    n = np.array([[1, 20_000, 0], [3, 4, 5], [6, 7, 8]])
    lines = format_confusion_matrix(n, ["good", "two\nlines", "very " * 1000])[1]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) < 100
    assert lines[2].split() == ["two", "lines", "3", "4", "5"]


def test_of_many_classes_the_most_frequent_errors_are_listed():
    n, labels = np.diag([9] * 12), [f"class {i}" for i in range(12)]
    assert format_confusion_matrix(n, labels) == ("no errors", [])
    n[3, 5], n[7, 0], n[0, 1] = 1, 1200, 1
    assert format_confusion_matrix(n, labels)[1] == [
        " 1,200  class 7 predicted as class 0",
        "     1  class 0 predicted as class 1",
        "     1  class 3 predicted as class 5",
    ]
