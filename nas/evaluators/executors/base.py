"""The protocol of executors, their events, and `evaluate_all`, which evaluates a list of networks on an executor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.errors import RunError, reason
from nas.training.loop import TrainingError


class CrashError(TrainingError):
    """The process that evaluated a candidate was killed or crashed."""


@dataclass(frozen=True)
class Event:
    """A candidate reports an accuracy, ends, fails, or starts over.

    Attributes:
        number: The number that the candidate was started with.
        accuracy: The value that the evaluator yielded, not validated yet. None for all other events.
        error: The reason for which the evaluation failed. The candidate has ended.
        again: The candidate lost its worker and starts over on another one. Its earlier accuracies are void.
        processor_s: Processor time of the whole evaluation, in seconds. Only set when the evaluation succeeded.
    """

    number: int
    accuracy: Any = None
    error: Exception | None = None
    again: bool = False
    processor_s: float = field(default=0.0, compare=False)

    @property
    def ended(self) -> bool:
        """Whether the evaluation is complete. No event of this candidate follows."""
        return self.accuracy is None and self.error is None and not self.again


class Executor(Protocol):
    """Evaluates several candidates at a time. Each running candidate has a number of its own."""

    @property
    def slots(self) -> int:
        """Return how many candidates can run at once. The number may change over time."""

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Start a candidate. Failures are reported as events.

        Args:
            number: Identifies the candidate in events.
            arch: The architecture to evaluate.
            seed: The seed of the evaluation.
            times: Train `times` as many epochs as usual.
        """

    def wait(self) -> Event:
        """Block until the next event. At least one candidate must be running."""

    def stop(self, number: int) -> None:
        """Stop a running candidate. No event of this candidate follows."""

    def close(self) -> None:
        """Stop all candidates and release all resources."""


@dataclass(frozen=True)
class Task:
    """One evaluation of a network.

    Attributes:
        architecture: The network.
        seed: The seed of the evaluation.
        times: How many times the usual number of epochs to train.
    """

    architecture: Architecture
    seed: int
    times: int = 1


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes:
        task: The task.
        curve: The accuracy after each epoch.
        error: The reason for which the evaluation failed, or None.
        crashed: Whether it failed because its process was killed or crashed.
        processor_s: Processor time of a successful evaluation, in seconds.
    """

    task: Task
    curve: tuple[float, ...]
    error: str | None = None
    crashed: bool = False
    processor_s: float = field(default=0.0, compare=False)


def evaluate_all(executor: Executor, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Evaluate the tasks and yield their outcomes in the order in which they end.

    `tasks` is consumed lazily: a task is taken when the executor has a free slot. The executor must be idle.

    Raises:
        RunError: No candidate can be evaluated at all.
    """
    waiting = iter(enumerate(tasks))
    running, curves = dict[int, Task](), dict[int, tuple[float, ...]]()
    while True:
        while len(running) < executor.slots and (item := next(waiting, None)) is not None:
            number, task = item
            running[number], curves[number] = task, ()
            executor.start(number, task.architecture, task.seed, task.times)
        if not running:
            return
        event = executor.wait()
        number = event.number
        curves[number], error = follow(curves[number], event)
        if error is not None and event.accuracy is not None:
            executor.stop(number)
        if error is not None or event.ended:
            crashed = isinstance(event.error, CrashError)
            yield Outcome(running.pop(number), curves.pop(number), error, crashed, event.processor_s)


def follow(curve: tuple[float, ...], event: Event) -> tuple[tuple[float, ...], str | None]:
    """Apply an event to a candidate's accuracies so far.

    Returns:
        The new accuracies, and the reason for which the candidate failed (None if it did not).

    Raises:
        RunError: The event reports an error that concerns all candidates, such as a run folder that is not writable.
    """
    if event.again:
        return (), None
    if isinstance(event.error, RunError):
        raise event.error
    if event.error is not None:
        return curve, reason(event.error)
    if event.ended:
        return curve, None if curve else "the evaluator yielded no accuracy"
    accuracy = event.accuracy
    if is_number(accuracy) and 0 <= float(accuracy) <= 1:
        return (*curve, float(accuracy)), None
    return curve, invalid_accuracy(accuracy)


def is_number(value: object) -> bool:
    """Return whether a value that an evaluator yielded is a real number (booleans are not)."""
    return isinstance(value, Real) and not isinstance(value, bool)


def invalid_accuracy(value: object) -> str:
    """Return the error message for a value that is not an accuracy."""
    return f"an accuracy must be a number in [0, 1]: {value!r}"
