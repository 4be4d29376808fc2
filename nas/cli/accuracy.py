"""The lines that `nas train` and `nas search` print about the test of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_accuracy(result: Mapping[str, Any], tested_on: str, other: str) -> None:
    """Print the metric and the accuracy of a test, and the classes far below.

    Args:
        result: A dict with the keys of `Report.to_dict`. Results from before have only the accuracy.
        tested_on: The test images, in words.
        other: The metric on other images, in words.
    """
    from nas.training.tasks.class_report import describe_worst
    from nas.training.tasks.metrics import spell

    metric = result.get("metric", "accuracy")
    if metric == "accuracy":
        print(f"accuracy      {result['test_accuracy']:.1%} {tested_on}, {other}")
    else:
        print(f"metric        {spell(metric)} {result[f'test_{metric}']:.1%} {tested_on}, {other}")
        if "test_accuracy" in result:  # not every task has one
            print(f"accuracy      {result['test_accuracy']:.1%} {tested_on}")
    if before := result.get("float32"):
        drop = 100 * (result[f"test_{metric}"] - before[f"test_{metric}"])
        print(f"precision     {drop:+.1f} points against {before[f'test_{metric}']:.1%} in float32")
    if worst := describe_worst(result):
        print(f"worst classes {worst}")
