"""Which processes work on a study, and which of them are alive.

A process is alive while it holds its lock in the run's folder: the kernel frees that with its death, and who shares
the folder sees it at once. Of a process elsewhere there is no lock here; it counts up a number in the study every
half minute, and is dead when that has not changed for two minutes of this machine's own clock. Clocks of two machines
are never compared.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from nas.study.storage import WORKERS
from nas.utils.files import HAS_LOCKS, free_lock, is_locked, take_lock

BEAT_S = 30.0
SILENT_S = 120.0
Beat = Callable[[str, int], None]
"""Writes the number of a worker's beat where others read it."""
Heard = Callable[[str], int | None]
"""Reads the number of another worker's last beat; None where there is none."""


class Participants:
    """This process as a worker on the study of `folder`, which must be there, and what it sees of the others.

    Raises OSError where the lock cannot be made.
    """

    def __init__(self, folder: Path):
        self.me = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder = folder / WORKERS
        self._folder.mkdir(exist_ok=True)
        self._lock = take_lock(self._path(self.me)) if HAS_LOCKS else None
        self._last: dict[str, tuple[int | None, float]] = {}
        self._over = threading.Event()
        self._heard: Heard | None = None

    def beat(self, tell: Beat, heard: Heard) -> None:
        """Tell others elsewhere from now on that this one is alive, by `tell`; hear them by `heard`."""
        self._heard = heard
        tell(self.me, 0)
        threading.Thread(target=self._beat_on, args=(tell,), daemon=True).start()

    def is_alive(self, worker: str) -> bool:
        """Whether a worker is alive, as far as is known."""
        if worker == self.me:
            return True
        path = self._path(worker)
        if HAS_LOCKS and path.exists():
            return is_locked(path)
        return self._heard is not None and self._was_heard(worker, self._heard(worker))

    def others(self) -> bool:
        """Whether another worker that shares the folder is alive."""
        found = (path.name.removesuffix(".lock") for path in self._folder.glob("*.lock"))
        return any(name != self.me and self.is_alive(name) for name in found)

    def forget(self, worker: str) -> None:
        """Remove what is left of a dead worker."""
        if worker:
            with contextlib.suppress(OSError):
                self._path(worker).unlink()

    def close(self) -> None:
        """Leave: the lock goes first from the folder, then from this process."""
        self._over.set()
        self.forget(self.me)
        if self._lock is not None:
            free_lock(self._lock)
            self._lock = None
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, worker: str) -> Path:
        return self._folder / (re.sub(r"[^\w.-]", "_", worker) + ".lock")

    def _was_heard(self, worker: str, number: int | None) -> bool:
        now = time.monotonic()
        before, since = self._last.get(worker, (None, now))
        if worker not in self._last or before != number:
            self._last[worker] = number, now
            return True
        return now - since < SILENT_S

    def _beat_on(self, tell: Beat) -> None:
        number = 0
        while not self._over.wait(BEAT_S):
            number += 1
            with contextlib.suppress(Exception):  # the storage may be away for a while; the next beat tells
                tell(self.me, number)
