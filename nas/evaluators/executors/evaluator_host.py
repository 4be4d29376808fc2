"""An evaluator in another process or on another node: made once, then asked for one accuracy at a time.

Whoever asks decides after each accuracy whether there is another, so that nothing is trained beyond a rung. Replies
are plain values: an exception travels as the line that says what went wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Protocol, TypeVar

from nas.architecture import Architecture
from nas.errors import RunError, reason
from nas.evaluators.executors import is_number, no_accuracy


class Evaluates(Protocol):
    """The part of an evaluator that a host needs."""

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield accuracies."""


Build = Callable[[], Evaluates]
"""How an evaluator is made: a `functools.partial` of a function that can be imported there, and picklable arguments."""
Message = tuple[Any, ...]
"""(BEGIN, architecture, seed, how many times as long as usual), (MORE,) or (STOP,)."""
BEGIN, MORE, STOP = "begin", "more", "stop"
Reply = tuple[str, Any]
"""One of what follows, with an accuracy, a line of text or None. Every message but STOP has one."""
READY, ACCURACY, END, FAILED = "ready", "accuracy", "end", "failed"
UNFIT = "unfit"
"""No candidate can be evaluated there: the search ends with the text."""
DIED = "died"
"""What evaluated ended without a word; the candidate is held to be the cause."""
LOST = "lost"
"""The place of the evaluation is gone; the candidate is not the cause."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What torch reads at its import."""


class EvaluatorHost:
    """An evaluator and the evaluation under way. Nothing that the evaluator raises leaves it."""

    def __init__(self, build: Build):
        self._build = build
        self._accuracies: Iterator[Any] = iter(())

    def ready(self) -> Reply:
        """Make the evaluator and return READY, or UNFIT and why."""
        try:
            self._of = cache(partial(of_length, self._build()))
        except (Exception, SystemExit) as error:
            return UNFIT, f"the evaluator cannot be made in another process: {reason(error)}"
        return READY, None

    def answer(self, message: Message) -> Reply | None:
        """Do what a message says and return the reply; None for STOP."""
        if message[0] == STOP:
            with contextlib.suppress(Exception):  # it is no longer of interest
                self._close()
            return None
        try:
            if message[0] == BEGIN:
                arch, seed, times = message[1:]
                self._accuracies = iter(self._of(times).evaluate(arch, seed))
            return plain(next(self._accuracies))
        except StopIteration:
            return END, None
        except RunError as error:
            return UNFIT, str(error)
        except (Exception, SystemExit) as error:
            return FAILED, reason(error)

    def _close(self) -> None:
        close = getattr(self._accuracies, "close", None)
        self._accuracies = iter(())
        if close is not None:
            close()  # a training that is stopped gives its memory back now


E = TypeVar("E", bound=Evaluates)


def of_length(evaluator: E, times: int) -> E:
    """Return the evaluator, or that of so many times the epochs."""
    longer: E = evaluator.longer(times) if times > 1 else evaluator  # type: ignore[attr-defined]  # where it has that
    return longer


def plain(value: Any) -> Reply:
    """Return an accuracy as a float, unchecked but for being a number: another object may not fit through a pipe."""
    if is_number(value):
        return ACCURACY, float(value)
    return FAILED, no_accuracy(value)
