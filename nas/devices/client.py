"""Client of a device: starts its worker process, on this machine or over ssh, and requests measurements."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from nas.devices.process_pipe import ProcessPipe
from nas.devices.ssh import Address, parse_address, start_remote
from nas.devices.timing import COSTS, Latency, Protocol, Sample, summarize
from nas.errors import DeviceError, LostError
from nas.utils.files import size_of

LOCAL = "local"
FOLDER = "graphs"
"""Folder of the graphs on a device, in the worker's working directory."""

MOST_LINES = 10_000
"""Number of lines that a login shell may print before the worker's first answer."""

PAUSES_S = {"local": (0.2, 1.0), "remote": (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)}
"""Pauses in s before each new attempt to start a worker that crashed or lost its connection."""


@dataclass(frozen=True)
class Graph:
    """An exported model to measure.

    Files next to `path` with the same stem belong to the model; a directory belongs to it with all its files.

    Attributes:
        key: Its key in samples.
        path: Its file on this machine.
        shapes: The shapes of its inputs, with batch.
        memory: Whether to measure its peak memory as well.
    """

    key: str
    path: str
    shapes: tuple[tuple[int, ...], ...]
    memory: bool = False

    @property
    def size_bytes(self) -> int:
        """The size of its files. OpenVINO's .xml has its weights in a .bin beside it."""
        return size_of(Path(self.path))


class Worker(typing.Protocol):
    """A context manager that measures graphs on one device.

    Attributes:
        settings: What the worker process was granted: processors, scheduler, versions.
        device: The processor it runs on.
        activity: What it does, for the progress bar.
    """

    settings: dict[str, Any]
    device: dict[str, Any]
    activity: str

    def __enter__(self) -> Worker: ...

    def __exit__(self, *error: object) -> None: ...

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Sample]:
        """Yield the samples of the graphs, interleaved. Raises DeviceError."""


@typing.runtime_checkable
class RecordedSamples(typing.Protocol):
    """Samples that an offline device recorded earlier."""

    def recorded(self, key: str) -> list[Sample]:
        """Return the samples of a graph, in order. Raises DeviceError if on_device are none."""


def open_worker(device: str, runtime: str, threads: int, say: Callable[[str], None] | None = None) -> Worker:
    """Return a worker that restarts after a crash or a lost connection. It starts when it is entered.

    Args:
        device: "local" or "ssh://user@host:port/path/to/python".
        runtime: Name of the runtime.
        threads: Number of runtime threads.
        say: Receives a message for each restart.

    Raises:
        UsageError: The URL is malformed.
    """
    if device == LOCAL:
        return RestartingWorker(lambda: local_worker(runtime, threads), PAUSES_S["local"], say)
    address = parse_address(device)
    return RestartingWorker(lambda: ssh_worker(address, runtime, threads), PAUSES_S["remote"], say)


@functools.cache
def inspect_device(device: str, runtime: str, threads: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the processor and the settings of a worker on the device; cached per process. Raises DeviceError."""
    with open_worker(device, runtime, threads) as worker:
        return worker.device, worker.settings


def local_worker(runtime: str, threads: int) -> ProcessWorker:
    """Return a worker process on this machine."""
    command = [sys.executable, "-m", "nas.devices.worker"]
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]

    def start() -> ProcessPipe:
        environment = {**os.environ, **worker_environment(threads), "PYTHONPATH": os.pathsep.join(paths)}
        return ProcessPipe(f"the worker of runtime '{runtime}'", command, environment)

    return ProcessWorker(start, runtime, threads)


def ssh_worker(address: Address, runtime: str, threads: int) -> ProcessWorker:
    """Return a worker process on another machine. Graphs are sent to it with each batch."""
    return ProcessWorker(
        lambda: start_remote(address, worker_environment(threads)), runtime, threads, host=str(address)
    )


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that a worker needs."""
    return {
        # By default glibc returns large buffers to the kernel and faults them in again at each call; see mallopt(3).
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
        "MALLOC_TOP_PAD_": str(1 << 28),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
    }


class ProcessWorker:
    """A worker process behind a pipe. Raises LostError if the pipe ends, and DeviceError for other failures."""

    def __init__(self, start: Callable[[], ProcessPipe], runtime: str, threads: int, host: str = ""):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self._start, self._setup, self._host = start, {"runtime": runtime, "threads": threads}, host
        self._pipe: ProcessPipe

    def __enter__(self) -> ProcessWorker:
        self._pipe = self._start()
        try:
            self._pipe.send(_line(self._setup))
            answer = self._answer()
            self.settings, self.device = answer["settings"], answer["device"]
        except BaseException:
            self._pipe.close(politely=False)
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._pipe.close(politely=error is None)

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Sample]:
        """Yield the samples of the graphs, interleaved. Raises DeviceError."""
        if self._host:
            for name, path in graph_files(graphs).items():
                self._pipe.send(_line({"put": name, "size": path.stat().st_size}), path)
        self._pipe.send(_line(batch_request(graphs, protocol, seed, on_device=bool(self._host))))
        while "done" not in (answer := self._answer()):
            if "ms" in answer:
                costs = {name: answer[name] for name in COSTS if name in answer}
                yield Sample(answer["key"], answer["at"], tuple(answer["ms"]), costs)

    def _answer(self) -> dict[str, Any]:
        """Return the next answer; skip what a login shell prints before the first one."""
        for _ in range(MOST_LINES):
            if (line := self._pipe.line()).startswith(b"{"):
                break
        else:
            raise DeviceError("prints no answers; its last line", where=self._host or "the worker", value=line[:80])
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise LostError(f"an answer was cut off: {line[:80]!r}") from error
        if "error" in answer:
            raise DeviceError(answer["error"], where=self._host)
        return answer


class RestartingWorker:
    """A worker that restarts after its process or connection ended. Samples received so far are kept."""

    def __init__(
        self, make: Callable[[], ProcessWorker], pauses_s: Sequence[float], say: Callable[[str], None] | None = None
    ):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self.activity = "measuring"
        self._make, self._pauses_s, self._say = make, pauses_s, say or (lambda _: None)
        self._attempts = 0
        self._worker: ProcessWorker

    def __enter__(self) -> RestartingWorker:
        self._worker = self._make().__enter__()
        self.settings, self.device = self._worker.settings, self._worker.device
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.__exit__(*error)

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Sample]:
        """Yield the samples of the graphs; after a restart, only the remaining ones. Raises DeviceError."""
        missing = {graph.key: protocol.visits for graph in graphs}
        while any(missing.values()):
            samples = min(count for count in missing.values() if count)
            batch = [graph for graph in graphs if missing[graph.key] == samples]
            try:
                for sample in self._worker.measure(batch, replace(protocol, visits=samples), seed):
                    missing[sample.key] -= 1
                    self._attempts = 0
                    yield sample
            except LostError as error:
                self._restart(error)

    def _restart(self, error: LostError) -> None:
        """Restart the worker, with growing pauses. Raises DeviceError after the last attempt."""
        self._worker.__exit__(error)
        while self._attempts < len(self._pauses_s):
            pause_s = self._pauses_s[self._attempts]
            self._attempts += 1
            self._say(f"{error}; trying again in {pause_s:g} s")
            time.sleep(pause_s)
            try:
                worker = self._make().__enter__()
            except LostError as restart_error:
                error = restart_error
                continue
            self._worker = worker
            if worker.device != self.device:
                raise DeviceError(f"another device answers after the restart: {worker.device}, not {self.device}")
            return
        raise DeviceError(f"{error} (after {self._attempts} more attempts); the same command continues") from error


def batch_request(graphs: Sequence[Graph], protocol: Protocol, seed: int, on_device: bool) -> dict[str, Any]:
    """Return the request for a batch. With `on_device`, the graphs are in FOLDER on the device."""
    return {
        "graphs": [
            {
                "key": graph.key,
                "path": f"{FOLDER}/{Path(graph.path).name}" if on_device else graph.path,
                "shapes": graph.shapes,
                **({"memory": True} if graph.memory else {}),
            }
            for graph in graphs
        ],
        "protocol": protocol.to_dict(),
        "seed": seed,
    }


def graph_files(graphs: Sequence[Graph]) -> dict[str, Path]:
    """Return the files that belong to the graphs, by their names on the device."""
    found: dict[str, Path] = {}
    wanted = {Path(graph.path).parent / Path(graph.path).stem for graph in graphs}
    for parent in sorted({stem.parent for stem in wanted}):
        for entry in sorted(path for path in parent.iterdir() if parent / path.stem in wanted):
            files = sorted(path for path in entry.rglob("*") if path.is_file()) if entry.is_dir() else [entry]
            found |= {f"{FOLDER}/{path.relative_to(parent).as_posix()}": path for path in files}
    return found


def latency_of(samples: Sequence[Sample], graph: Graph) -> Latency:
    """Return the latency of a graph with its size, and the other costs that its samples hold."""
    costs = costs_by_column(samples)
    return replace(
        summarize([sample.ms for sample in samples]),
        size_bytes=graph.size_bytes,
        memory_bytes=int(costs["memory_bytes"][0]) if "memory_bytes" in costs else None,
        energy_mj=median(costs["energy_mj"]) if "energy_mj" in costs else None,
    )


def costs_by_column(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return the samples' other costs by column, without the columns that no sample has."""
    found = {column: [sample.costs[column] for sample in samples if column in sample.costs] for column in COSTS}
    return {column: values for column, values in found.items() if values}


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
