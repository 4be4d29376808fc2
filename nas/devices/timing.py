"""Timing of inferences: interleaved samples of callables on one clock.

Many short samples in random order see a machine at all its speeds; one long measurement sees one speed. Each timed call
starts with a cold second-level cache, as a layer inside a network does. `nas.latency.robust_estimation` turns the
samples into latencies. Standard library only.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Run = Callable[[], object]
Clock = Callable[[], int]

COSTS = ("energy_mj", "memory_bytes")
"""The costs that a sample may hold besides its times: energy of one call, peak memory of a fresh process."""
PREEMPTED_SHARE, PREEMPTED_NS = 0.03, 10_000
"""A call was preempted if it waited for its processor longer than this share of its time plus this many ns."""


@dataclass(frozen=True)
class Protocol:
    """The settings of a measurement. Every table and result records them.

    Attributes:
        visits: Samples to take of each graph.
        warmup: Untimed calls before the timed calls of a sample.
        repeats: Timed calls of a sample.
        flush_bytes: Bytes streamed through the caches before each timed call.
        energy_ms: Duration of the calls between two readings of the device's energy meter; 0 measures no energy.
    """

    visits: int = 12
    warmup: int = 1
    repeats: int = 3
    flush_bytes: int = 4 << 20
    energy_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """One short measurement of one graph.

    Attributes:
        key: The graph's key.
        at: When it was taken, in seconds of an epoch that all samples of a worker share.
        ms: The times of its timed calls.
        costs: Other costs by name, see `COSTS`.
    """

    key: str
    at: float
    ms: tuple[float, ...]
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """The latency of one inference in ms, and its other costs.

    Attributes:
        median: Median over all timed calls.
        p10: 10 % quantile over all timed calls.
        p90: 90 % quantile over all timed calls.
        samples: Number of timed calls.
        repeatability: Relative difference between the medians of the odd and the even samples.
        size_bytes: Size of the exported file; None if not measured.
        memory_bytes: Peak growth of a fresh process; None if not measured.
        energy_mj: Energy of one call in millijoules; None if not measured.
    """

    median: float
    p10: float
    p90: float
    samples: int
    repeatability: float
    size_bytes: int | None = None
    memory_bytes: int | None = None
    energy_mj: float | None = None


def time_calls(
    run: Run, warmup: int, repeats: int, clock: Clock, flush: Run, processor_clock: Clock | None = None
) -> tuple[float, ...]:
    """Return the times in ms of `repeats` calls of `run`, each after `flush`.

    Args:
        run: The call to time.
        warmup: Untimed calls before the first timed one.
        repeats: Number of times to return.
        clock: Wall clock in ns.
        flush: Evicts the caches.
        processor_clock: Processor time in ns, which stops while the process is preempted. If given, preempted calls
            are repeated, up to 2 * `repeats` of them; their times fill up what is then still missing.
    """
    for _ in range(warmup):
        run()
    good: list[float] = []
    preempted: list[float] = []
    while len(good) < repeats and len(preempted) < 2 * repeats:
        flush()
        busy = processor_clock() if processor_clock else 0
        start = clock()
        run()
        wall = clock() - start
        waited = wall - (processor_clock() - busy) if processor_clock else 0
        calls = preempted if waited > PREEMPTED_SHARE * wall + PREEMPTED_NS else good
        calls.append(wall / 1e6)
    return tuple((good + preempted)[:repeats])


def interleave(
    runs: Mapping[str, Run],
    protocol: Protocol,
    rng: random.Random,
    clock: Clock = time.perf_counter_ns,
    flush: Run | None = None,
    epoch: float = 0.0,
    processor_clock: Clock | None = None,
    joules: Callable[[], float] | None = None,
) -> Iterator[Sample]:
    """Yield `protocol.visits` samples of each key, in rounds: each round takes one sample per key in random order.

    A first round is discarded, because runtimes allocate and choose kernels in their first calls.

    Args:
        runs: The call to time for each key.
        protocol: Settings of the measurement.
        rng: Source of the random orders.
        clock: Wall clock in ns.
        flush: Evicts the caches; default: streams `protocol.flush_bytes` through them.
        epoch: Time in s of the clock's zero.
        processor_clock: See `time_calls`.
        joules: Energy meter, read if `protocol.energy_ms` is not 0.
    """
    flush = flush or flusher(protocol.flush_bytes)
    order = list(runs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for key in order:
            time_calls(runs[key], protocol.warmup, 1, clock, flush)
        for _ in range(protocol.visits):
            rng.shuffle(order)
            for key in order:
                times_ms = time_calls(runs[key], protocol.warmup, protocol.repeats, clock, flush, processor_clock)
                costs = measure_energy(runs[key], times_ms, protocol.energy_ms, joules) if joules else {}
                yield Sample(key, epoch + clock() / 1e9, times_ms, costs)
    finally:
        if collecting:
            gc.enable()


def measure_energy(
    run: Run, times_ms: Sequence[float], least_ms: float, joules: Callable[[], float]
) -> dict[str, float]:
    """Return {"energy_mj": energy of one call}, averaged over at least `least_ms` of calls.

    Returns {} if `least_ms` is 0, or if the meter has not moved.
    """
    if not least_ms:
        return {}
    calls = max(1, round(least_ms / min(times_ms)))
    before = joules()
    for _ in range(calls):
        run()
    spent = joules() - before
    return {"energy_mj": 1e3 * spent / calls} if spent > 0 else {}


def summarize(samples: Sequence[Sequence[float]]) -> Latency:
    """Return the median and the spread of the calls of all samples; `samples` holds their times in ms."""
    times = _flat(samples)
    odd, even = (_flat(samples[start::2]) or times for start in (0, 1))
    return Latency(
        median=median(times),
        p10=quantile(times, 0.1),
        p90=quantile(times, 0.9),
        samples=len(times),
        repeatability=abs(median(odd) / median(even) - 1),
    )


def _flat(samples: Sequence[Sequence[float]]) -> list[float]:
    return sorted(time_ms for times_ms in samples for time_ms in times_ms)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values by linear interpolation. Equal values give exactly their value."""
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
