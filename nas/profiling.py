"""How a latency is measured. Knows a callable and a clock, neither networks nor runtimes. Standard library only.

Many short visits in random order see the machine in all its moods; one long visit sees one of them. Every timed
call starts with a cold second-level cache, as a layer inside a network does.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

Run = Callable[[], object]
Clock = Callable[[], int]


@dataclass(frozen=True)
class Protocol:
    """The settings of a measurement; every table and result carries them."""

    visits: int = 12
    warmup: int = 1
    repeats: int = 3
    flush_bytes: int = 4 << 20

    def to_dict(self) -> dict[str, int]:
        """Return the settings by name."""
        return asdict(self)


@dataclass(frozen=True)
class Visit:
    """One visit: whom, when (seconds of an epoch that all visits share), and the milliseconds of its timed calls."""

    key: str
    at: float
    ms: tuple[float, ...]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference: median and the 10 % and 90 % quantiles over all timed calls."""

    median: float
    p10: float
    p90: float
    samples: int


def visit(run: Run, warmup: int, repeats: int, clock: Clock, flush: Run) -> tuple[float, ...]:
    """Call `run` `warmup` times, then return the milliseconds of `repeats` calls, each after `flush`."""
    for _ in range(warmup):
        run()
    times_ms = []
    for _ in range(repeats):
        flush()
        start = clock()
        run()
        times_ms.append((clock() - start) / 1e6)
    return tuple(times_ms)


def interleave(
    runs: Mapping[str, Run],
    protocol: Protocol,
    rng: random.Random,
    clock: Clock = time.perf_counter_ns,
    flush: Run | None = None,
    epoch: float = 0.0,
) -> Iterator[Visit]:
    """Yield visits until every key had `protocol.visits` of them; `epoch` is the time in s of the clock's zero.

    Each round visits every key once, in fresh random order; a first round is made and thrown away, since
    runtimes allocate and choose kernels in their first calls.
    """
    flush = flush or flusher(protocol.flush_bytes)
    order = list(runs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for key in order:
            visit(runs[key], protocol.warmup, 1, clock, flush)
        for _ in range(protocol.visits):
            rng.shuffle(order)
            for key in order:
                times_ms = visit(runs[key], protocol.warmup, protocol.repeats, clock, flush)
                yield Visit(key, epoch + clock() / 1e9, times_ms)
    finally:
        if collecting:
            gc.enable()


def measure(
    run: Run,
    *,
    warmup: int = 3,
    repeats: int = 30,
    clock: Clock = time.perf_counter_ns,
    flush: Run | None = None,
) -> Latency:
    """Return the latency of one callable, measured alone."""
    return summary([visit(run, warmup, repeats, clock, flush or flusher(Protocol().flush_bytes))])


def summary(visits: Sequence[Sequence[float]]) -> Latency:
    """Return median and spread over all calls of all visits, in ms."""
    times = sorted(time_ms for times_ms in visits for time_ms in times_ms)
    return Latency(quantile(times, 0.5), quantile(times, 0.1), quantile(times, 0.9), len(times))


def low_quantile(minima: Sequence[float]) -> float:
    """Return the 25 % quantile over visits of the visits' minima: what a machine repeats best under noise."""
    return quantile(sorted(minima), 0.25)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, interpolated linearly."""
    assert ordered, "a quantile of nothing"
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def flusher(size: int) -> Run:
    """Return a function that streams `size` bytes through the caches."""
    source, target = bytes(size), bytearray(size)

    def flush() -> None:
        target[:] = source

    return flush if size else lambda: None
