"""Who evaluates the candidates of a search: this process, others on this machine, a cluster.

The loop of `nas.searching.loop` is one for all of them: it starts candidates while there are free slots, waits for
the next thing that happens to any of them, and stops those that fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.errors import RunError, reason


@dataclass(frozen=True)
class Event:
    """Something happened to the candidate `number`: an epoch's accuracy, or its end (`accuracy` None), or `error`.

    The accuracy is what the evaluator gave, not checked yet. An error is an end too. `again`: the place where it was
    evaluated is lost, and it begins anew elsewhere; what was told of it before is void.
    """

    number: int
    accuracy: Any = None
    error: Exception | None = None
    again: bool = False

    @property
    def ended(self) -> bool:
        """Whether the evaluation came to its end; nothing more is heard of the candidate."""
        return self.accuracy is None and self.error is None and not self.again


class Executor(Protocol):
    """What an executor provides. Candidates are known to it by a number that no other under way has."""

    @property
    def slots(self) -> int:
        """How many candidates may be under way at once; may change while it runs."""

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Begin to evaluate a candidate, `times` as long as usual; whatever goes wrong with it is an event."""

    def wait(self) -> Event:
        """Block until something happens to a candidate; only called while one is under way."""

    def stop(self, number: int) -> None:
        """End a candidate that was started and has not ended; no more events of it come."""

    def close(self) -> None:
        """End whatever is under way and give everything back."""


@dataclass(frozen=True)
class Task:
    """A network to be evaluated: with which seed, and how many times as long as usual."""

    architecture: Architecture
    seed: int
    times: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a task: the accuracy after each epoch; `error` says why there is no last one."""

    task: Task
    curve: tuple[float, ...]
    error: str | None = None


def evaluate_all(executor: Executor, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Yield what became of each task, in the order in which they end. Raises RunError where nothing can be evaluated.

    As many are under way at once as the executor has slots; nothing else may be.
    """
    waiting, curves = list(enumerate(tasks))[::-1], dict[int, tuple[float, ...]]()
    while waiting or curves:
        while waiting and len(curves) < executor.slots:
            number, task = waiting.pop()
            curves[number] = ()
            executor.start(number, task.architecture, task.seed, task.times)
        event = executor.wait()
        number = event.number
        curves[number], error = follow(curves[number], event)
        if error is not None and event.accuracy is not None:
            executor.stop(number)
        if error is not None or event.ended:
            yield Outcome(tasks[number], curves.pop(number), error)


def follow(curve: tuple[float, ...], event: Event) -> tuple[tuple[float, ...], str | None]:
    """Return a candidate's accuracies with what an event tells of it, and why it failed, None where it did not.

    Raises RunError, which ends more than the candidate: a run folder that cannot be written.
    """
    if event.again:
        return (), None
    if isinstance(event.error, RunError):
        raise event.error
    if event.error is not None:
        return curve, reason(event.error)
    if event.ended:
        return curve, None if curve else "the evaluator gave no accuracy"
    accuracy = event.accuracy
    if is_number(accuracy) and 0 <= float(accuracy) <= 1:
        return (*curve, float(accuracy)), None
    return curve, no_accuracy(accuracy)


def is_number(value: object) -> bool:
    """Whether a value that an evaluator gave is a number at all."""
    return isinstance(value, Real) and not isinstance(value, bool)


def no_accuracy(value: object) -> str:
    """Return what is said of a value that an evaluator gave and that is no accuracy."""
    return f"an accuracy must be a number in [0, 1]: {value!r}"
