"""How a latency is measured. Knows callables and a clock, neither networks nor runtimes.

Many short visits in random order see the machine in all its moods; one long visit sees one of them. Every timed
call starts with a cold second-level cache, as a layer inside a network does. What visits say of the truth is in
nas/estimate.py. Standard library only.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Run = Callable[[], object]
Clock = Callable[[], int]

COSTS = ("energy_mj", "memory_bytes")
"""What a visit may tell beside times: of one call, and of a fresh process."""
PREEMPTED_SHARE, PREEMPTED_NS = 0.03, 10_000
"""A call that waited for its processor longer than this share of its time and this many ns was preempted."""


@dataclass(frozen=True)
class Protocol:
    """The settings of a measurement; every table and result carries them.

    With `energy_ms`, each visit ends with calls for at least so long between two readings of the device's meter, if
    it has one.
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
class Visit:
    """One visit: whom, when (seconds of an epoch that all visits share), and the milliseconds of its timed calls.

    `costs` holds what else was measured: "energy_mj" of one call, "memory_bytes".
    """

    key: str
    at: float
    ms: tuple[float, ...]
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference: median and the 10 % and 90 % quantiles over all timed calls.

    `repeatability` is the relative difference of the medians of every other visit. Beside: the bytes of the exported
    file, by how many a fresh process grew at its peak, and the millijoules of a call; None where not measured.
    """

    median: float
    p10: float
    p90: float
    samples: int
    repeatability: float
    size_bytes: int | None = None
    memory_bytes: int | None = None
    energy_mj: float | None = None


def visit(
    run: Run, warmup: int, repeats: int, clock: Clock, flush: Run, processor_clock: Clock | None = None
) -> tuple[float, ...]:
    """Call `run` `warmup` times, then return the milliseconds of `repeats` calls, each after `flush`.

    With `processor_clock`, which stands still while the processor is elsewhere, preempted calls are made anew; where
    as many again were preempted as wanted, they count after all.
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
                times_ms = visit(runs[key], protocol.warmup, protocol.repeats, clock, flush, processor_clock)
                costs = energy(runs[key], times_ms, protocol.energy_ms, joules) if joules else {}
                yield Visit(key, epoch + clock() / 1e9, times_ms, costs)
    finally:
        if collecting:
            gc.enable()


def energy(run: Run, times_ms: Sequence[float], least_ms: float, joules: Callable[[], float]) -> dict[str, float]:
    """Return the millijoules of one call, over as many as take `least_ms`; nothing where none are wanted."""
    if not least_ms:
        return {}
    calls = max(1, round(least_ms / min(times_ms)))
    before = joules()
    for _ in range(calls):
        run()
    spent = joules() - before
    return {"energy_mj": 1e3 * spent / calls} if spent > 0 else {}  # a meter that did not move yet tells nothing


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
    times = _flat(visits)
    odd, even = (_flat(visits[start::2]) or times for start in (0, 1))
    return Latency(
        median=quantile(times, 0.5),
        p10=quantile(times, 0.1),
        p90=quantile(times, 0.9),
        samples=len(times),
        repeatability=abs(quantile(odd, 0.5) / quantile(even, 0.5) - 1),
    )


def _flat(visits: Sequence[Sequence[float]]) -> list[float]:
    return sorted(time_ms for times_ms in visits for time_ms in times_ms)


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return quantile(sorted(values), 0.5)


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
