"""Profiler: exports layers and networks, measures them on a device and adds the samples to a latency table.

Whole networks of the space are measured between its layers. Some of them calibrate the table, the others certify it.
"""

from __future__ import annotations

import datetime
import random
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices.client import (
    LOCAL,
    Graph,
    RecordedSamples,
    Worker,
    costs_by_column,
    inspect_device,
    latency_of,
    open_worker,
)
from nas.devices.example_inputs import example_inputs
from nas.devices.processor import describe_processor, processor_slug
from nas.devices.runtimes import Runtime, find_runtime, make_runtime, precision_of
from nas.devices.timing import Latency, Protocol, Sample
from nas.errors import NasError
from nas.latency.calibration_networks import LEAST_NETWORKS, calibrate, whole_networks
from nas.latency.rows import (
    HELD_OUT,
    Measurable,
    MeasuredNetwork,
    RepeatedLayer,
    Samples,
    boundary_layer,
    layer_key,
    layer_name,
    row_key,
)
from nas.latency.table import LatencyTable
from nas.networks.condensenet import set_progress
from nas.networks.deployment import deploy
from nas.networks.detectors.post_processing import is_detector, layer_module, with_post_processing
from nas.networks.network import (
    Layer,
    build,
    input_shapes,
    output_maps,
    output_shapes,
)
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.utils.paths import user_cache
from nas.utils.reporting import Reporter

PASSES = 3
"""Each layer is measured in several passes, minutes apart, so that one slow minute does not decide its latency."""
GRAPHS_PER_BATCH = 200
"""Number of layers that the worker holds at once. A crash loses at most one batch of one pass."""
NETWORK_BATCHES = 12
"""Number of batches in which each whole network is measured."""

ENERGY_MS = 20.0
"""Duration in ms of the calls between two readings of the energy meter, if energy is measured."""


@dataclass
class Subject:
    """An exported item and its graph."""

    graph: Graph
    item: Measurable


def table_header(runtime: str, threads: int, device: str = LOCAL) -> dict[str, Any]:
    """Return the header of a new table for a device: everything that decides speed. Raises DeviceError."""
    if device == LOCAL:
        return make_header(describe_processor(), runtime, make_runtime(runtime).version(), threads)
    description, settings = inspect_device(device, runtime, threads)
    return make_header(description, runtime, settings["runtime_version"], threads, settings["host"])


def make_header(device: dict[str, Any], runtime: str, version: str, threads: int, host: str = "") -> dict[str, Any]:
    """Return a table's header; `host` is the host name of a device that is not this machine."""
    return {
        "device": device,
        "runtime": runtime,
        "runtime_version": version,
        "threads": threads,
        "dtype": precision_of(runtime),
        "batch": 1,
        **({"host": host} if host else {}),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def default_table_path(header: dict[str, Any]) -> Path:
    """Return the path in the cache of the table of this device, runtime, version and thread count.

    The path contains the host name of other machines: two devices of one model differ in cooling, clock and load.
    """
    name = f"{header['runtime']}-{header['runtime_version']}-t{header['threads']}-{header['dtype']}.jsonl"
    host = re.sub(r"[^a-z0-9]+", "-", f"-{header.get('host', '')}".lower()).rstrip("-")
    return user_cache() / "latency_tables" / f"{processor_slug(header['device'])}{host}" / name


def profile(
    space: Space,
    table: LatencyTable,
    reporter: Reporter,
    protocol: Protocol | None = None,
    worker: Worker | None = None,
) -> int:
    """Measure the layers of `space` that `table` lacks, and calibrate the table for the space if it is not calibrated.

    An interrupted run can be repeated: it measures what is still missing.

    Args:
        space: The space to cover.
        table: The table to fill.
        reporter: Shows the progress.
        protocol: Settings of the measurement.
        worker: Worker of the device; default: one on this machine.

    Returns:
        The number of layers that were missing.

    Raises:
        DeviceError: The device or the runtime failed.
    """
    protocol = protocol or Protocol()
    layers = list(dict.fromkeys(table.measured_layers(reachable(space))))
    boundaries = boundary_layers(layers)
    missing_repeated = table.missing(list(map(RepeatedLayer, boundaries)), protocol.visits)
    is_calibrated = space.key in table.calibrations and not missing_repeated
    networks = [] if is_calibrated else whole_networks(space)
    if len(networks) < LEAST_NETWORKS:
        networks, boundaries, missing_repeated = [], [], []
    missing = table.missing(layers, protocol.visits)
    missing_boundaries = table.missing(boundaries, protocol.visits)
    missing_items: list[Measurable] = [*dict.fromkeys([*missing, *missing_boundaries]), *missing_repeated]
    # While layers are missing, networks are measured again between them, also after an interrupted run.
    items = [*missing_items, *(networks if missing_items else table.missing(networks, protocol.visits))]
    if items:
        worker = worker or open_worker(LOCAL, table.header["runtime"], table.header["threads"], reporter.say)
        _export_and_measure(items, table, protocol, worker, reporter)
    if networks:
        calibrate(space, table, networks)
    return len(missing)


def time_networks(
    networks: Sequence[MeasuredNetwork], table: LatencyTable, samples: int, worker: Worker, reporter: Reporter
) -> None:
    """Add `samples` interleaved samples of each network to a table of whole networks."""
    _export_and_measure(networks, table, Protocol(visits=samples, warmup=2, repeats=4), worker, reporter)


def _export_and_measure(
    items: Sequence[Measurable], table: LatencyTable, protocol: Protocol, worker: Worker, reporter: Reporter
) -> None:
    with tempfile.TemporaryDirectory(prefix="nas-profile-") as folder, worker as opened:
        table.header.setdefault("worker", opened.settings)
        table.header.setdefault("protocol", protocol.to_dict())
        table.append(())  # fails now, not after hours of work, if the table is not writable
        if isinstance(opened, RecordedSamples):
            _take_recorded(items, opened, table)
            return
        runtime = find_runtime(table.header["runtime"])
        with one_thread(), reporter.task("exporting", len(items)) as advance:
            subjects = []
            for item in items:
                subjects.append(Subject(_export(runtime, item, Path(folder)), item))
                advance(1)
        _measure_all(subjects, table, opened, protocol, reporter)


def _take_recorded(items: Sequence[Measurable], worker: RecordedSamples, table: LatencyTable) -> None:
    """Append the recorded samples of `items` that the table lacks. Raises DeviceError if an item was not recorded."""
    rows, costs = [], {}
    for item in items:
        key = row_key(item)
        known = {at for at, _ in table.rows.get(key, ())}
        samples = [sample for sample in worker.recorded(_graph_key(item)) if round(sample.at, 3) not in known]
        if samples:
            rows.append((item, _median_times(samples)))
            costs[key] = costs_by_column(samples)
    table.append(rows, costs)


def _median_times(samples: Sequence[Sample]) -> Samples:
    return [(sample.at, median(sample.ms)) for sample in samples]


def _graph_key(item: Measurable) -> str:
    """Return the key of an item's graph, the same in each process."""
    if isinstance(item, RepeatedLayer):
        return f"{layer_key(item.layer)}-twice"
    return layer_key(item) if isinstance(item, Layer) else item.arch.digest


def _batch_shapes(item: Measurable) -> tuple[tuple[int, ...], ...]:
    if isinstance(item, MeasuredNetwork):
        return ((1, *item.arch.input_shape),)
    return tuple((1, *shape) for shape in input_shapes(item.layer if isinstance(item, RepeatedLayer) else item))


def _export(runtime: Runtime, item: Measurable, folder: Path) -> Graph:
    """Export an item, with weights from a fixed seed, and return its graph."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _whole_network(item.arch, runtime) if isinstance(item, MeasuredNetwork) else _layer_graph(item)
    set_progress(model, 1.0)
    graph = Graph(_graph_key(item), str(folder / f"{_graph_key(item)}{runtime.suffix}"), _batch_shapes(item))
    try:
        runtime.export(deploy(model), list(map(torch.from_numpy, example_inputs(graph.shapes))), Path(graph.path))
    except NasError as error:
        layer = item.layer if isinstance(item, RepeatedLayer) else item
        name = layer_name(layer.spec, layer.in_shape) if isinstance(layer, Layer) else f"network {layer.arch.digest}"
        raise type(error)(str(error), where=name) from error
    return graph


def _whole_network(arch: Architecture, runtime: Runtime) -> nn.Module:
    """Return a network with fresh weights; a detector with its post-processing, if the runtime can run it."""
    network = build(arch)
    return with_post_processing(arch, network) if runtime.selects_boxes and is_detector(arch) else network


def _layer_graph(item: Layer | RepeatedLayer) -> nn.Module:
    layer = item.layer if isinstance(item, RepeatedLayer) else item
    blocks = [layer_module(layer) for _ in range(2 if isinstance(item, RepeatedLayer) else 1)]
    many_inputs = isinstance(layer.in_shape[0], tuple)
    block = blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)
    return LayerGraph(block, many_inputs, len(output_shapes(layer)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread; more threads slow down the tracing of small graphs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def boundary_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that, alone and repeated, measure the savings at the boundaries of `layers`."""
    shapes = dict.fromkeys(shape for layer in layers for shape in output_maps(layer))
    return [boundary_layer(shape) for shape in shapes]


class LayerGraph(nn.Module):
    """One block as a graph, with one input tensor per feature map that it reads, and `outputs` output tensors."""

    def __init__(self, block: nn.Module, many_inputs: bool, outputs: int = 1):
        super().__init__()
        self.block = block
        self.many_inputs, self.outputs = many_inputs, outputs

    def forward(self, *maps: Tensor) -> Any:
        """[(1, C, H, W), ...] -> the block's output."""
        return self.block(list(maps)) if self.many_inputs else self.block(*maps)


def _measure_all(
    subjects: Sequence[Subject], table: LatencyTable, worker: Worker, protocol: Protocol, reporter: Reporter
) -> None:
    batches = schedule(subjects, PASSES)
    pass_protocol = replace(protocol, visits=-(-protocol.visits // PASSES))
    with reporter.task(worker.activity, pass_protocol.visits * sum(map(len, batches))) as advance:
        for number, batch in enumerate(batches):
            by_key = {subject.graph.key: subject for subject in batch if _needs_samples(subject.item, table, protocol)}
            advance(pass_protocol.visits * (len(batch) - len(by_key)))
            is_first_pass = number < len(batches) // PASSES
            graphs = [_with_memory(subject, table) if is_first_pass else subject.graph for subject in by_key.values()]
            samples: dict[str, list[Sample]] = {}
            for sample in worker.measure(graphs, pass_protocol, seed=number):
                samples.setdefault(sample.key, []).append(sample)
                advance(1)
            costs = {row_key(by_key[key].item): costs_by_column(seen) for key, seen in samples.items()}
            for subject in by_key.values() if is_first_pass else ():
                costs[row_key(subject.item)]["size_bytes"] = [float(subject.graph.size_bytes)]
            table.append(
                ((by_key[key].item, _median_times(seen)) for key, seen in samples.items()),
                costs,
            )


def _needs_samples(item: Measurable, table: LatencyTable, protocol: Protocol) -> bool:
    return isinstance(item, MeasuredNetwork) or table.sample_count(item) < protocol.visits


def _with_memory(subject: Subject, table: LatencyTable) -> Graph:
    """Return the graph; for a held-out network without a peak memory yet, ask for it as well."""
    is_held_out = isinstance(subject.item, MeasuredNetwork) and subject.item.role == HELD_OUT
    return replace(subject.graph, memory=is_held_out and table.cost("memory_bytes", subject.item) is None)


def schedule(subjects: Sequence[Subject], passes: int) -> list[list[Subject]]:
    """Return batches that contain each layer once per pass, in random order, and each network in some batches."""
    layers = [subject for subject in subjects if not isinstance(subject.item, MeasuredNetwork)]
    networks = [subject for subject in subjects if isinstance(subject.item, MeasuredNetwork)]
    rng = random.Random(0)
    batches: list[list[Subject]] = []
    for _ in range(passes):
        rng.shuffle(layers)
        batches += [
            layers[start : start + GRAPHS_PER_BATCH] for start in range(0, max(len(layers), 1), GRAPHS_PER_BATCH)
        ]
    stride = max(1, len(batches) // NETWORK_BATCHES)
    return [batch + networks[number % stride :: stride] for number, batch in enumerate(batches)]


def measure_networks(
    archs: Sequence[Architecture],
    runtime_name: str,
    threads: int,
    reporter: Reporter,
    device: str = LOCAL,
    seed: int = 0,
    memory: bool = True,
) -> list[Latency]:
    """Return the latency of each network, exported on this machine and measured on the device, interleaved.

    Args:
        archs: The networks.
        runtime_name: Name of the runtime.
        threads: Number of runtime threads.
        reporter: Shows the progress.
        device: URL of the device, or "local".
        seed: Seed of the order of the samples.
        memory: Whether to measure the peak memory too, each in a process of its own.
    """
    protocol = Protocol(visits=30, warmup=2, repeats=4, energy_ms=ENERGY_MS)
    runtime = find_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-measure-") as folder,
        open_worker(device, runtime_name, threads, reporter.say) as worker,
        reporter.task("measuring networks", len(archs) * protocol.visits) as advance,
    ):
        with one_thread():
            graphs = [_export(runtime, MeasuredNetwork("", HELD_OUT, arch), Path(folder)) for arch in archs]
        samples: dict[str, list[Sample]] = {graph.key: [] for graph in graphs}
        for sample in worker.measure([replace(graph, memory=memory) for graph in graphs], protocol, seed):
            samples[sample.key].append(sample)
            advance(1)
        return [latency_of(samples[graph.key], graph) for graph in graphs]
