"""Networks beside each other: exported files of one or several runtimes, measured alternately."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.devices.client import Graph, open_worker
from nas.devices.example_inputs import example_inputs
from nas.devices.runtimes import RUNTIMES, find_runtime
from nas.devices.timing import Latency, Protocol, Sample, summarize
from nas.errors import ExportError, UsageError
from nas.networks.deployment import deploy
from nas.networks.onnx_graph import read_graph
from nas.utils.reporting import Reporter

ROUNDS = 5
"""The runtimes take turns this often, so that a slow minute meets all of them."""
PROTOCOL = Protocol(visits=8, warmup=2, repeats=4)
"""The measurement of a round."""


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
    """Return the latency of each subject by its key, with peak memory where the system reports it.

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
                for sample in worker.measure(graphs, PROTOCOL, number):
                    samples[sample.key].append(sample)
                    advance(1)
    return {subject.key: _summary(samples[subject.key], subject.graph) for subject in subjects}


def _summary(samples: Sequence[Sample], graph: Graph) -> Latency:
    memory = [sample.costs["memory_bytes"] for sample in samples if "memory_bytes" in sample.costs]
    found = summarize([sample.ms for sample in samples])
    return replace(found, size_bytes=graph.size_bytes, memory_bytes=int(memory[0]) if memory else None)
