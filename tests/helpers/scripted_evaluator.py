"""A scripted evaluator: the seed selects what happens during the evaluation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.executors.base import Event
from nas.evaluators.executors.evaluator_host import extend_epochs

END = object()


class Scripted:
    """Yields accuracies, with the action of the seed (a key of ACTIONS) before the last one."""

    def __init__(self, folder: str = ""):
        self.folder = folder

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[Any]:
        """Yield accuracies, or fail."""
        print(f"evaluating {arch.digest}")
        yield from (0.25, 0.5)
        yield from ACTIONS[seed](self.folder)
        yield 0.75

    def longer(self, times: int) -> Scripted:
        """Return the same evaluator."""
        return self


def drawn(folder: str) -> Iterator[float]:
    """Record that the evaluation got this far."""
    (Path(folder) / "drawn").touch()
    yield 0.6


def raising(folder: str) -> list[float]:
    raise ValueError("no such\nkernel")


def hanging(folder: str) -> list[float]:
    time.sleep(600)
    return []


def killed(folder: str) -> list[float]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def slow(folder: str) -> Iterator[float]:
    (Path(folder) / f"pid-{os.getpid()}").touch()
    time.sleep(600)
    yield 0.6


FINE, DRAWN, RAISES, HANGS, KILLED, WORD, NOTHING, LEAVES, FULL, SLOW = range(10)


def leaving(folder: str) -> list[float]:
    raise SystemExit(3)


def full(folder: str) -> list[float]:
    raise RunError("the disk is full")


ACTIONS: dict[int, Callable[[str], Any]] = {
    FINE: lambda _: [],
    DRAWN: drawn,
    RAISES: raising,
    HANGS: hanging,
    KILLED: killed,
    WORD: lambda _: ["0.9"],
    NOTHING: lambda _: [None],
    LEAVES: leaving,
    FULL: full,
    SLOW: slow,
}


class Dying:
    """Kills its process in the constructor."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Short(Scripted):
    """Fails in `longer`."""

    def longer(self, times: int) -> Scripted:
        """Raise."""
        raise ValueError("once is all")


class Broken:
    """Fails in the constructor."""

    def __init__(self) -> None:
        raise ValueError("no such file")


class Several:
    """An executor with two slots that runs epochs in turn. With `again`, one candidate starts over at its end."""

    slots = 2

    def __init__(self, evaluator: Any, again: bool = False):
        self.evaluator, self.again = evaluator, again
        self.under_way, self.most = dict[int, tuple[Callable[[], Iterator[Any]], Iterator[Any]]](), 0
        self.closed = False

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Start a candidate."""
        begin = partial(extend_epochs(self.evaluator, times).evaluate, arch, seed)
        self.under_way[number] = begin, begin()
        self.most = max(self.most, len(self.under_way))

    def wait(self) -> Event:
        """Return the next event of the candidate that has waited longest."""
        number, (begin, accuracies) = next(iter(self.under_way.items()))
        del self.under_way[number]
        accuracy = next(accuracies, END)
        if accuracy is END and self.again:
            self.again, self.under_way[number] = False, (begin, begin())
            return Event(number, again=True)
        if accuracy is not END:
            self.under_way[number] = begin, accuracies
        return Event(number, None if accuracy is END else accuracy)

    def stop(self, number: int) -> None:
        """Remove a candidate."""
        del self.under_way[number]

    def close(self) -> None:
        """Remove all candidates."""
        self.under_way.clear()
        self.closed = True
