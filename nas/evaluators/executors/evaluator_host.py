"""The worker's side of remote evaluation: an evaluator that answers messages with one accuracy at a time.

The sender decides after each accuracy whether to ask for the next one, so nothing is trained beyond a rung. Replies
are plain values: an exception is sent as one line of text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Protocol, TypeVar

from nas.architecture import Architecture
from nas.errors import RunError, reason
from nas.evaluators.executors.base import invalid_accuracy, is_number


class Evaluates(Protocol):
    """The part of an evaluator that a host needs."""

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield accuracies."""


Build = Callable[[], Evaluates]
"""Creates the evaluator in the worker. It must be picklable, such as a `functools.partial` of a module's function."""
Message = tuple[Any, ...]
"""(BEGIN, architecture, seed, times), (MORE,) or (STOP,). `times` is the multiple of the usual number of epochs."""
BEGIN, MORE, STOP = "begin", "more", "stop"
Reply = tuple[str, Any]
"""One of the kinds below, with its value. Every message but STOP has one reply."""
READY = "ready"
"""The evaluator was created."""
ACCURACY = "accuracy"
"""The value is the next accuracy."""
END = "end"
"""The evaluation is complete. The value is its processor time in seconds."""
FAILED = "failed"
"""The evaluation failed. The value is the reason."""
UNFIT = "unfit"
"""The worker cannot evaluate any candidate, which ends the search. The value is the reason."""
DIED = "died"
"""The worker's process ended unexpectedly, presumably because of its candidate. The value is the reason."""
LOST = "lost"
"""The worker's node is gone, not because of its candidate. The value is the reason."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The environment variables from which torch reads its number of threads when it is imported."""


class EvaluatorHost:
    """An evaluator and its current evaluation. Exceptions of the evaluator become replies."""

    def __init__(self, build: Build):
        self._build = build
        self._accuracies: Iterator[Any] = iter(())
        self._started_s = 0.0

    def ready(self) -> Reply:
        """Create the evaluator and return READY, or UNFIT with the reason."""
        try:
            self._evaluator_for = cache(partial(extend_epochs, self._build()))
        except (Exception, SystemExit) as error:
            return UNFIT, f"the evaluator cannot be created in another process: {reason(error)}"
        return READY, None

    def answer(self, message: Message) -> Reply | None:
        """Process a message and return the reply, or None for STOP."""
        if message[0] == STOP:
            with contextlib.suppress(Exception):  # the candidate has been dropped: its errors do not matter
                self._close()
            return None
        try:
            if message[0] == BEGIN:
                arch, seed, times = message[1:]
                self._started_s = time.process_time()
                self._accuracies = iter(self._evaluator_for(times).evaluate(arch, seed))
            return accuracy_reply(next(self._accuracies))
        except StopIteration:
            return END, time.process_time() - self._started_s
        except RunError as error:
            return UNFIT, str(error)
        except (Exception, SystemExit) as error:
            return FAILED, reason(error)

    def _close(self) -> None:
        """Close the generator, so that a stopped training releases its memory at once."""
        close = getattr(self._accuracies, "close", None)
        self._accuracies = iter(())
        if close is not None:
            close()


E = TypeVar("E", bound=Evaluates)


def extend_epochs(evaluator: E, times: int) -> E:
    """Return the evaluator, or its `longer(times)` if `times` is above 1."""
    longer: E = evaluator.longer(times) if times > 1 else evaluator  # type: ignore[attr-defined]  # an optional method
    return longer


def accuracy_reply(value: Any) -> Reply:
    """Return the reply for a value that the evaluator yielded.

    Numbers become floats; their range is checked later. Other objects may not be picklable, so they fail here.
    """
    if is_number(value):
        return ACCURACY, float(value)
    return FAILED, invalid_accuracy(value)
