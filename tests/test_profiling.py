from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.profiling import Protocol, interleave, low_quantile, measure, quantile, summary


class FakeMachine:
    """A clock that runs only while something runs, with drift, spikes and two speeds."""

    def __init__(self, seed: int, drift: float = 0.0, spikes: float = 0.0, slow_share: float = 0.0):
        self.now_ns, self.calls = 0.0, 0
        self._rng = random.Random(seed)
        self._drift, self._spikes, self._slow_share = drift, spikes, slow_share

    def clock(self) -> int:
        return int(self.now_ns)

    def task(self, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            factor = 1 + self._drift * self.calls / 10_000
            if self._rng.random() < self._slow_share:
                factor *= 1.5
            if self._rng.random() < self._spikes:
                factor *= 10
            self.now_ns += ms * 1e6 * factor * self._rng.uniform(1.0, 1.01)

        return run


def estimates(machine: FakeMachine, tasks: dict[str, float], protocol: Protocol) -> dict[str, float]:
    runs = {key: machine.task(ms) for key, ms in tasks.items()}
    minima: dict[str, list[float]] = {key: [] for key in tasks}
    for visit in interleave(runs, protocol, random.Random(0), machine.clock, flush=lambda: None):
        minima[visit.key].append(min(visit.ms))
    return {key: low_quantile(values) for key, values in minima.items()}


@pytest.mark.parametrize(
    "noise", [{}, {"spikes": 0.1}, {"slow_share": 0.3}, {"drift": 0.02}, {"spikes": 0.05, "slow_share": 0.2}], ids=str
)
def test_the_estimate_recovers_the_truth_under_noise(noise: dict[str, float]) -> None:
    tasks = {f"task{index}": 0.1 * 1.4**index for index in range(12)}
    found = estimates(FakeMachine(1, **noise), tasks, Protocol())
    for key, truth in tasks.items():
        assert found[key] == pytest.approx(truth, rel=0.03), key


def test_every_key_gets_its_visits_in_changing_order() -> None:
    machine = FakeMachine(0)
    runs = {key: machine.task(1.0) for key in "abcdefgh"}
    protocol = Protocol(visits=5, warmup=1, repeats=3)
    order = [visit.key for visit in interleave(runs, protocol, random.Random(3), machine.clock, lambda: None)]
    rounds = [tuple(order[start : start + 8]) for start in range(0, 40, 8)]
    assert all(sorted(part) == list("abcdefgh") for part in rounds)
    assert len(set(rounds)) == 5
    assert machine.calls == 8 * (2 + 5 * 4)


def test_only_timed_calls_are_flushed_and_flushing_is_not_timed() -> None:
    machine, flushed = FakeMachine(0), []

    def flush() -> None:
        flushed.append(machine.calls)
        machine.now_ns += 1e9

    latency = measure(machine.task(2.0), warmup=2, repeats=5, clock=machine.clock, flush=flush)
    assert flushed == [2, 3, 4, 5, 6]
    assert latency.median == pytest.approx(2.0, rel=0.02)
    assert latency.samples == 5


@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=30))
def test_quantiles_lie_inside_and_in_order(values: list[float]) -> None:
    latency = summary([values])
    assert min(values) <= latency.p10 <= latency.median <= latency.p90 <= max(values)
    assert quantile(sorted(values), 0.0) == min(values)
    assert quantile(sorted(values), 1.0) == max(values)
