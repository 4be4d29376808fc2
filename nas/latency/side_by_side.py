"""Networks beside each other: exported files of one or several runtimes, measured alternately."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.devices.client import Graph, latency_of, open_worker
from nas.devices.example_inputs import example_inputs
from nas.devices.runtimes import RUNTIMES, find_runtime, make_runtime
from nas.devices.timing import Latency, Protocol, Sample
from nas.errors import ExportError, UsageError
from nas.latency.profiler import ENERGY_MS
from nas.networks.deployment import deploy
from nas.networks.onnx_graph import read_graph
from nas.utils.reporting import Reporter

ROUNDS = 5
"""The runtimes take turns this often, so that a slow minute meets all of them."""
NODE_RUNS = 30
"""The profiler of a runtime times this many inferences."""
PROTOCOL = Protocol(visits=8, warmup=2, repeats=4)
"""The measurement of a round; the first one measures memory and energy too."""


@dataclass(frozen=True)
class Subject:
    """A file to measure.

    Attributes:
        key: Its key, which no other subject has.
        path: The file.
        shapes: The shapes of its inputs, with batch.
        runtime: The runtime that runs it.
    """

    key: str
    path: Path
    shapes: tuple[tuple[int, ...], ...]
    runtime: str

    @property
    def graph(self) -> Graph:
        """The graph that a worker measures."""
        return Graph(self.key, str(self.path), self.shapes)


def check_profiler(runtime: str) -> None:
    """Raise UsageError if a runtime has no profiler of a graph's nodes."""

    def has_profiler(name: str) -> bool:
        found = find_runtime(name)
        return hasattr(found, "node_times") and getattr(found, "device", "cpu") == "cpu"

    if not has_profiler(runtime):
        able = ", ".join(filter(has_profiler, RUNTIMES))
        raise UsageError(f"times no nodes; {able} do", key="layers", value=runtime)


def slowest_nodes(subject: Subject, threads: int, count: int) -> list[dict[str, Any]]:
    """Return the slowest nodes of a file, {"name", "op", "ms", "share"}, as the runtime's own profiler times them."""
    runtime: Any = make_runtime(subject.runtime)
    nodes = runtime.node_times(str(subject.path), example_inputs(subject.shapes), threads, NODE_RUNS)
    total = sum(node["ms"] for node in nodes) or 1.0
    slowest = sorted(nodes, key=lambda node: -node["ms"])[:count]
    return [{**node, "share": node["ms"] / total} for node in slowest]


def onnx_subject(key: str, path: Path, runtime: str, folder: Path) -> Subject:
    """Return a copy of an ONNX file as a subject.

    Raises UsageError if the runtime reads none, ExportError for a bad file.
    """
    if find_runtime(runtime).suffix != ".onnx":
        able = ", ".join(name for name in RUNTIMES if find_runtime(name).suffix == ".onnx")
        raise UsageError(f"does not run ONNX files such as {path}; {able} do", key="runtime", value=runtime)
    graph = read_graph(path)
    for name, kind in graph.types.items():
        if kind != "FLOAT":
            raise ExportError(f"the input '{name}' is {kind.lower()}; only float32 inputs can be measured", where=path)
    copied = folder / f"{key}.onnx"
    copied.write_bytes(graph.model.SerializeToString())
    return Subject(key, copied, tuple(graph.inputs.values()), runtime)


def exported_subject(
    key: str, network: nn.Module, shape: tuple[int, int, int], runtime: str, folder: Path, images: Tensor | None = None
) -> Subject:
    """Export a network to a folder and return the file as a subject.

    Args:
        key: The key of the subject.
        network: The network.
        shape: The shape (C, H, W) of an image.
        runtime: The runtime.
        folder: The folder.
        images: Normalized images (N, C, H, W), which decide the ranges of int8; None: random numbers do.

    Raises:
        ExportError: The runtime cannot express the network.
    """
    target, shapes = find_runtime(runtime), ((1, *shape),)
    given = [images] if images is not None and target.precision == "int8" else None
    path = folder / f"{key}{target.suffix}"
    target.export(deploy(network), given or list(map(torch.from_numpy, example_inputs(shapes))), path)
    return Subject(key, path, shapes, runtime)


def exported_file(key: str, file: Path, shape: tuple[int, int, int], runtime: str, folder: Path) -> Subject:
    """Return a copy of an exported file as a subject: on a device, files with the same name would be one file."""
    path = folder / f"{key}{find_runtime(runtime).suffix}"
    shutil.copyfile(file, path)
    if file.suffix == ".xml":
        shutil.copyfile(file.with_suffix(".bin"), path.with_suffix(".bin"))
    return Subject(key, path, ((1, *shape),), runtime)


def measure_side_by_side(
    subjects: Sequence[Subject], threads: int, device: str, reporter: Reporter
) -> Mapping[str, Latency]:
    """Return the latency of each subject by its key, with peak memory and energy where the system reports them.

    The subjects of a runtime are measured interleaved, and the runtimes in turns. Raises DeviceError.
    """
    runtimes = list(dict.fromkeys(subject.runtime for subject in subjects))
    samples: dict[str, list[Sample]] = {subject.key: [] for subject in subjects}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(open_worker(device, name, threads, reporter.say)) for name in runtimes}
        total = ROUNDS * PROTOCOL.visits * len(subjects)
        advance = stack.enter_context(reporter.task("measuring side by side", total))
        for number in range(ROUNDS):
            for name, worker in workers.items():
                graphs = [replace(each.graph, memory=number == 0) for each in subjects if each.runtime == name]
                protocol = PROTOCOL if number else replace(PROTOCOL, energy_ms=ENERGY_MS)
                for sample in worker.measure(graphs, protocol, number):
                    samples[sample.key].append(sample)
                    advance(1)
    return {subject.key: latency_of(samples[subject.key], subject.graph) for subject in subjects}
