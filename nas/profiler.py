"""Measures layers and networks on a device: build, deploy, export, visit; the layers go into a latency table."""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.condensing import set_progress
from nas.device import DTYPE, LOCAL, Graph, Worker, find_runtime, inspect_device, make_runtime, open_worker
from nas.latency import LatencyTable, layer_key
from nas.network import Layer, build, deploy, in_channels, input_shapes, make_block
from nas.processor import describe_processor, processor_slug
from nas.profiling import Latency, Protocol, summary
from nas.progress import Reporter
from nas.resources import user_cache
from nas.runtimes import Runtime

ROUNDS_PER_PASS = 4
"""A layer's visits are spread over several passes, minutes apart, so that a slow minute does not decide."""
GRAPHS_PER_BATCH = 200
"""How many graphs the worker holds at once; a crash loses at most one batch of one pass."""


def table_header(runtime: str, threads: int, device: str = LOCAL) -> dict[str, Any]:
    """Return what decides speed on the device: the header of a table that is measured now. Raises DeviceError."""
    if device == LOCAL:
        return make_header(describe_processor(), runtime, make_runtime(runtime).version(), threads)
    description, settings = inspect_device(device, runtime, threads)
    return make_header(description, runtime, settings["runtime_version"], threads, settings["host"])


def make_header(device: dict[str, Any], runtime: str, version: str, threads: int, host: str = "") -> dict[str, Any]:
    """Return a table's header; `host` is the name that another machine gives itself."""
    return {
        "device": device,
        "runtime": runtime,
        "runtime_version": version,
        "threads": threads,
        "dtype": DTYPE,
        "batch": 1,
        **({"host": host} if host else {}),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def default_table_path(header: dict[str, Any]) -> Path:
    """Return where the table of this device and runtime lies: one file for each combination that decides speed.

    Other machines have their name in it: two boards of one make differ in cooling, clock and what else they do.
    """
    name = f"{header['runtime']}-{header['runtime_version']}-t{header['threads']}-{header['dtype']}.jsonl"
    host = re.sub(r"[^a-z0-9]+", "-", f"-{header.get('host', '')}".lower()).rstrip("-")
    return user_cache() / "latency_tables" / f"{processor_slug(header['device'])}{host}" / name


def profile(
    layers: Sequence[Layer],
    table: LatencyTable,
    reporter: Reporter,
    protocol: Protocol | None = None,
    worker: Worker | None = None,
) -> int:
    """Measure those of `layers` that `table` lacks, with `worker` or here, and return how many there were.

    Continues where an interrupted run stopped. Raises DeviceError where the runtime fails.
    """
    protocol = protocol or Protocol()
    missing = table.missing(layers, protocol.visits)
    if not missing:
        return 0
    runtime_name, threads = table.header["runtime"], table.header["threads"]
    runtime = find_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-profile-") as folder,
        worker or open_worker(LOCAL, runtime_name, threads, reporter.say) as opened,
    ):
        if opened.needs_graphs:
            with reporter.task("exporting layers", len(missing)) as advance:
                graphs = [_export_layer(runtime, layer, Path(folder), advance) for layer in missing]
        else:
            graphs = [Graph(layer_key(layer), "", _batch_shapes(layer)) for layer in missing]
        table.header.setdefault("worker", opened.settings)
        table.header.setdefault("protocol", protocol.to_dict())
        total = sum(protocol.visits - table.visits(layer) for layer in missing)
        with reporter.task(f"{opened.doing} layers", total) as advance:
            _measure_passes(missing, graphs, table, opened, protocol, advance)
    return len(missing)


def _batch_shapes(layer: Layer) -> tuple[tuple[int, ...], ...]:
    return tuple((1, *shape) for shape in input_shapes(layer))


def _export_layer(runtime: Runtime, layer: Layer, folder: Path, advance: Any) -> Graph:
    shapes, key = _batch_shapes(layer), layer_key(layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LayerGraph(make_block(layer.spec, in_channels(layer)), several=isinstance(layer.in_shape[0], tuple))
    set_progress(model, 1.0)
    path = folder / f"{key}{runtime.suffix}"
    runtime.export(deploy(model), [torch.zeros(shape) for shape in shapes], path)
    advance(1)
    return Graph(key, str(path), shapes)


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
    worker: Worker,
    protocol: Protocol,
    advance: Any,
) -> None:
    order = list(range(len(layers)))
    by_key = {graph.key: layer for graph, layer in zip(graphs, layers, strict=True)}
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
            table.append((by_key[key], values) for key, values in minima.items())


def measure_networks(
    archs: Sequence[Architecture],
    runtime_name: str,
    threads: int,
    reporter: Reporter,
    device: str = LOCAL,
    seed: int = 0,
) -> list[Latency]:
    """Return the latency of whole networks, exported here and measured on the device, interleaved with each other."""
    protocol = Protocol(visits=30, warmup=2, repeats=4)
    runtime = find_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-measure-") as folder,
        open_worker(device, runtime_name, threads, reporter.say) as worker,
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
