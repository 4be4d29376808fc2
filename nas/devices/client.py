"""The device that is measured: a worker process on this machine, or on another that ssh reaches."""

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
from typing import Any

from nas.devices.process_pipe import ProcessPipe
from nas.devices.ssh import Address, parse_address, start_remote
from nas.devices.timing import COSTS, Protocol, Visit
from nas.errors import DeviceError, LostError

DTYPE = "float32"
LOCAL = "local"
FOLDER = "graphs"
"""Where graphs lie on a device, below the worker's working directory."""

MOST_LINES = 10_000
"""How many lines a login shell may print before the first answer."""

# How long to wait before each new try, in s: a worker may crash, a board may start again.
PAUSES_S = {"local": (0.2, 1.0), "remote": (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)}


@dataclass(frozen=True)
class Graph:
    """An exported model to measure: its key, its file here, the shapes of its inputs with batch, also its memory?

    What lies beside the file under the same stem belongs to it, and so does all in it where it is a directory.
    """

    key: str
    path: str
    shapes: tuple[tuple[int, ...], ...]
    memory: bool = False


class Worker(typing.Protocol):
    """What measures: a context manager. `settings` is what the process got, `device` the processor it runs on.

    `doing` is what its visits are in messages.
    """

    settings: dict[str, Any]
    device: dict[str, Any]
    doing: str

    def __enter__(self) -> Worker: ...

    def __exit__(self, *error: object) -> None: ...

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Yield the visits of the graphs, interleaved. Raises DeviceError."""


@typing.runtime_checkable
class Recorded(typing.Protocol):
    """What a board that cannot be reached has measured."""

    def recorded(self, key: str) -> list[Visit]:
        """Return the visits of a graph, in order. Raises DeviceError where there are none."""


def open_worker(device: str, runtime: str, threads: int, say: Callable[[str], None] | None = None) -> Worker:
    """Return a worker on "local" or "ssh://user@host:port/path/to/python" that outlives lost connections.

    Nothing is started before it is entered. `say` is told of lost connections. Raises UsageError for a malformed URL.
    """
    if device == LOCAL:
        return SteadyWorker(lambda: local_worker(runtime, threads), PAUSES_S["local"], say)
    address = parse_address(device)
    return SteadyWorker(lambda: ssh_worker(address, runtime, threads), PAUSES_S["remote"], say)


@functools.cache
def inspect_device(device: str, runtime: str, threads: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the processor and the settings of a worker on the device, asked once in a process. Raises DeviceError."""
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
    """Return a worker process on another machine; graphs travel to it with each batch."""
    return ProcessWorker(
        lambda: start_remote(address, worker_environment(threads)), runtime, threads, host=str(address)
    )


def worker_environment(threads: int) -> dict[str, str]:
    """Return what a worker needs in its environment before it starts."""
    return {
        # glibc returns large buffers to the kernel and faults them in again at every call; see mallopt(3).
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
        "MALLOC_TOP_PAD_": str(1 << 28),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
    }


class ProcessWorker:
    """A worker behind a link, here or on `host`. Raises LostError where the link ends, DeviceError for all else."""

    def __init__(self, start: Callable[[], ProcessPipe], runtime: str, threads: int, host: str = ""):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self._start, self._setup, self._host = start, {"runtime": runtime, "threads": threads}, host
        self._link: ProcessPipe

    def __enter__(self) -> ProcessWorker:
        self._link = self._start()
        try:
            self._link.send(_line(self._setup))
            answer = self._answer()
            self.settings, self.device = answer["settings"], answer["device"]
        except BaseException:
            self._link.close(politely=False)
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._link.close(politely=error is None)

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Yield the visits of the graphs, interleaved. Raises DeviceError."""
        if self._host:
            for name, path in graph_files(graphs).items():
                self._link.send(_line({"put": name, "size": path.stat().st_size}), path)
        self._link.send(_line(request(graphs, protocol, seed, there=bool(self._host))))
        while "done" not in (answer := self._answer()):
            if "ms" in answer:
                costs = {name: answer[name] for name in COSTS if name in answer}
                yield Visit(answer["key"], answer["at"], tuple(answer["ms"]), costs)

    def _answer(self) -> dict[str, Any]:
        """Return the next answer; what a login shell prints before is skipped."""
        for _ in range(MOST_LINES):
            if (line := self._link.line()).startswith(b"{"):
                break
        else:
            raise DeviceError(f"{self._host or 'the worker'}: prints and never answers, the last line: {line[:80]!r}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise LostError(f"an answer was cut off: {line[:80]!r}") from error
        if "error" in answer:
            raise DeviceError(f"{self._host}: {answer['error']}" if self._host else answer["error"])
        return answer


class SteadyWorker:
    """A worker that is started again where its process or connection ended; nothing that was answered is lost."""

    def __init__(
        self, make: Callable[[], ProcessWorker], pauses_s: Sequence[float], say: Callable[[str], None] | None = None
    ):
        self.settings: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self.doing = "measuring"
        self._make, self._pauses_s, self._say = make, pauses_s, say or (lambda _: None)
        self._tries = 0
        self._worker: ProcessWorker

    def __enter__(self) -> SteadyWorker:
        self._worker = self._make().__enter__()
        self.settings, self.device = self._worker.settings, self._worker.device
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.__exit__(*error)

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Yield the visits of the graphs; after a loss, those that are still to come. Raises DeviceError."""
        left = {graph.key: protocol.visits for graph in graphs}
        while any(left.values()):
            visits = min(count for count in left.values() if count)
            batch = [graph for graph in graphs if left[graph.key] == visits]
            try:
                for visit in self._worker.measure(batch, replace(protocol, visits=visits), seed):
                    left[visit.key] -= 1
                    self._tries = 0
                    yield visit
            except LostError as error:
                self._again(error)

    def _again(self, error: LostError) -> None:
        """Start the worker again, with growing pauses. Raises DeviceError after the last."""
        self._worker.__exit__(error)
        while self._tries < len(self._pauses_s):
            pause_s = self._pauses_s[self._tries]
            self._tries += 1
            self._say(f"{error}; trying again in {pause_s:g} s")
            time.sleep(pause_s)
            try:
                worker = self._make().__enter__()
            except LostError as again:
                error = again
                continue
            self._worker = worker
            if worker.device != self.device:
                raise DeviceError(f"another device answers now: {worker.device}, before {self.device}")
            return
        raise DeviceError(f"{error} (after {self._tries} more tries); the same command continues") from error


def request(graphs: Sequence[Graph], protocol: Protocol, seed: int, there: bool) -> dict[str, Any]:
    """Return the request of a batch; `there` for graphs that lie in FOLDER on the device."""
    return {
        "graphs": [
            {
                "key": graph.key,
                "path": f"{FOLDER}/{Path(graph.path).name}" if there else graph.path,
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


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
