"""The balance of a data set: messages about classes that have few images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nas.training.tasks.class_report import FEW_IMAGES, list_some
from nas.training.tasks.splits import ImageData
from nas.utils.reporting import Reporter

IMBALANCED = 4
"""Data are imbalanced if the largest class has at least this many times the images of the smallest."""


def report_balance(data: ImageData, metric: str, reporter: Reporter) -> None:
    """Warn if the accuracy can hide a class, and report classes with few images to validate or test on.

    The warning is given if the metric is the accuracy, and the data set or one of its parts is imbalanced.
    """
    parts = {
        "images": (*data.train.labels, *data.validation.labels, *data.test.labels),
        "training images": data.train.labels,
        "validation images": data.validation.labels,
        "test images": data.test.labels,
    }
    for name, labels in parts.items() if metric == "accuracy" else ():
        if rare := _rare_classes(labels, data.classes):
            subject = "the class" if len(rare) == 1 else "the classes"
            shown = [f"'{each}' ({count} of {len(labels)} {name})" for each, count in rare]
            reporter.warn(f"accuracy can hide {subject} {list_some(shown)}; consider --metric balanced_accuracy")
            break
    for name in ("validation images", "test images"):
        counts = Counter(parts[name])
        few = [f"'{each}' has {counts[label]}" for label, each in enumerate(data.classes) if counts[label] < FEW_IMAGES]
        if few:
            reporter.say(f"few {name}: {list_some(few)}; the results for them are uncertain")


def _rare_classes(labels: Sequence[int], classes: Sequence[str]) -> list[tuple[str, int]]:
    """Return the classes that have at most a quarter of the images of the largest, the rarest first."""
    counts = Counter(labels)
    most = max(counts.values())
    rare = [(each, counts[label]) for label, each in enumerate(classes) if IMBALANCED * counts[label] <= most]
    return sorted(rare, key=lambda pair: pair[1])
