"""The device that is measured: what it is, and a worker process on it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nas.errors import DeviceError
from nas.profiling import Protocol, Visit
from nas.registry import lookup
from nas.runtimes import RUNTIMES, Runtime

DTYPE = "float32"

# glibc returns large buffers to the kernel and faults them in again at every call; see mallopt(3).
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Graph:
    """An exported model to measure: its key, its file on the device, and the shapes of its inputs with batch."""

    key: str
    path: str
    shapes: tuple[tuple[int, ...], ...]


def make_runtime(name: str) -> Runtime:
    """Return the runtime called `name`. Raises UsageError for an unknown one, DeviceError without its library."""
    runtime = lookup(RUNTIMES, name, "runtime", "--runtime")()
    runtime.version()
    return runtime


def describe_processor() -> dict[str, Any]:
    """Return what decides this machine's speed: processor, its model numbers, cores and memory architecture."""
    info = {"processor": platform.processor() or platform.machine(), "machine": platform.machine()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE))
        info["processor"] = fields.get("model name") or fields.get("Model") or info["processor"]
        numbers = [fields.get(key) for key in ("cpu family", "model", "stepping")]
        if all(numbers):
            info["model"] = "/".join(str(number) for number in numbers)
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        info["processor"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {**info, "cores": os.cpu_count() or 1, "system": platform.system()}


def processor_slug(device: dict[str, Any]) -> str:
    """Return a folder name for a device: 'intel-xeon-processor-6-207-2'."""
    text = re.sub(r"\((r|tm|c)\)|cpu|@.*", " ", f"{device['processor']}".lower())
    return re.sub(r"[^a-z0-9]+", "-", f"{text} {device.get('model', '')}").strip("-")


class LocalWorker:
    """A worker process on this machine; a context manager. `settings` is what the process got."""

    def __init__(self, runtime: str, threads: int):
        self.runtime, self.threads = runtime, threads
        self.settings: dict[str, Any] = {}
        self._process: subprocess.Popen[str]
        self._errors: IO[str]

    def __enter__(self) -> LocalWorker:
        environment = {**os.environ, **WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(self.threads)}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), *_python_path()])
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nas.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True,
        )  # fmt: skip
        self._send({"runtime": self.runtime, "threads": self.threads})
        self.settings = self._answer()["settings"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def measure(self, graphs: Sequence[Graph], protocol: Protocol, seed: int) -> Iterator[Visit]:
        """Yield the visits of the graphs, interleaved. Raises DeviceError."""
        self._send({
            "graphs": [{"key": graph.key, "path": graph.path, "shapes": graph.shapes} for graph in graphs],
            "protocol": protocol.to_dict(),
            "seed": seed,
        })  # fmt: skip
        while "done" not in (answer := self._answer()):
            yield Visit(answer["key"], answer["at"], tuple(answer["ms"]))

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or ["no message"]
            raise DeviceError(f"the worker of runtime '{self.runtime}' ended: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceError(answer["error"])
        return answer


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
