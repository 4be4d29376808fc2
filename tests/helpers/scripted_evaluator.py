"""An evaluator for executors that does as the seed says. It imports nothing heavy: a worker with it starts at once."""

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
    """Does what the seed says, after `start` has said that the evaluation began."""

    def __init__(self, folder: str = ""):
        self.folder = folder

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[Any]:
        """Yield accuracies; or do wrong."""
        print(f"evaluating {arch.digest}")
        yield from (0.25, 0.5)
        yield from DOES[seed](self.folder)
        yield 0.75

    def longer(self, times: int) -> Scripted:
        """What takes long takes as long as it likes."""
        return self


def drawn(folder: str) -> Iterator[float]:
    """Note how far the evaluation was drawn."""
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


DOES: dict[int, Callable[[str], Any]] = {
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
    """Kills its process while it is made."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Short(Scripted):
    """Cannot train longer."""

    def longer(self, times: int) -> Scripted:
        """Raise."""
        raise ValueError("once is all")


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such file")


class Several:
    """An executor with two slots, an epoch of each candidate in turn; `again`: each place is lost once, at the end."""

    slots = 2

    def __init__(self, evaluator: Any, again: bool = False):
        self.evaluator, self.again = evaluator, again
        self.under_way, self.most = dict[int, tuple[Callable[[], Iterator[Any]], Iterator[Any]]](), 0
        self.closed = False

    def start(self, number: int, arch: Architecture, seed: int, times: int = 1) -> None:
        """Begin."""
        begin = partial(extend_epochs(self.evaluator, times).evaluate, arch, seed)
        self.under_way[number] = begin, begin()
        self.most = max(self.most, len(self.under_way))

    def wait(self) -> Event:
        """Return the next accuracy of whoever waited longest, or its end."""
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
        """Forget a candidate."""
        del self.under_way[number]

    def close(self) -> None:
        """Forget all."""
        self.under_way.clear()
        self.closed = True
