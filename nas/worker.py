"""`python -m nas.worker`: measures exported models on the device. Standard library, numpy and one runtime.

Reads one JSON object a line from stdin. The first is {"runtime", "threads"}; every other is a batch,
{"graphs": [{"key", "path", "shapes"}], "protocol": {...}, "seed"}. Answers one JSON object a line: the settings
that the process got, {"key", "ms": [...]} for each visit, {"done": true} after each batch, or {"error": text}.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from nas.errors import NasError
from nas.profiling import Protocol, interleave
from nas.registry import lookup
from nas.runtimes import RUNTIMES


def main() -> None:
    """Serve batches until stdin ends."""
    answers = _private_stdout()
    try:
        _serve(sys.stdin, lambda answer: print(json.dumps(answer), file=answers, flush=True))
    except NasError as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)


def _private_stdout() -> TextIO:
    """Return stdout for the answers alone; what libraries print goes to stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def _serve(requests: TextIO, answer: Callable[[dict[str, Any]], None]) -> None:
    setup = json.loads(next(requests))
    runtime, threads = lookup(RUNTIMES, setup["runtime"], "runtime")(), setup["threads"]
    answer({"settings": {**claim_processor(threads), "runtime_version": runtime.version()}})
    clock = getattr(runtime, "clock", time.perf_counter_ns)
    flusher = getattr(runtime, "flusher", lambda size: None)
    for line in requests:
        batch = json.loads(line)
        runs = {
            graph["key"]: runtime.load(graph["path"], example_inputs(graph["shapes"]), threads)
            for graph in batch["graphs"]
        }
        protocol = Protocol(**batch["protocol"])
        flush = flusher(protocol.flush_bytes)
        for key, times_ms in interleave(runs, protocol, random.Random(batch["seed"]), clock, flush):
            answer({"key": key, "ms": times_ms})
        answer({"done": True})


def example_inputs(shapes: list[list[int]]) -> list[Any]:
    """Return the same float32 arrays for the same shapes, of values in [-1, 1]."""
    import numpy as np

    return [np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def claim_processor(threads: int) -> dict[str, Any]:
    """Ask for undisturbed time on the processor as far as this user may, and return what was granted."""
    got: dict[str, Any] = {"pinned": [], "scheduler": "default", "malloc": bool(os.environ.get("MALLOC_TOP_PAD_"))}
    with contextlib.suppress(AttributeError, OSError):
        allowed = sorted(os.sched_getaffinity(0))
        if threads < len(allowed):
            os.sched_setaffinity(0, allowed[-threads:])
        got["pinned"] = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        got["scheduler"] = "fifo"
    except (AttributeError, OSError):
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:  # noqa: PTH123
            autogroup.write("-19")
            got["scheduler"] = "autogroup -19"
    return got


if __name__ == "__main__":
    main()
