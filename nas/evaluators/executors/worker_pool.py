"""The worker-pool executor: assigns candidates to workers, enforces time limits, and handles workers that end.

A WorkerBackend provides the workers: processes of this machine, or actors of a Ray cluster.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.executors.base import CrashError, Event
from nas.evaluators.executors.evaluator_host import (
    ACCURACY,
    BEGIN,
    DIED,
    END,
    FAILED,
    LOST,
    MORE,
    READY,
    STOP,
    UNFIT,
    Message,
    Reply,
)
from nas.training.loop import TrainingError
from nas.utils.units import format_duration

MAX_LOST = 3
"""A candidate that loses its worker more often than this fails."""
MAX_FAILED_STARTS = 3
"""The search ends when this many workers in a row end before they are ready."""


class Worker(Protocol):
    """The parent's side of an EvaluatorHost in another process."""

    def alive(self) -> bool | None:
        """Return whether the worker is running, or None if only a message could find out."""

    def send(self, message: Message) -> None:
        """Send a message without blocking. Errors are reported by `receive`."""

    def receive(self) -> Reply:
        """Return the reply that `WorkerBackend.wait` announced, or DIED or LOST if the worker has ended."""

    def kill(self) -> None:
        """Kill the worker."""


W = TypeVar("W", bound=Worker)


class WorkerBackend(Protocol[W]):
    """Starts workers and waits for their replies."""

    @property
    def slots(self) -> int:
        """Return how many workers can run at once. The number may change over time."""

    def start_worker(self) -> W:
        """Start a worker without waiting for it. Its first reply is READY or UNFIT."""

    def wait(self, workers: Sequence[W], timeout_s: float | None) -> Sequence[W]:
        """Return the workers that have replied or ended, or none when the time is over."""

    def close(self) -> None:
        """Release what the workers needed."""


@dataclass(eq=False)
class Candidate:
    """A candidate in the pool.

    Attributes:
        number: Identifies the candidate in events.
        arch: The architecture.
        seed: The seed of the evaluation.
        times: How many times the usual number of epochs to train.
        lost: How often the candidate has lost its worker.
    """

    number: int
    arch: Architecture
    seed: int
    times: int = 1
    lost: int = 0


@dataclass(eq=False)
class WorkerSlot(Generic[W]):
    """A worker and its state.

    Attributes:
        worker: The worker.
        failed_starts: How many workers in a row had failed to start when this one was started.
        candidate: The candidate that it evaluates, or None.
        ready: Whether its evaluator has been created.
        asked: Whether a reply is expected.
        deadline: When its candidate exceeds the time limit, on the monotonic clock.
        idle_unchecked: It has been idle since it was last known to be alive.
    """

    worker: W
    failed_starts: int = 0
    candidate: Candidate | None = None
    ready: bool = False
    asked: bool = True
    deadline: float = math.inf
    idle_unchecked: bool = False


class WorkerPoolExecutor(Generic[W]):
    """An executor whose workers evaluate one candidate after another.

    Args:
        backend: Provides the workers.
        limit_s: The time limit of a candidate in seconds, or None. It is multiplied by `times` of the candidate.
        warn: Prints a warning.
    """

    def __init__(self, backend: WorkerBackend[W], limit_s: float | None, warn: Callable[[str], None]):
        self._backend, self._limit_s, self._warn = backend, limit_s, warn
        self._slots: list[WorkerSlot[W]] = []
        self._waiting: deque[Candidate] = deque()
        self._events: deque[Event] = deque()
        self._reported: int | None = None  # the candidate whose accuracy `wait` returned last
        self._failed_starts = 0

    @property
    def slots(self) -> int:
        """Return how many candidates can run at once."""
        return self._backend.slots

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Start a candidate as soon as a worker is free."""
        self._request_next()
        self._waiting.append(Candidate(number, arch, seed, times))
        self._assign()

    def wait(self) -> Event:
        """Return the next event. Raises RunError if no worker can evaluate any candidate."""
        self._request_next()
        while not self._events:
            self._receive_replies()
        event = self._events.popleft()
        self._reported = None if event.accuracy is None else event.number
        return event

    def stop(self, number: int) -> None:
        """Stop a candidate. Its worker is killed if it is busy, and reused otherwise."""
        self._events = deque(event for event in self._events if event.number != number)
        self._waiting = deque(candidate for candidate in self._waiting if candidate.number != number)
        for slot in [slot for slot in self._slots if slot.candidate and slot.candidate.number == number]:
            if slot.asked:
                self._kill(slot)
            else:
                slot.worker.send((STOP,))
                slot.candidate = None
        self._assign()

    def close(self) -> None:
        """Kill all workers."""
        for slot in list(self._slots):
            self._kill(slot)
        self._backend.close()

    def _request_next(self) -> None:
        """Request the next accuracy of the candidate that reported last, unless it has been stopped."""
        number, self._reported = self._reported, None
        for slot in self._slots:
            if slot.candidate is not None and slot.candidate.number == number:
                self._ask(slot, (MORE,))

    def _ask(self, slot: WorkerSlot[W], message: Message) -> None:
        slot.worker.send(message)
        slot.asked = True

    def _assign(self) -> None:
        """Assign waiting candidates to free workers, and start workers for the remaining ones."""
        for slot in [slot for slot in self._slots if slot.ready and slot.candidate is None]:
            alive = slot.worker.alive()
            slot.idle_unchecked = alive is None and (slot.idle_unchecked or not self._waiting)
            if alive is False:
                self._kill(slot)
            elif self._waiting:
                slot.candidate = candidate = self._waiting.popleft()
                slot.deadline = time.monotonic() + candidate.times * (self._limit_s or math.inf)
                self._ask(slot, (BEGIN, candidate.arch, candidate.seed, candidate.times))
        starting = sum(not slot.ready for slot in self._slots)
        for _ in range(len(self._waiting) - starting):
            self._slots.append(WorkerSlot(self._backend.start_worker(), self._failed_starts))

    def _kill(self, slot: WorkerSlot[W]) -> None:
        self._slots.remove(slot)
        slot.worker.kill()

    def _receive_replies(self) -> None:
        """Process the replies until the next deadline, and fail the candidates that exceed the time limit."""
        asked = [slot for slot in self._slots if slot.asked]
        left_s = min(slot.deadline for slot in asked) - time.monotonic()
        timeout_s = None if left_s == math.inf else max(left_s, 0.0)
        replied = self._backend.wait([slot.worker for slot in asked], timeout_s)
        for slot in asked:
            if any(slot.worker is worker for worker in replied):
                self._process_reply(slot)
            elif time.monotonic() >= slot.deadline and self._limit_s and slot.candidate:
                self._kill(slot)
                limit = format_duration(slot.candidate.times * self._limit_s)
                self._fail(slot.candidate, TrainingError(f"it took longer than {limit}, the limit of a trial"))

    def _process_reply(self, slot: WorkerSlot[W]) -> None:
        (kind, value), candidate = slot.worker.receive(), slot.candidate
        slot.asked, idle_unchecked, slot.idle_unchecked = False, slot.idle_unchecked, False
        if kind == READY:
            slot.ready, self._failed_starts = True, 0
            for other in self._slots:
                other.failed_starts = 0
            self._assign()
        elif kind == UNFIT:
            raise RunError(value)
        elif candidate is not None and kind == ACCURACY:
            self._events.append(Event(candidate.number, value))
        elif candidate is not None and kind == END:
            slot.candidate = None
            self._events.append(Event(candidate.number, processor_s=value))
            self._assign()
        elif candidate is not None and kind == FAILED:
            slot.candidate = None
            self._fail(candidate, TrainingError(value))
        else:
            self._kill(slot)
            if not slot.ready:
                self._count_failed_start(slot, value)
            died_idle = kind == DIED and idle_unchecked and candidate is not None and candidate.lost == 0
            self._requeue_or_fail(candidate, value, kind == LOST or died_idle)

    def _fail(self, candidate: Candidate, error: TrainingError) -> None:
        self._events.append(Event(candidate.number, error=error))
        self._assign()

    def _count_failed_start(self, slot: WorkerSlot[W], why: str) -> None:
        """Warn about a worker that ended before it was ready. Raises RunError after MAX_FAILED_STARTS in a row.

        Workers that run at the same time count once: they may all have been on a node that was lost.
        """
        self._failed_starts = max(self._failed_starts, slot.failed_starts + 1)
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise RunError(
                f"no worker can be started: {why} ({MAX_FAILED_STARTS} in a row ended while they created the evaluator)"
            )
        self._warn(f"a worker ended while it created the evaluator; starting another one: {why}")

    def _requeue_or_fail(self, candidate: Candidate | None, why: str, not_its_fault: bool) -> None:
        """Requeue or fail the candidate of a worker that ended. It is None if the worker had none."""
        if candidate is None:
            self._assign()
        elif not_its_fault and candidate.lost < MAX_LOST:
            candidate.lost += 1
            self._warn(f"{candidate.arch.digest} starts over: {why}")
            self._events.append(Event(candidate.number, again=True))
            self._waiting.appendleft(candidate)
            self._assign()
        else:
            self._fail(candidate, CrashError(why))
