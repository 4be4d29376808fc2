"""The lines that `nas train` and `nas search` print about the test of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_accuracy(result: Mapping[str, Any], tested_on: str, other: str) -> None:
    """Print the metric and the accuracy of a test, and the classes far below.

    Args:
        result: A dict with the keys of `ClassReport.to_dict`. Results from before have only the accuracy.
        tested_on: The test images, in words.
        other: The metric on other images, in words.
    """
    from nas.training.tasks.class_report import describe_worst
    from nas.training.tasks.metrics import spell

    metric, tested = result.get("metric", "accuracy"), f"{result['test_accuracy']:.1%} {tested_on}"
    if metric == "accuracy":
        print(f"accuracy      {tested}, {other}")
    else:
        print(f"metric        {spell(metric)} {result[f'test_{metric}']:.1%} {tested_on}, {other}")
        print(f"accuracy      {tested}")
    if worst := describe_worst(result):
        print(f"worst classes {worst}")
