"""Worker: `python -m nas.devices.worker` measures exported models on the device.

Requests are JSON objects, one per line of stdin:
    {"runtime", "threads"}: the first line.
    {"put": name, "size": n}: the n bytes of a file follow; it is kept under the working directory until the next batch
        is done.
    {"graphs": [{"key", "path", "shapes"[, "memory": true]}], "protocol": {...}, "seed"}: a batch to measure.

Answers are JSON objects, one per line of stdout:
    {"settings", "device"}: what the process was granted and the processor, after the first line.
    {"loaded": key}: for each graph of a batch.
    {"key", "at", "ms": [...]}: for each sample; with "energy_mj" and "memory_bytes" if requested and available.
    {"alive": true}: after some seconds without another answer.
    {"done": true}: at the end of a batch.
    {"error": text}: the worker ends after it.

Python 3.9 or later, standard library, numpy and one runtime.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from nas.devices.energy_and_memory import energy_meter, peak_memory
from nas.devices.example_inputs import example_inputs
from nas.devices.processor import describe_processor
from nas.devices.runtimes import RUNTIMES, Runtime
from nas.devices.timing import Clock, Protocol, Run, flusher, interleave
from nas.errors import DeviceError, NasError
from nas.utils.registry import lookup

BEAT_S = 5.0
"""Time in s between two {"alive": true}."""
UNCLAIMED: dict[str, Any] = {"pinned": [], "scheduler": "default", "malloc": False}
"""The settings of a worker that claims no processor: simulated time does not depend on it."""
Answer = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serve requests until stdin ends or the answers can no longer be written."""
    answers = _private_stdout()

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    with contextlib.suppress(BrokenPipeError):
        try:
            _serve(sys.stdin.buffer, answer)
        except NasError as error:
            answer({"error": str(error)})
        except BrokenPipeError:
            raise
        except Exception as error:  # runtimes raise many types for graphs that they cannot load
            traceback.print_exc()
            answer({"error": f"the worker failed: {type(error).__name__}: {' '.join(str(error).split())}"})


def _private_stdout() -> TextIO:
    """Return stdout for the answers only; what libraries print goes to stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def _serve(requests: BinaryIO, answer: Answer) -> None:
    setup = json.loads(requests.readline())
    runtime, threads = lookup(RUNTIMES, setup["runtime"], "runtime")(), setup["threads"]
    clock = getattr(runtime, "clock", time.perf_counter_ns)
    is_wall_clock = clock is time.perf_counter_ns
    versions = _versions(runtime)  # imports the library, before the processor is claimed
    granted = claim_processor(threads) if is_wall_clock else UNCLAIMED
    answer({"settings": {**granted, **versions}, "device": describe_processor()})
    epoch = time.time() - clock() / 1e9 if is_wall_clock else 0.0
    busy = time.process_time_ns if is_wall_clock and threads == 1 else None
    stored: set[str] = set()
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        if "put" in request:
            stored.add(_store(request["put"], request["size"], requests))
            continue
        request["runtime"] = setup["runtime"]
        _measure(request, runtime, threads, (clock, epoch, busy), answer)
        for top in stored:
            shutil.rmtree(top, ignore_errors=True)
        stored.clear()
        answer({"done": True})


def _versions(runtime: Runtime) -> dict[str, Any]:
    version = runtime.version()
    try:
        import numpy as np
    except ImportError as error:
        raise DeviceError(f"numpy is not installed: pip install numpy ({error})") from error
    return {
        "runtime_version": version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
    }


def _store(name: str, size: int, requests: BinaryIO) -> str:
    """Write the next `size` bytes to the file `name`; return the top folder of the name."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise DeviceError("a file must be in a folder under the working directory", value=name)
    data = requests.read(size)
    if len(data) < size:
        raise DeviceError(f"ended after {len(data)} of {size} bytes", where=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.parts[0]


def _measure(
    batch: dict[str, Any], runtime: Runtime, threads: int, clocks: tuple[Clock, float, Clock | None], answer: Answer
) -> None:
    runs = {}
    for graph in batch["graphs"]:
        runs[graph["key"]] = runtime.load(graph["path"], example_inputs(graph["shapes"]), threads)
        answer({"loaded": graph["key"]})
    protocol = Protocol(**batch["protocol"])
    runtime_flush = getattr(runtime, "flusher", lambda size: None)(protocol.flush_bytes)
    flush = _with_heartbeat(runtime_flush or flusher(protocol.flush_bytes), answer)
    clock, epoch, busy = clocks
    joules = energy_meter(batch["runtime"].endswith("_cuda")) if protocol.energy_ms else None
    memory = _peak_memories(batch, runtime, threads, answer)
    for sample in interleave(runs, protocol, random.Random(batch["seed"]), clock, flush, epoch, busy, joules):
        costs = {**sample.costs, **memory.pop(sample.key, {})}
        answer({"key": sample.key, "at": round(sample.at, 4), "ms": [round(ms, 6) for ms in sample.ms], **costs})


def _peak_memories(
    batch: dict[str, Any], runtime: Runtime, threads: int, answer: Answer
) -> dict[str, dict[str, float]]:
    simulated: Callable[[str], int] | None = getattr(runtime, "peak_memory", None)
    found: dict[str, dict[str, float]] = {}
    for graph in batch["graphs"]:
        if not graph.get("memory"):
            continue
        if simulated:
            found[graph["key"]] = {"memory_bytes": simulated(graph["path"])}
            continue
        peak = peak_memory(batch["runtime"], graph["path"], graph["shapes"], threads, lambda: answer({"alive": True}))
        found[graph["key"]] = {} if peak is None else {"memory_bytes": peak}
        answer({"alive": True})
    return found


def _with_heartbeat(flush: Run, answer: Answer) -> Run:
    """Return `flush` that answers {"alive": true} every BEAT_S: a slow round is not a crash."""
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last > BEAT_S:
            answer({"alive": True})
            last = time.monotonic()
        flush()

    return beat


def claim_processor(threads: int) -> dict[str, Any]:
    """Pin the worker and raise its priority as far as the user's permissions allow. Return what was granted."""
    granted = {**UNCLAIMED, "malloc": bool(os.environ.get("MALLOC_TOP_PAD_"))}
    with contextlib.suppress(AttributeError, OSError):
        allowed = sorted(os.sched_getaffinity(0))
        if threads < len(allowed):
            os.sched_setaffinity(0, allowed[-threads:])
        granted["pinned"] = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        granted["scheduler"] = "fifo"
    except (AttributeError, OSError):
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:  # noqa: PTH123
            autogroup.write("-19")
            granted["scheduler"] = "autogroup -19"
    return granted


if __name__ == "__main__":
    main()
