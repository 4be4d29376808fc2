"""The latency of one exported graph on a device, and of its nodes where the runtime reports them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.architecture import RGB_SQUARE
from nas.devices.client import LOCAL, Graph, latency_of, open_worker
from nas.devices.example_inputs import example_inputs
from nas.devices.runtimes import RUNTIMES, find_runtime, make_runtime
from nas.devices.timing import Latency, Protocol, Sample, summarize
from nas.errors import DeviceError, ExportError, LostError, UsageError, one_line
from nas.networks.deployment import deploy
from nas.networks.detectors.export import file_of
from nas.networks.exported_folder import CARD, load_exported
from nas.networks.onnx_graph import OnnxGraph, read_graph
from nas.utils.files import read_json
from nas.utils.reporting import Reporter

PROTOCOL = Protocol(visits=30, warmup=2, repeats=4)
NODE_RUNS = 30
"""Number of inferences from which the times of nodes are taken."""
WITH_NODE_TIMES = "onnxruntime"
"""The runtime that reports the times of nodes."""


@dataclass(frozen=True)
class GraphLatency:
    """The latency of a graph.

    Attributes:
        latency: The latency of the whole graph.
        nodes: {"name", "op", "ms"} of each node in the order of execution; empty if the runtime does not report them.
        notes: What was assumed about the file.
    """

    latency: Latency
    nodes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def measure_onnx(path: Path, runtime: str, threads: int, device: str, reporter: Reporter) -> GraphLatency:
    """Return the latency of an ONNX file at batch size 1, and of its nodes on this machine's ONNX Runtime.

    Raises:
        UsageError: The runtime does not run ONNX files.
        ExportError: The file cannot be read, or an input is not float32.
        DeviceError: The runtime cannot run it.
    """
    if find_runtime(runtime).suffix != ".onnx":
        able = ", ".join(name for name in RUNTIMES if find_runtime(name).suffix == ".onnx")
        raise UsageError(f"does not run ONNX files; {able} do", key="runtime", value=runtime)
    if device == LOCAL:
        make_runtime(runtime)
    graph = read_graph(path)
    for name, kind in graph.types.items():
        if kind != "FLOAT":
            raise ExportError(f"the input '{name}' is {kind.lower()}; only float32 inputs can be measured", where=path)
    with tempfile.TemporaryDirectory(prefix="nas-graph-") as folder:
        file = Path(folder) / "graph.onnx"
        _write_one_file(graph, file, path)
        try:
            latency = _measure(file, tuple(graph.inputs.values()), runtime, threads, device, reporter)
        except LostError:
            raise
        except DeviceError as error:
            raise DeviceError(error.rule.replace(str(file), path.name), where=error.where or path) from error
        nodes = []
        if runtime == WITH_NODE_TIMES and device == LOCAL:
            nodes = _node_times(file, graph, threads)
    return GraphLatency(latency, tuple(nodes), graph.notes)


def measure_exported(folder: Path, runtime: str, threads: int, device: str, reporter: Reporter) -> GraphLatency:
    """Return the latency of the network in an exported folder.

    Measures the folder's file for the runtime. If it has none, exports the network again; model.py is not executed.

    Raises:
        RunError: The folder is broken.
        DeviceError: The runtime cannot run the network.
    """
    target = find_runtime(runtime)
    file = folder / f"model{target.suffix}"
    is_single = "onnx" not in (read_json(folder / CARD) if (folder / CARD).is_file() else {})
    if target.suffix == ".onnx" and file.is_file() and is_single:
        return measure_onnx(file, runtime, threads, device, reporter)
    if device == LOCAL:
        make_runtime(runtime)
    arch, model, _ = load_exported(folder)
    shape = (1, *arch.input_shape)
    with tempfile.TemporaryDirectory(prefix="nas-graph-") as place:
        notes = []
        if not file.is_file() or (target.suffix == ".onnx" and not is_single):
            of_one = " of one image" if file.is_file() else ""
            notes = [f"{folder} has no {file.name}{of_one}: its network was exported again"]
            file = Path(place) / file.name
            target.export(deploy(model), list(map(torch.from_numpy, example_inputs([shape]))), file)
        return GraphLatency(_measure(file, (shape,), runtime, threads, device, reporter), (), tuple(notes))


@dataclass(frozen=True)
class DetectorLatency:
    """The latency of a detector in ms, measured alternately without and with post-processing.

    Attributes:
        network: Of the network alone.
        both: Of the network and its post-processing.
    """

    network: float
    both: float

    @property
    def post(self) -> float:
        """The latency that the post-processing adds."""
        return self.both - self.network

    def to_dict(self) -> dict[str, float]:
        """Return the three latencies as results hold them."""
        return {"network": self.network, "post_processing": self.post, "both": self.both}


def measure_detector(
    folder: Path, runtime: str, threads: int, device: str, reporter: Reporter
) -> DetectorLatency | None:
    """Return the latency of an exported detector without and with post-processing; None without such files.

    Raises DeviceError if the runtime cannot run them.
    """
    files = folder / f"model{find_runtime(runtime).suffix}", file_of(folder, runtime)
    if not all(file.is_file() for file in files):
        return None
    card = read_json(folder / CARD)  # the cards of older exports, of squares of RGB, have no "input"
    shape = card["input"].values() if "input" in card else RGB_SQUARE.shape(int(card["resolution"]))
    shapes = ((1, *shape),)
    graphs = [Graph(file.stem, str(file), shapes) for file in files]
    verb = "measuring with and without post-processing"
    samples = _measured(graphs, runtime, threads, device, reporter, verb)
    network, both = (summarize([sample.ms for sample in samples[graph.key]]).median for graph in graphs)
    return DetectorLatency(network, both)


def _write_one_file(graph: OnnxGraph, file: Path, source: Path) -> None:
    """Write the graph with its fixed batch size and its external data as one file, because one path is measured."""
    try:
        file.write_bytes(graph.model.SerializeToString())
    except Exception as error:  # protobuf raises its own kinds above 2 GB
        raise ExportError(f"cannot be written as one file: {one_line(error)}", where=source) from error


def _measure(
    file: Path, shapes: tuple[tuple[int, ...], ...], runtime: str, threads: int, device: str, reporter: Reporter
) -> Latency:
    graph = Graph("graph", str(file), shapes, memory=True)
    return latency_of(_measured([graph], runtime, threads, device, reporter)[graph.key], graph)


def _measured(
    graphs: Sequence[Graph], runtime: str, threads: int, device: str, reporter: Reporter, verb: str = "measuring"
) -> dict[str, list[Sample]]:
    """Return the samples of each graph by its key, taken alternately."""
    samples: dict[str, list[Sample]] = {graph.key: [] for graph in graphs}
    with (
        open_worker(device, runtime, threads, reporter.say) as worker,
        reporter.task(verb, len(graphs) * PROTOCOL.visits) as advance,
    ):
        for sample in worker.measure(graphs, PROTOCOL, 0):
            samples[sample.key].append(sample)
            advance(1)
    return samples


def _node_times(file: Path, graph: OnnxGraph, threads: int) -> list[dict[str, Any]]:
    from nas.devices.runtimes.onnxruntime import node_times

    try:
        return node_times(str(file), example_inputs(list(graph.inputs.values())), threads, NODE_RUNS)
    except Exception as error:  # onnxruntime raises many kinds
        raise DeviceError(f"onnxruntime cannot run it: {one_line(error)}") from error
