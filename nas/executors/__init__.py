"""Who evaluates the candidates of a search: this process, others on this machine, a cluster.

The loop of `nas.search` is one for all of them: it starts candidates while there are free slots, waits for the next
thing that happens to any of them, and stops those that fall behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from nas.architecture import Architecture


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


def no_accuracy(value: object) -> str:
    """Return what is said of a value that an evaluator gave and that is no accuracy."""
    return f"an accuracy must be a number in [0, 1]: {value!r}"


class Executor(Protocol):
    """What an executor provides. Candidates are known to it by a number that no other of the study has."""

    @property
    def slots(self) -> int:
        """How many candidates may be under way at once; may change while it runs."""

    def start(self, number: int, arch: Architecture, seed: int) -> None:
        """Begin to evaluate a candidate; whatever goes wrong with it is an event."""

    def wait(self) -> Event:
        """Block until something happens to a candidate; only called while one is under way."""

    def stop(self, number: int) -> None:
        """End a candidate that was started and has not ended; no more events of it come."""

    def close(self) -> None:
        """End whatever is under way and give everything back."""
