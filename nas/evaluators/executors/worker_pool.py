"""Candidates on workers somewhere else: who works on what, time limits, and what becomes of workers that end.

What a worker is, a process or an actor of Ray, is the crew's matter.
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
from nas.evaluators.executors import Event
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

MOST_LOST = 3
"""A candidate whose node is lost so often is held to be the cause."""
MOST_UNBORN = 3
"""Workers that end before they are ready, each started after the one before had ended: none will ever be ready."""


class Worker(Protocol):
    """A nas.evaluators.executors.evaluator_host.Host somewhere else."""

    def alive(self) -> bool | None:
        """Whether it can be asked; None where that is not known without asking."""

    def send(self, message: Message) -> None:
        """Send a message; returns at once, and what goes wrong stands in the reply."""

    def receive(self) -> Reply:
        """Return the reply that `WorkerBackend.wait` saw, or how the worker ended: DIED or LOST."""

    def kill(self) -> None:
        """End it now."""


W = TypeVar("W", bound=Worker)


class WorkerBackend(Protocol[W]):
    """Where workers come from."""

    @property
    def slots(self) -> int:
        """Return how many workers there is room for now."""

    def start_worker(self) -> W:
        """Return a worker that is being started; READY or why not is the first that it says."""

    def wait(self, workers: Sequence[W], timeout_s: float | None) -> Sequence[W]:
        """Return those of the workers that have said something or ended; none when the time is over."""

    def close(self) -> None:
        """End what the workers needed."""


@dataclass(eq=False)
class Candidate:
    """What is to be evaluated, and how often the place where it was is lost."""

    number: int
    arch: Architecture
    seed: int
    times: int = 1
    lost: int = 0


@dataclass(eq=False)
class WorkerSlot(Generic[W]):
    """A worker: with a candidate or free, asked and expected to say something or not.

    `unborn`: how many in a row had ended before they were ready when it was hired. `unheard`: it was free, and nothing
    tells that it has lived since.
    """

    worker: W
    failed_starts: int = 0
    candidate: Candidate | None = None
    ready: bool = False
    asked: bool = True
    deadline: float = math.inf
    idle_unchecked: bool = False


class WorkerPoolExecutor(Generic[W]):
    """An Executor. Workers live across candidates; `limit_s` is the time that each candidate has once it began.

    One that is evaluated longer has so many times the time.
    """

    def __init__(self, crew: WorkerBackend[W], limit_s: float | None, warn: Callable[[str], None]):
        self._crew, self._limit_s, self._warn = crew, limit_s, warn
        self._seats: list[WorkerSlot[W]] = []
        self._waiting: deque[Candidate] = deque()
        self._events: deque[Event] = deque()
        self._told: int | None = None
        self._unborn = 0

    @property
    def slots(self) -> int:
        """Return how many candidates may be under way at once."""
        return self._crew.slots

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Begin to evaluate a candidate as soon as a worker is free for it."""
        self._go_on()
        self._waiting.append(Candidate(number, arch, seed, times))
        self._assign()

    def wait(self) -> Event:
        """Return the next event. Raises RunError where no worker can evaluate anything."""
        self._go_on()
        while not self._events:
            self._listen()
        event = self._events.popleft()
        self._told = None if event.accuracy is None else event.number
        return event

    def stop(self, number: int) -> None:
        """End a candidate; its worker is free for another."""
        self._events = deque(event for event in self._events if event.number != number)
        self._waiting = deque(candidate for candidate in self._waiting if candidate.number != number)
        for seat in [seat for seat in self._seats if seat.candidate and seat.candidate.number == number]:
            if seat.asked:
                self._dismiss(seat)
            else:
                seat.worker.send((STOP,))
                seat.candidate = None
        self._assign()

    def close(self) -> None:
        """End all workers."""
        for seat in list(self._seats):
            self._dismiss(seat)
        self._crew.close()

    def _go_on(self) -> None:
        """Ask for the next accuracy of the candidate whose last one was told and which nobody stopped."""
        number, self._told = self._told, None
        for seat in self._seats:
            if seat.candidate is not None and seat.candidate.number == number:
                self._ask(seat, (MORE,))

    def _ask(self, seat: WorkerSlot[W], message: Message) -> None:
        seat.worker.send(message)
        seat.asked = True

    def _assign(self) -> None:
        """Give waiting candidates to free workers, and have as many more started as are missing."""
        for seat in [seat for seat in self._seats if seat.ready and seat.candidate is None]:
            alive = seat.worker.alive()
            seat.idle_unchecked = alive is None and (seat.idle_unchecked or not self._waiting)
            if alive is False:
                self._dismiss(seat)
            elif self._waiting:
                seat.candidate = candidate = self._waiting.popleft()
                seat.deadline = time.monotonic() + candidate.times * (self._limit_s or math.inf)
                self._ask(seat, (BEGIN, candidate.arch, candidate.seed, candidate.times))
        coming = sum(not seat.ready for seat in self._seats)
        for _ in range(len(self._waiting) - coming):
            self._seats.append(WorkerSlot(self._crew.start_worker(), self._unborn))

    def _dismiss(self, seat: WorkerSlot[W]) -> None:
        self._seats.remove(seat)
        seat.worker.kill()

    def _listen(self) -> None:
        """Take what workers have said by the next deadline, and end those that are over it."""
        asked = [seat for seat in self._seats if seat.asked]
        left_s = min(seat.deadline for seat in asked) - time.monotonic()
        heard = self._crew.wait([seat.worker for seat in asked], None if left_s == math.inf else max(left_s, 0.0))
        for seat in asked:
            if any(seat.worker is worker for worker in heard):
                self._hear(seat)
            elif time.monotonic() >= seat.deadline and self._limit_s and seat.candidate:
                self._dismiss(seat)
                limit = format_duration(seat.candidate.times * self._limit_s)
                self._end(seat.candidate, f"it took longer than {limit}, the limit of a trial")

    def _hear(self, seat: WorkerSlot[W]) -> None:
        (kind, value), candidate = seat.worker.receive(), seat.candidate
        seat.asked, idle_unchecked, seat.idle_unchecked = False, seat.idle_unchecked, False
        if kind == READY:
            seat.ready, self._unborn = True, 0
            for other in self._seats:
                other.failed_starts = 0
            self._assign()
        elif kind == UNFIT:
            raise RunError(value)
        elif candidate is not None and kind == ACCURACY:
            self._events.append(Event(candidate.number, value))
        elif candidate is not None and kind in (END, FAILED):
            seat.candidate = None
            self._end(candidate, value)
        else:
            self._dismiss(seat)
            if not seat.ready:
                self._count_unborn(seat, value)
            innocent = kind == DIED and idle_unchecked and candidate is not None and candidate.lost == 0
            self._missing(candidate, value, kind == LOST or innocent)

    def _end(self, candidate: Candidate, error: str | None) -> None:
        self._events.append(Event(candidate.number, error=TrainingError(error) if error is not None else None))
        self._assign()

    def _count_unborn(self, seat: WorkerSlot[W], why: str) -> None:
        """Say that a worker ended before it was ready. Raises RunError where that seems to be so of all.

        Several that end together, as on a node that is lost, count as one.
        """
        self._unborn = max(self._unborn, seat.failed_starts + 1)
        if self._unborn >= MOST_UNBORN:
            raise RunError(f"no worker can be started: {why} ({MOST_UNBORN} in a row ended while making the evaluator)")
        self._warn(f"a worker ended while making the evaluator, another is started: {why}")

    def _missing(self, candidate: Candidate | None, why: str, lost: bool) -> None:
        """Decide what becomes of the candidate of a worker that ended; None if it ended before it had one."""
        if candidate is None:
            self._assign()
        elif lost and candidate.lost < MOST_LOST:
            candidate.lost += 1
            self._warn(f"{candidate.arch.digest} begins again: {why}")
            self._events.append(Event(candidate.number, again=True))
            self._waiting.appendleft(candidate)
            self._assign()
        else:
            self._end(candidate, why)
