"""Measures layers and networks on a device: build, deploy, export, visit; the layers go into a latency table."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.condensing import set_progress
from nas.device import DTYPE, Graph, LocalWorker, describe_processor, make_runtime, processor_slug
from nas.latency import LatencyTable
from nas.network import Layer, build, deploy, in_channels, input_shapes, make_block
from nas.profiling import Latency, Protocol, summary
from nas.progress import Reporter
from nas.resources import user_cache
from nas.runtimes import Runtime

ROUNDS_PER_PASS = 4
"""A layer's visits are spread over several passes, minutes apart, so that a slow minute does not decide."""
GRAPHS_PER_BATCH = 200
"""How many graphs the worker holds at once; a crash loses at most one batch of one pass."""


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


def profile(layers: Sequence[Layer], table: LatencyTable, reporter: Reporter, protocol: Protocol | None = None) -> int:
    """Measure those of `layers` that `table` lacks, here, and return how many there were.

    Continues where an interrupted run stopped. Raises DeviceError where the runtime fails.
    """
    protocol = protocol or Protocol()
    missing = table.missing(layers, protocol.visits)
    if not missing:
        return 0
    runtime_name, threads = table.header["runtime"], table.header["threads"]
    runtime = make_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-profile-") as folder,
        LocalWorker(runtime_name, threads) as worker,
    ):
        with reporter.task("exporting layers", len(missing)) as advance:
            graphs = [
                _export_layer(runtime, layer, Path(folder), index, advance) for index, layer in enumerate(missing)
            ]
        table.header.setdefault("worker", worker.settings)
        table.header.setdefault("protocol", protocol.to_dict())
        total = sum(protocol.visits - table.visits(layer) for layer in missing)
        with reporter.task("measuring layers", total) as advance:
            _measure_passes(missing, graphs, table, worker, protocol, advance)
    return len(missing)


def _export_layer(runtime: Runtime, layer: Layer, folder: Path, index: int, advance: Any) -> Graph:
    shapes = tuple((1, *shape) for shape in input_shapes(layer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LayerGraph(make_block(layer.spec, in_channels(layer)), several=isinstance(layer.in_shape[0], tuple))
    set_progress(model, 1.0)
    path = folder / f"{index}{runtime.suffix}"
    runtime.export(deploy(model), [torch.zeros(shape) for shape in shapes], path)
    advance(1)
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


def _measure_passes(
    layers: Sequence[Layer],
    graphs: Sequence[Graph],
    table: LatencyTable,
    worker: LocalWorker,
    protocol: Protocol,
    advance: Any,
) -> None:
    order = list(range(len(layers)))
    generator = torch.Generator().manual_seed(0)
    for number in range(-(-protocol.visits // ROUNDS_PER_PASS)):
        shuffled = torch.randperm(len(order), generator=generator).tolist()
        for start in range(0, len(shuffled), GRAPHS_PER_BATCH):
            batch = shuffled[start : start + GRAPHS_PER_BATCH]
            wanted = [index for index in batch if table.visits(layers[index]) < protocol.visits]
            if not wanted:
                continue
            rounds = Protocol(ROUNDS_PER_PASS, protocol.warmup, protocol.repeats, protocol.flush_bytes)
            minima: dict[str, list[float]] = {}
            for visit in worker.measure([graphs[index] for index in wanted], rounds, seed=number):
                minima.setdefault(visit.key, []).append(min(visit.ms))
                advance(1)
            table.append((layers[int(key)], values) for key, values in minima.items())


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
