"""The metric of an exported file on the test images, beside that of the network that was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.networks.export import CARD
from nas.training.tasks.base import Report, Task
from nas.utils.files import read_json, write_json
from nas.utils.reporting import Reporter

LARGEST_DIFFERENCE = 1e-4
"""An exported file whose metric differs by more is reported."""


def exported_facts(task: Task, folder: Path, resolution: int, report: Report, reporter: Reporter) -> dict[str, Any]:
    """Return {"exported": ...}, the metric of an exported file and its difference; {} if the task does not test it.

    The card of the folder gets the same entry.

    Args:
        task: The task.
        folder: The exported folder.
        resolution: Its input resolution in pixels.
        report: The test of the network before its export.
        reporter: Receives a warning if the metrics differ.
    """
    found = task.evaluate_exported(folder, resolution)
    if found is None:
        return {}
    difference = found.metric_value - report.metric_value
    if not abs(difference) <= LARGEST_DIFFERENCE:
        reporter.warn(f"{folder}: {task.metric} of the exported network differs by {difference:+.4f}")
    facts = {"exported": {task.metric: found.metric_value, "difference": difference}}
    add_to_card(folder, facts)
    return facts


def add_to_card(folder: Path, facts: dict[str, Any]) -> None:
    """Add entries to the card of an exported folder. An entry that is a mapping there is extended."""
    if not facts:
        return
    card = read_json(folder / CARD)
    for key, value in facts.items():
        card[key] = {**card[key], **value} if isinstance(card.get(key), dict) else value
    write_json(folder / CARD, card)
