"""An evaluator for executors that does as the seed says. It imports nothing heavy: a worker with it starts at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError


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


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such file")
