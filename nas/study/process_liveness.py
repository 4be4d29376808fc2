"""Which processes use a study, and which of them are alive.

A process holds a lock in the run folder. The kernel frees the lock when the process ends, so every process that
shares the folder notices at once. A process on another machine has no lock here. Instead, it increments a number in the
study every half minute, and is considered dead if that number has not changed for two minutes of this machine's clock.
The clocks of two machines are never compared.
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
WriteBeat = Callable[[str, int], None]
"""Writes the heartbeat number of a process where others can read it."""
ReadBeat = Callable[[str], int | None]
"""Reads the last heartbeat number of another process; None if it has none."""


class Participants:
    """The processes that use the study of a run folder, this one included.

    Args:
        folder: The run folder, which must exist.

    Raises:
        OSError: The lock cannot be made.
    """

    def __init__(self, folder: Path):
        self.me = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder = folder / WORKERS
        self._folder.mkdir(exist_ok=True)
        self._lock = take_lock(self._lock_path(self.me)) if HAS_LOCKS else None
        self._last: dict[str, tuple[int | None, float]] = {}
        self._closed = threading.Event()
        self._read: ReadBeat | None = None

    def start_heartbeat(self, write: WriteBeat, read: ReadBeat) -> None:
        """Write a heartbeat for processes on other machines from now on, and read theirs."""
        self._read = read
        write(self.me, 0)
        threading.Thread(target=self._beat, args=(write,), daemon=True).start()

    def is_alive(self, worker: str) -> bool:
        """Whether a process is alive, as far as this one can see."""
        if worker == self.me:
            return True
        path = self._lock_path(worker)
        if HAS_LOCKS and path.exists():
            return is_locked(path)
        return self._read is not None and self._beats(worker, self._read(worker))

    def others(self) -> bool:
        """Whether another process that shares the folder is alive."""
        found = (path.name.removesuffix(".lock") for path in self._folder.glob("*.lock"))
        return any(name != self.me and self.is_alive(name) for name in found)

    def forget(self, worker: str) -> None:
        """Remove the lock file of a dead process."""
        if worker:
            with contextlib.suppress(OSError):
                self._lock_path(worker).unlink()

    def close(self) -> None:
        """Leave the study: remove the lock file first, then free the lock."""
        self._closed.set()
        self.forget(self.me)
        if self._lock is not None:
            free_lock(self._lock)
            self._lock = None
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _lock_path(self, worker: str) -> Path:
        return self._folder / (re.sub(r"[^\w.-]", "_", worker) + ".lock")

    def _beats(self, worker: str, number: int | None) -> bool:
        """Whether a heartbeat number has changed within the last two minutes."""
        now = time.monotonic()
        before, since = self._last.get(worker, (None, now))
        if worker not in self._last or before != number:
            self._last[worker] = number, now
            return True
        return now - since < SILENT_S

    def _beat(self, write: WriteBeat) -> None:
        number = 0
        while not self._closed.wait(BEAT_S):
            number += 1
            with contextlib.suppress(Exception):  # the storage may be unreachable for a while; the next beat counts
                write(self.me, number)
