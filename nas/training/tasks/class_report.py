"""The result of a test by class: recall, precision, support and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.training.tasks.confusion_plot import draw_confusion
from nas.training.tasks.metrics import METRICS, accuracy, named
from nas.utils.reporting import Reporter

FEW_IMAGES = 5
"""With fewer images, the recall of a class is uncertain."""
UNLIKELY = 0.01
"""A class with few images is still judged if missing all of them by chance is less likely than this."""
FAR_BELOW = 0.5
"""A class is far below the others if its recall is less than this share of the accuracy or of the metric."""
NAMED_CLASSES = 3
"""The messages name this many classes and count the others."""


@dataclass(frozen=True)
class ClassReport:
    """What a test has shown.

    Attributes:
        metric: A key of `METRICS`.
        classes: The names of the classes.
        confusion: The confusion matrix (C, C) of counts: true classes in rows, predicted ones in columns.
        pairs: C * true class + predicted class of each image (N,), in the order of the images; None if unknown.
    """

    picture = "confusion.png"

    metric: str
    classes: tuple[str, ...]
    confusion: Tensor
    pairs: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """The share of correctly classified images."""
        return accuracy(self.confusion)

    @property
    def metric_value(self) -> float:
        """The metric, in [0, 1]."""
        return METRICS[self.metric](self.confusion)

    def by_class(self) -> dict[str, dict[str, Any]]:
        """Return recall, precision and support of each class.

        The recall of a class without images is None, and so is the precision of a class that was never predicted.
        """
        hits, supports, predicted = (
            counts.tolist() for counts in (self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0))
        )
        return {
            name: {
                "recall": hits[index] / supports[index] if supports[index] else None,
                "precision": hits[index] / predicted[index] if predicted[index] else None,
                "support": supports[index],
            }
            for index, name in enumerate(self.classes)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as results hold it. The confusion matrix is {true: {predicted: count}} without zeros."""
        rows = self.confusion.tolist()
        return {
            "metric": self.metric,
            **named("test", self.accuracy, self.metric, self.metric_value),
            "test_images": int(self.confusion.sum()),
            "by_class": self.by_class(),
            "confusion": {
                name: {self.classes[column]: count for column, count in enumerate(row) if count}
                for name, row in zip(self.classes, rows, strict=True)
            },
        }

    def warn(self, reporter: Reporter) -> None:
        """Warn if the metric is the accuracy and some class is far below it."""
        if self.metric == "accuracy" and (worst := describe_worst(self.to_dict())):
            reporter.warn(
                f"the accuracy of {self.accuracy:.1%} hides classes of which few images are recognized: {worst}; "
                f"consider --metric balanced_accuracy or --class-weights balanced"
            )

    def draw(self, title: str, path: Path) -> None:
        """Draw the confusion matrix to a PNG file."""
        draw_confusion(self.confusion, self.classes, title, path)


def describe_worst(result: Mapping[str, Any]) -> str:
    """Return the classes far below the others: "'rare' (2 of 10 found)"; "" if there are none.

    Their recall is less than half of the accuracy or of the metric. Classes with too few images to judge are left out.

    Args:
        result: A dict with the keys of `ClassReport.to_dict`. Results from before have no "by_class".
    """
    if "by_class" not in result or "test_accuracy" not in result:
        return ""
    level = max(result["test_accuracy"], result[f"test_{result.get('metric', 'accuracy')}"])

    def is_judged(support: int) -> bool:
        return support >= FEW_IMAGES or (1 - level) ** support < UNLIKELY

    found = [
        (each["recall"], name, each["support"])
        for name, each in result["by_class"].items()
        if is_judged(each["support"]) and each["recall"] is not None and each["recall"] < FAR_BELOW * level
    ]
    shown = [f"'{name}' ({recall * support:.0f} of {support} found)" for recall, name, support in sorted(found)]
    return list_some(shown)


def list_some(words: list[str], most: int = NAMED_CLASSES) -> str:
    """Return the first words as a list, and the number of the others."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
