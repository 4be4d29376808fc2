from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.devices.timing import Protocol, interleave, quantile, summarize, time_calls
from nas.latency.robust_estimation import estimate


class FakeMachine:
    """A clock that advances only while a task runs, with drift, spikes, two speeds and preemption."""

    def __init__(self, seed: int, **noise: float):
        self.now_ns, self.busy_ns, self.calls = 0.0, 0.0, 0
        self._rng = random.Random(seed)
        self._noise = noise

    def clock(self) -> int:
        return int(self.now_ns)

    def processor_clock(self) -> int:
        return int(self.busy_ns)

    def task(self, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            busy = ms * 1e6 * self._slowdown() * self._rng.uniform(1.0, 1.01)
            lost = self._rng.random() < self._noise.get("preempted", 0.0)
            self.busy_ns += busy
            self.now_ns += busy + (4e6 if lost else 0.0)

        return run

    def _slowdown(self) -> float:
        factor = 1 + self._noise.get("drift", 0.0) * self.calls / 1_000
        period = self._noise.get("period", 0.0)
        if period and self.calls % period < 0.4 * period:
            factor *= 1.3
        if self._rng.random() < self._noise.get("slow_share", 0.0):
            factor *= 1.5
        if self._rng.random() < self._noise.get("spikes", 0.0):
            factor *= 10
        return factor


def estimates(machine: FakeMachine, tasks: dict[str, float], processor: bool = False) -> dict[str, float]:
    runs = {key: machine.task(ms) for key, ms in tasks.items()}
    clock = machine.processor_clock if processor else None
    samples = list(
        interleave(runs, Protocol(), random.Random(0), machine.clock, flush=lambda: None, processor_clock=clock)
    )
    return estimate(
        [sample.key for sample in samples], [sample.at for sample in samples], [median(v.ms) for v in samples]
    )


TASKS = {f"task{index}": 0.1 * 1.04**index for index in range(120)}


@pytest.mark.parametrize(
    "noise",
    [
        {},
        {"spikes": 0.1},
        {"slow_share": 0.2},
        {"drift": 0.1},
        {"period": 2_000},
        {"period": 700, "drift": 0.05, "spikes": 0.05, "slow_share": 0.1},
    ],
    ids=str,
)
def test_the_estimate_recovers_the_truth_but_for_one_factor(noise: dict[str, float]) -> None:
    found = estimates(FakeMachine(1, **noise), TASKS)
    factors = sorted(found[key] / truth for key, truth in TASKS.items())
    assert 0.98 < factors[60] < 1.4
    errors = [abs(factor / factors[60] - 1) for factor in factors]
    assert sum(errors) / len(errors) < 0.01
    assert max(errors) < 0.05


def test_without_neighbours_in_time_a_slow_period_would_show() -> None:
    machine = FakeMachine(1, period=700, drift=0.05)
    runs = {key: machine.task(ms) for key, ms in TASKS.items()}
    samples = list(interleave(runs, Protocol(visits=5), random.Random(0), machine.clock, flush=lambda: None))
    own = {key: median([median(sample.ms) for sample in samples if sample.key == key]) for key in TASKS}
    ours = estimate(
        [sample.key for sample in samples], [sample.at for sample in samples], [median(v.ms) for v in samples]
    )

    def spread(found: dict[str, float]) -> float:
        factors = sorted(found[key] / truth for key, truth in TASKS.items())
        return factors[110] / factors[10]

    assert spread(ours) < 1.02 < spread(own)


def test_preempted_calls_are_made_anew_where_the_processor_tells() -> None:
    noise = {"preempted": 0.5}
    with_clock, without = (estimates(FakeMachine(2, **noise), TASKS, processor) for processor in (True, False))
    assert sum(abs(with_clock[key] / truth - 1) for key, truth in TASKS.items()) / len(TASKS) < 0.02
    assert sum(abs(without[key] / truth - 1) for key, truth in TASKS.items()) / len(TASKS) > 0.5


def test_a_task_that_is_always_preempted_still_gets_its_times() -> None:
    machine = FakeMachine(0, preempted=1.0)
    times = time_calls(machine.task(1.0), 1, 3, machine.clock, lambda: None, machine.processor_clock)
    assert len(times) == 3
    assert all(5.0 <= ms <= 5.1 for ms in times)


def test_estimates_of_nothing_and_of_one_visit() -> None:
    assert estimate([], [], []) == {}
    assert estimate(["a"], [0.0], [2.0]) == {"a": 2.0}


def test_every_key_gets_its_visits_in_changing_order() -> None:
    machine = FakeMachine(0)
    runs = {key: machine.task(1.0) for key in "abcdefgh"}
    protocol = Protocol(visits=5, warmup=1, repeats=3)
    order = [sample.key for sample in interleave(runs, protocol, random.Random(3), machine.clock, lambda: None)]
    rounds = [tuple(order[start : start + 8]) for start in range(0, 40, 8)]
    assert all(sorted(part) == list("abcdefgh") for part in rounds)
    assert len(set(rounds)) == 5
    assert machine.calls == 8 * (2 + 5 * 4)


def test_only_timed_calls_are_flushed_and_flushing_is_not_timed() -> None:
    machine, flushed = FakeMachine(0), []

    def flush() -> None:
        flushed.append(machine.calls)
        machine.now_ns += 1e9

    latency = summarize([time_calls(machine.task(2.0), 2, 5, machine.clock, flush)])
    assert flushed == [2, 3, 4, 5, 6]
    assert latency.median == pytest.approx(2.0, rel=0.02)
    assert latency.samples == 5


@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=30))
def test_quantiles_lie_inside_and_in_order(values: list[float]) -> None:
    latency = summarize([values])
    assert min(values) <= latency.p10 <= latency.median <= latency.p90 <= max(values)
    assert quantile(sorted(values), 0.0) == min(values)
    assert quantile(sorted(values), 1.0) == max(values)
