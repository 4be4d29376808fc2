"""Metrics of a classification, each computed from its confusion matrix as scikit-learn defines them.

A confusion matrix is an integer tensor (C, C). Its rows are the true classes, its columns the predicted ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(confusion: Tensor) -> float:
    """Return the share, in [0, 1], of correctly classified images."""
    return float(confusion.trace().item() / confusion.sum().item())


def balanced_accuracy(confusion: Tensor) -> float:
    """Return the mean recall of the classes that have images (Brodersen et al. 2010)."""
    supports = confusion.sum(1)
    present = supports > 0
    return float((confusion.diagonal()[present].double() / supports[present]).mean())


def macro_f1(confusion: Tensor) -> float:
    """Return the mean F1 of the classes that have images or predictions; a class without a hit has an F1 of 0."""
    both = confusion.sum(0) + confusion.sum(1)
    present = both > 0
    return float((2 * confusion.diagonal()[present].double() / both[present]).mean())


METRICS: dict[str, Callable[[Tensor], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}


def chance(metric: str, labels: Sequence[int]) -> float:
    """Return the value of a metric, in [0, 1], for a network that ignores the images.

    It always names the most frequent class, which gives the highest accuracy.

    Args:
        metric: A key of `METRICS`.
        labels: The classes of the images.
    """
    share = max(Counter(labels).values()) / len(labels)
    if metric == "accuracy":
        return share
    present = len(set(labels))
    return 1 / present if metric == "balanced_accuracy" else 2 * share / (1 + share) / present


def spell(metric: str) -> str:
    """Return the name of a metric in words: "balanced accuracy"."""
    return metric.replace("_", " ")


def value_keys(metric: str) -> tuple[str, str]:
    """Return the keys of a metric's value, and of its values by seed, in the result of a coefficient search.

    All metrics of a classification have the keys "accuracy" and "accuracies"; "AP" has "AP" and "AP_by_seed".
    """
    return ("accuracy", "accuracies") if metric in METRICS else (metric, f"{metric}_by_seed")


def named(part: str, accuracy: float | None, metric: str, value: float) -> dict[str, float]:
    """Return the accuracy and the metric on one part of the data as results hold them.

    The keys are "test_accuracy", unless the task has no accuracy, and for another metric "test_balanced_accuracy".
    """
    return {**({} if accuracy is None else {f"{part}_accuracy": accuracy}), f"{part}_{metric}": value}
