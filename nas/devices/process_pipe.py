"""Pipe to a child process, for lines and files. It never blocks forever, whatever the process does."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.errors import LostError, UsageError

CHUNK = 1 << 16
SSH_NOTICE = "Warning: Permanently added"
TIMEOUT_VARIABLE = "NAS_DEVICE_TIMEOUT"
"""Environment variable with the time-out in s."""
TIMEOUT_S = 120.0
"""Default time in s that a device may be silent."""
GOODBYE_S = 3.0
"""Time in s that a process gets to end."""


def timeout_s() -> float:
    """Return the time in s that a device may be silent: $NAS_DEVICE_TIMEOUT, or 120. Raises UsageError."""
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given or TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{TIMEOUT_VARIABLE}: must be a number of seconds above zero", value=given)
    return seconds


class ProcessPipe:
    """A running process with a thread that sends data to it and a thread that reads its lines.

    The two threads keep both sides from waiting for each other. `name` is the process's name in messages.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self._name, self._timeout_s = name, timeout_s()
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (`close` closes it)
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        except OSError as error:
            self._errors.close()
            raise LostError(f"cannot start {command[0]}: {error.strerror}", where=name) from error
        self._outbox: queue.SimpleQueue[bytes | Path | None] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._last_activity = time.monotonic()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def send(self, *pieces: bytes | Path) -> None:
        """Send bytes, and the contents of files, in this order; return at once."""
        self._last_activity = time.monotonic()
        for piece in pieces:
            self._outbox.put(piece)

    def line(self) -> bytes:
        """Return the next line. Raises LostError if the process ended, or if no data moved for the time-out."""
        while True:
            remaining_s = self._last_activity + self._timeout_s - time.monotonic()
            try:
                line = self._lines.get(timeout=max(remaining_s, 0.001))
            except queue.Empty:
                if time.monotonic() - self._last_activity >= self._timeout_s:
                    message = f"no answer for {self._timeout_s:g} s{self._last_error()}"
                    raise LostError(message, where=self._name) from None
                continue
            self._last_activity = time.monotonic()
            if line:
                return line
            self._lines.put(b"")  # further calls raise as well
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GOODBYE_S)
            raise LostError(f"{self._name} ended{self._last_error() or ': no message'}")

    def close(self, politely: bool) -> None:
        """End the process. If `politely`, close its input and wait a little first."""
        self._outbox.put(None)
        if politely:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GOODBYE_S)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(GOODBYE_S)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # the process ended: `line` raises
            while (piece := self._outbox.get()) is not None:
                data = memoryview(piece.read_bytes() if isinstance(piece, Path) else piece)
                for start in range(0, len(data), CHUNK):
                    stdin.write(data[start : start + CHUNK])
                    self._last_activity = time.monotonic()
                if self._outbox.empty():
                    stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def _last_error(self) -> str:
        """Return ': ' and the last line that the process wrote to stderr, or ''."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(size - 4096, 0))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        messages = [line.strip() for line in lines if line.strip() and not line.startswith(SSH_NOTICE)]
        return f": {messages[-1]}" if messages else ""
