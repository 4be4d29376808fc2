"""The replay executor: recorded evaluations are answered at once, all others are passed on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.architecture import Architecture
from nas.evaluators.executors.base import Event, Task, evaluate_all
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.executors.replay import ReplayExecutor
from nas.spaces.yaml_format import load_architecture

KNOWN, NEW = load_architecture("squeezenet_1.1"), load_architecture("mobilenet_v1_0.25")


class Counting:
    """Yields two accuracies and counts its evaluations."""

    def __init__(self) -> None:
        self.evaluated: list[tuple[str, int]] = []

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        self.evaluated.append((arch.digest, seed))
        yield from (0.5, 0.6)

    def longer(self, times: int) -> Counting:
        return self


def test_only_what_is_not_recorded_is_evaluated() -> None:
    counting = Counting()
    executor = ReplayExecutor(InProcessExecutor(counting), {(KNOWN.digest, 0): (0.1, 0.2, 0.3)})
    tasks = [Task(KNOWN, 0), Task(NEW, 0), Task(KNOWN, 1), Task(KNOWN, 0, 2)]
    outcomes = list(evaluate_all(executor, tasks))
    assert [outcome.curve for outcome in outcomes] == [(0.1, 0.2, 0.3), (0.5, 0.6), (0.5, 0.6), (0.5, 0.6)]
    assert counting.evaluated == [(NEW.digest, 0), (KNOWN.digest, 1), (KNOWN.digest, 0)]
    assert executor.slots == 1


def test_a_recorded_evaluation_can_be_stopped() -> None:
    executor = ReplayExecutor(InProcessExecutor(Counting()), {(KNOWN.digest, 0): (0.1, 0.2, 0.3)})
    executor.start(7, KNOWN, 0)
    assert executor.wait() == Event(7, 0.1)
    executor.stop(7)
    executor.start(8, NEW, 0)
    assert [executor.wait() for _ in range(3)] == [Event(8, 0.5), Event(8, 0.6), Event(8)]
    executor.close()
