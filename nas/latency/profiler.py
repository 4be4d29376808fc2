"""Measures layers and networks on a device: build, deploy, export, visit; they go into a latency table.

Whole networks of the space are visited between the layers: some calibrate the sum, others certify it.
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
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.devices.client import DTYPE, LOCAL, Graph, Recorded, Worker, inspect_device, open_worker
from nas.devices.processor import describe_processor, processor_slug
from nas.devices.runtimes import Runtime, find_runtime, make_runtime
from nas.devices.timing import COSTS, Latency, Protocol, Visit, middle, summary
from nas.errors import NasError
from nas.latency.calibration_networks import LEAST_NETWORKS, calibrate, whole_networks
from nas.latency.rows import (
    HELD_OUT,
    Measurable,
    MeasuredNetwork,
    RepeatedLayer,
    boundary_layer,
    layer_key,
    layer_name,
    name_of,
)
from nas.latency.table import LatencyTable
from nas.networks.condensenet import set_progress
from nas.networks.network import IMAGE_CHANNELS, Layer, build, deploy, in_channels, input_shapes, make_block
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.utils.paths import user_cache
from nas.utils.reporting import Reporter

PASSES = 3
"""A layer's visits are spread over several passes, minutes apart, so that a slow minute does not decide."""
GRAPHS_PER_BATCH = 200
"""How many layers the worker holds at once; a crash loses at most one batch of one pass."""
NETWORK_BATCHES = 12
"""In how many batches each whole network takes part."""


ENERGY_MS = 20.0
"""How long a visit calls on between two readings of the meter, where energy is measured."""


@dataclass
class Subject:
    """What is measured, exported."""

    graph: Graph
    what: Measurable


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
    space: Space,
    table: LatencyTable,
    reporter: Reporter,
    protocol: Protocol | None = None,
    worker: Worker | None = None,
) -> int:
    """Measure those layers of `space` that `table` lacks, with `worker` or here, and return how many there were.

    A table that was not calibrated for the space is: whole networks are measured along. Continues where an
    interrupted run stopped. Raises DeviceError where the runtime fails.
    """
    protocol = protocol or Protocol()
    layers = reachable(space)
    seams = boundary_layers(layers)
    pairs = table.missing(list(map(RepeatedLayer, seams)), protocol.visits)
    calibrated = space.key in table.calibrations and not pairs
    networks = [] if calibrated else whole_networks(space)
    if len(networks) < LEAST_NETWORKS:
        networks, seams, pairs = [], [], []
    missing = table.missing(layers, protocol.visits)
    alone = table.missing(seams, protocol.visits)
    layers_first: list[Measurable] = [*dict.fromkeys([*missing, *alone]), *pairs]
    # Networks are visited between layers, however often they were before a run was cut off.
    whats = [*layers_first, *(networks if layers_first else table.missing(networks, protocol.visits))]
    if whats:
        worker = worker or open_worker(LOCAL, table.header["runtime"], table.header["threads"], reporter.say)
        _export_and_measure(whats, table, protocol, worker, reporter)
    if networks:
        calibrate(space, table, networks)
    return len(missing)


def time_networks(
    networks: Sequence[MeasuredNetwork], table: LatencyTable, visits: int, worker: Worker, reporter: Reporter
) -> None:
    """Add so many visits of whole networks, beside each other, to a table that holds nothing else."""
    _export_and_measure(networks, table, Protocol(visits=visits, warmup=2, repeats=4), worker, reporter)


def _export_and_measure(
    whats: Sequence[Measurable], table: LatencyTable, protocol: Protocol, worker: Worker, reporter: Reporter
) -> None:
    with tempfile.TemporaryDirectory(prefix="nas-profile-") as folder, worker as opened:
        table.header.setdefault("worker", opened.settings)
        table.header.setdefault("protocol", protocol.to_dict())
        table.append(())  # a table that cannot be written is noticed before hours of work
        if isinstance(opened, Recorded):
            _take_recorded(whats, opened, table)
            return
        runtime = find_runtime(table.header["runtime"])
        with one_thread(), reporter.task("exporting", len(whats)) as advance:
            subjects = []
            for what in whats:
                subjects.append(Subject(_export(runtime, what, Path(folder)), what))
                advance(1)
        _measure_all(subjects, table, opened, protocol, reporter)


def _take_recorded(whats: Sequence[Measurable], worker: Recorded, table: LatencyTable) -> None:
    """Append, at once, what a board has recorded of `whats` and the table has not. Raises DeviceError for a gap."""
    rows, costs = [], {}
    for what in whats:
        name = name_of(what)
        known = {at for at, _ in table.rows.get(name, ())}
        visits = [visit for visit in worker.recorded(_key(what)) if round(visit.at, 3) not in known]
        if visits:
            rows.append((what, [(visit.at, middle(visit.ms)) for visit in visits]))
            costs[name] = _gathered(visits)
    table.append(rows, costs)


def _gathered(visits: Sequence[Visit]) -> dict[str, list[float]]:
    """Return what the visits tell beside times, by column; a column that none tells is not there."""
    found = {column: [visit.costs[column] for visit in visits if column in visit.costs] for column in COSTS}
    return {column: values for column, values in found.items() if values}


def _key(what: Measurable) -> str:
    """Return the name of a graph, the same in every process."""
    if isinstance(what, RepeatedLayer):
        return f"{layer_key(what.layer)}-twice"
    return layer_key(what) if isinstance(what, Layer) else what.arch.digest


def _batch_shapes(what: Measurable) -> tuple[tuple[int, ...], ...]:
    if isinstance(what, MeasuredNetwork):
        return ((1, IMAGE_CHANNELS, what.arch.resolution, what.arch.resolution),)
    return tuple((1, *shape) for shape in input_shapes(what.layer if isinstance(what, RepeatedLayer) else what))


def _export(runtime: Runtime, what: Measurable, folder: Path) -> Graph:
    """Write what is measured, with weights from a fixed seed, and return its graph."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(what.arch) if isinstance(what, MeasuredNetwork) else _layer_graph(what)
    set_progress(model, 1.0)
    graph = Graph(_key(what), str(folder / f"{_key(what)}{runtime.suffix}"), _batch_shapes(what))
    try:
        runtime.export(deploy(model), [torch.zeros(shape) for shape in graph.shapes], Path(graph.path))
    except NasError as error:
        layer = what.layer if isinstance(what, RepeatedLayer) else what
        name = layer_name(layer.spec, layer.in_shape) if isinstance(layer, Layer) else f"network {layer.arch.digest}"
        raise type(error)(f"{name}: {error}") from error
    return graph


def _layer_graph(what: Layer | RepeatedLayer) -> nn.Module:
    layer = what.layer if isinstance(what, RepeatedLayer) else what
    blocks = [make_block(layer.spec, in_channels(layer)) for _ in range(2 if isinstance(what, RepeatedLayer) else 1)]
    several = isinstance(layer.in_shape[0], tuple)
    return LayerGraph(blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks), several)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: tracing small graphs, several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def boundary_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that tell, alone and as pairs, what the seams between `layers` save."""
    shapes = dict.fromkeys(layer.out_shape for layer in layers if len(layer.out_shape) == 3)
    return [boundary_layer(shape) for shape in shapes]


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
    subjects: Sequence[Subject], table: LatencyTable, worker: Worker, protocol: Protocol, reporter: Reporter
) -> None:
    batches = schedule(subjects, PASSES)
    rounds = replace(protocol, visits=-(-protocol.visits // PASSES))
    with reporter.task(worker.doing, rounds.visits * sum(map(len, batches))) as advance:
        for number, batch in enumerate(batches):
            wanted = {subject.graph.key: subject for subject in batch if _lacks_visits(subject.what, table, protocol)}
            advance(rounds.visits * (len(batch) - len(wanted)))
            first = number < len(batches) // PASSES
            graphs = [_with_memory(subject, table) if first else subject.graph for subject in wanted.values()]
            visits: dict[str, list[Visit]] = {}
            for visit in worker.measure(graphs, rounds, seed=number):
                visits.setdefault(visit.key, []).append(visit)
                advance(1)
            costs = {name_of(wanted[key].what): _gathered(seen) for key, seen in visits.items()}
            for subject in wanted.values() if first else ():
                costs[name_of(subject.what)] |= _size(subject.graph)
            table.append(
                ((wanted[key].what, [(visit.at, middle(visit.ms)) for visit in seen]) for key, seen in visits.items()),
                costs,
            )


def _lacks_visits(what: Measurable, table: LatencyTable, protocol: Protocol) -> bool:
    return isinstance(what, MeasuredNetwork) or table.visits(what) < protocol.visits


def _with_memory(subject: Subject, table: LatencyTable) -> Graph:
    """Return the graph, of a held-out network with the wish to learn its peak memory too."""
    held_out = isinstance(subject.what, MeasuredNetwork) and subject.what.role == HELD_OUT
    return replace(subject.graph, memory=held_out and table.cost("memory_bytes", subject.what) is None)


def _size(graph: Graph) -> dict[str, list[float]]:
    return {"size_bytes": [float(Path(graph.path).stat().st_size)]}


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
    archs: Sequence[Architecture],
    runtime_name: str,
    threads: int,
    reporter: Reporter,
    device: str = LOCAL,
    seed: int = 0,
) -> list[Latency]:
    """Return the latency of whole networks, exported here and measured on the device, interleaved with each other."""
    protocol = Protocol(visits=30, warmup=2, repeats=4, energy_ms=ENERGY_MS)
    runtime = find_runtime(runtime_name)
    with (
        tempfile.TemporaryDirectory(prefix="nas-measure-") as folder,
        open_worker(device, runtime_name, threads, reporter.say) as worker,
        reporter.task("measuring networks", len(archs) * protocol.visits) as advance,
    ):
        with one_thread():
            graphs = [_export(runtime, MeasuredNetwork("", HELD_OUT, arch), Path(folder)) for arch in archs]
        visits: dict[str, list[Visit]] = {graph.key: [] for graph in graphs}
        for visit in worker.measure([replace(graph, memory=True) for graph in graphs], protocol, seed):
            visits[visit.key].append(visit)
            advance(1)
        return [_latency(visits[graph.key], graph) for graph in graphs]


def _latency(visits: Sequence[Visit], graph: Graph) -> Latency:
    costs = _gathered(visits)
    return replace(
        summary([visit.ms for visit in visits]),
        size_bytes=int(_size(graph)["size_bytes"][0]),
        memory_bytes=int(costs["memory_bytes"][0]) if "memory_bytes" in costs else None,
        energy_mj=middle(costs["energy_mj"]) if "energy_mj" in costs else None,
    )
