"""The metric of an exported file on the test images, beside that of the network that was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture
from nas.devices.runtimes import find_runtime
from nas.networks.exported_folder import CARD
from nas.training.deployed_network import DeployedNetwork, must_deploy
from nas.training.tasks.base import Report, Task
from nas.utils.files import read_json, write_json
from nas.utils.reporting import Reporter

LARGEST_DIFFERENCE = 1e-4
"""An exported file whose metric differs by more is reported."""


def exported_facts(
    task: Task, folder: Path, arch: Architecture, runtime: str, report: Report, reporter: Reporter
) -> dict[str, Any]:
    """Return {"exported": ...}, the metric of an exported file and its difference; {} if the task does not test it.

    The card of the folder gets the same entry.

    Args:
        task: The task.
        folder: The exported folder.
        arch: The exported architecture.
        runtime: The runtime. A file that does not compute in float32 is tested too.
        report: The test of the network before its export, in the precision of the runtime.
        reporter: Receives a warning if the metrics differ.
    """
    found, tested_in = task.evaluate_exported(folder, arch.resolution), "onnxruntime"
    if found is None and must_deploy(runtime):
        tested_in = runtime
        file = folder / f"model{find_runtime(runtime).suffix}"
        network = DeployedNetwork(runtime, file, arch.input_shape)
        found = task.evaluate(network, task.test_set(arch.resolution), torch.device("cpu"))
    if found is None:
        return {}
    difference = found.metric_value - report.metric_value
    if not abs(difference) <= LARGEST_DIFFERENCE:
        reporter.warn(f"{folder}: {task.metric} of the exported network differs by {difference:+.4f}")
    facts = {"exported": {"runtime": tested_in, task.metric: found.metric_value, "difference": difference}}
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
