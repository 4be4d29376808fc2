"""The replay executor: answers evaluations that are recorded already, and passes all others on to another executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from nas.architecture import Architecture
from nas.evaluators.executors.base import Event, Executor

Recorded = Mapping[tuple[str, int], Sequence[float]]
"""The accuracy after each epoch of finished evaluations, by (digest of the architecture, seed)."""


class ReplayExecutor:
    """An executor that does not repeat recorded evaluations.

    Args:
        executor: Evaluates everything else.
        recorded: The finished evaluations of the usual length.
    """

    def __init__(self, executor: Executor, recorded: Recorded):
        self._executor, self._recorded = executor, recorded
        self._events: deque[Event] = deque()

    @property
    def slots(self) -> int:
        """Return how many candidates can run at once."""
        return self._executor.slots

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Queue the events of a recorded evaluation, or start the candidate."""
        curve = self._recorded.get((arch.digest, seed)) if times == 1 else None
        if curve is None:
            self._executor.start(number, arch, seed, times)
        else:
            self._events += [*(Event(number, accuracy) for accuracy in curve), Event(number)]

    def wait(self) -> Event:
        """Return the next event: recorded ones first."""
        return self._events.popleft() if self._events else self._executor.wait()

    def stop(self, number: int) -> None:
        """Stop a running candidate. No event of this candidate follows."""
        if any(event.number == number for event in self._events):
            self._events = deque(event for event in self._events if event.number != number)
        else:
            self._executor.stop(number)

    def close(self) -> None:
        """Close the other executor."""
        self._executor.close()
