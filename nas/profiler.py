"""Measures layers and networks on a device: build, deploy, export, visit; they go into a latency table.

Whole networks of the space are visited between the layers: some calibrate the sum, others certify it.
"""

from __future__ import annotations

import datetime
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.condensing import set_progress
from nas.device import DTYPE, Graph, LocalWorker, describe_processor, make_runtime, processor_slug
from nas.latency import LatencyTable, MeasuredNetwork, seam_layer
from nas.lattice import reachable
from nas.network import Layer, build, deploy, in_channels, input_shapes, make_block
from nas.profiling import Latency, Protocol, middle, summary
from nas.progress import Reporter
from nas.resources import user_cache
from nas.runtimes import Runtime
from nas.space import Space
from nas.witnesses import LEAST_NETWORKS, calibrate, whole_networks

PASSES = 3
"""A layer's visits are spread over several passes, minutes apart, so that a slow minute does not decide."""
GRAPHS_PER_BATCH = 200
"""How many layers the worker holds at once; a crash loses at most one batch of one pass."""
NETWORK_BATCHES = 6
"""In how many batches each whole network takes part."""


def table_header(runtime: str, threads: int) -> dict[str, Any]:
    """Return what decides speed here: the header of a table that is measured now."""
    return {
        "device": describe_processor(),
        "runtime": runtime,
        "runtime_version": make_runtime(runtime).version(),
        "threads": threads,
        "dtype": DTYPE,
        "batch": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def default_table_path(header: dict[str, Any]) -> Path:
    """Return where the table of this device and runtime lies: one file for each combination that decides speed."""
    name = f"{header['runtime']}-{header['runtime_version']}-t{header['threads']}-{header['dtype']}.jsonl"
    return user_cache() / "latency_tables" / processor_slug(header["device"]) / name


def profile(space: Space, table: LatencyTable, reporter: Reporter, protocol: Protocol | None = None) -> int:
    """Measure those layers of `space` that `table` lacks, here, and return how many there were.

    A table that was not calibrated for the space is: whole networks are measured along. Continues where an
    interrupted run stopped. Raises DeviceError where the runtime fails.
    """
    protocol = protocol or Protocol()
    layers = reachable(space)
    seams = seam_layers(layers)
    pairs = [Pair(layer) for layer in seams if table.pair_visits(layer) < protocol.visits]
    calibrated = space.name in table.calibrations and not pairs
    networks = [] if calibrated else whole_networks(space)
    if len(networks) < LEAST_NETWORKS:
        networks, seams, pairs = [], [], []
    missing = table.missing(layers, protocol.visits)
    alone = table.missing(seams, protocol.visits)
    waiting = table.missing_networks(networks, protocol.visits)
    whats: list[Layer | Pair | MeasuredNetwork] = [*dict.fromkeys([*missing, *alone]), *pairs, *waiting]
    if whats:
        _export_and_measure(whats, table, protocol, reporter)
    if networks:
        calibrate(space, table)
    return len(missing)


def _export_and_measure(
    whats: Sequence[Layer | Pair | MeasuredNetwork], table: LatencyTable, protocol: Protocol, reporter: Reporter
) -> None:
    runtime_name, threads = table.header["runtime"], table.header["threads"]
    with (
        tempfile.TemporaryDirectory(prefix="nas-profile-") as folder,
        LocalWorker(runtime_name, threads) as worker,
    ):
        table.header.setdefault("worker", worker.settings)
        table.header.setdefault("protocol", protocol.to_dict())
        runtime = make_runtime(runtime_name)
        with one_thread(), reporter.task("exporting", len(whats)) as advance:
            subjects = []
            for index, what in enumerate(whats):
                subjects.append(Subject(_export(runtime, what, Path(folder), index), what))
                advance(1)
        _measure_all(subjects, table, worker, protocol, reporter)


def _export(runtime: Runtime, what: Layer | Pair | MeasuredNetwork, folder: Path, index: int) -> Graph:
    if isinstance(what, MeasuredNetwork):
        return _export_network(runtime, what.arch, folder, index)
    return _export_layer(runtime, what, folder, index)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: tracing small graphs, several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class Subject:
    """What is measured: a layer or a whole network, exported."""

    graph: Graph
    what: Layer | Pair | MeasuredNetwork


@dataclass(frozen=True)
class Pair:
    """A layer twice in series: beside the layer alone it tells what a seam saves."""

    layer: Layer


def seam_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that tell, alone and as pairs, what the seams between `layers` save."""
    shapes = dict.fromkeys(layer.out_shape for layer in layers if len(layer.out_shape) == 3)
    return [seam_layer(shape) for shape in shapes]


def _export_layer(runtime: Runtime, what: Layer | Pair, folder: Path, index: int) -> Graph:
    layer = what.layer if isinstance(what, Pair) else what
    shapes = tuple((1, *shape) for shape in input_shapes(layer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [make_block(layer.spec, in_channels(layer)) for _ in range(2 if isinstance(what, Pair) else 1)]
    several = isinstance(layer.in_shape[0], tuple)
    model = LayerGraph(blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks), several)
    set_progress(model, 1.0)
    path = folder / f"{index}{runtime.suffix}"
    runtime.export(deploy(model), [torch.zeros(shape) for shape in shapes], path)
    return Graph(str(index), str(path), shapes)


class LayerGraph(nn.Module):
    """One block as a graph of its own, with a tensor for each feature map that it reads."""

    def __init__(self, block: nn.Module, several: bool):
        super().__init__()
        self.block = block
        self.several = several

    def forward(self, *maps: Tensor) -> Any:
        """[(1, C, H, W), ...] -> what the block gives."""
        return self.block(list(maps)) if self.several else self.block(*maps)


def _measure_all(
    subjects: Sequence[Subject], table: LatencyTable, worker: LocalWorker, protocol: Protocol, reporter: Reporter
) -> None:
    batches = schedule(subjects, PASSES)
    rounds = replace(protocol, visits=-(-protocol.visits // PASSES))
    with reporter.task("measuring", rounds.visits * sum(map(len, batches))) as advance:
        for number, batch in enumerate(batches):
            wanted = {subject.graph.key: subject for subject in batch if _lacks_visits(subject, table, protocol)}
            advance(rounds.visits * (len(batch) - len(wanted)))
            visits: dict[str, list[tuple[float, float]]] = {}
            for visit in worker.measure([subject.graph for subject in wanted.values()], rounds, seed=number):
                visits.setdefault(visit.key, []).append((visit.at, middle(visit.ms)))
                advance(1)
            found = [(wanted[key].what, times) for key, times in visits.items()]
            table.append((what, times) for what, times in found if isinstance(what, Layer))
            table.append_pairs((what.layer, times) for what, times in found if isinstance(what, Pair))
            table.append_networks(
                replace(what, visits=times) for what, times in found if isinstance(what, MeasuredNetwork)
            )


def _lacks_visits(subject: Subject, table: LatencyTable, protocol: Protocol) -> bool:
    if isinstance(subject.what, Layer):
        return table.visits(subject.what) < protocol.visits
    return isinstance(subject.what, MeasuredNetwork) or table.pair_visits(subject.what.layer) < protocol.visits


def schedule(subjects: Sequence[Subject], passes: int) -> list[list[Subject]]:
    """Return batches: every layer once in each pass, in random order, and every network in some of the batches."""
    layers = [subject for subject in subjects if not isinstance(subject.what, MeasuredNetwork)]
    networks = [subject for subject in subjects if isinstance(subject.what, MeasuredNetwork)]
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
    archs: Sequence[Architecture], runtime_name: str, threads: int, reporter: Reporter, seed: int = 0
) -> list[Latency]:
    """Return the latency of whole networks, exported and measured here, interleaved with each other."""
    protocol = Protocol(visits=30, warmup=2, repeats=4)
    runtime = make_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-measure-") as folder,
        LocalWorker(runtime_name, threads) as worker,
        reporter.task("measuring networks", len(archs) * protocol.visits) as advance,
    ):
        with one_thread():
            graphs = [_export_network(runtime, arch, Path(folder), index) for index, arch in enumerate(archs)]
        visits: dict[str, list[tuple[float, ...]]] = {graph.key: [] for graph in graphs}
        for visit in worker.measure(graphs, protocol, seed):
            visits[visit.key].append(visit.ms)
            advance(1)
    return [summary(visits[graph.key]) for graph in graphs]


def _export_network(runtime: Runtime, arch: Architecture, folder: Path, index: int) -> Graph:
    shape = (1, 3, arch.resolution, arch.resolution)
    path = folder / f"{index}{runtime.suffix}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(arch)
    set_progress(model, 1.0)
    runtime.export(deploy(model), [torch.zeros(shape)], path)
    return Graph(str(index), str(path), (shape,))
