"""Class weights: how much an image of each class counts in the training loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence


def unweighted(labels: Sequence[int], num_classes: int) -> None:
    """Return None: every image counts the same."""


def balanced(labels: Sequence[int], num_classes: int) -> list[float]:
    """Return n / (C * n_c) for each class, scikit-learn's "balanced": all classes together count the same.

    n is the number of labels, n_c the number of class c, and C the number of classes that occur. A class that does not
    occur has weight 0.
    """
    counts = Counter(labels)
    return [len(labels) / (len(counts) * counts[label]) if counts[label] else 0.0 for label in range(num_classes)]


CLASS_WEIGHTS: dict[str, Callable[[Sequence[int], int], list[float] | None]] = {
    "none": unweighted,
    "balanced": balanced,
}
