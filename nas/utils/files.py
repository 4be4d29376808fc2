"""Files that survive a crash: written whole or not at all, or appended line by line and cut back to whole lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nas.errors import RunError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
HAS_LOCKS = fcntl is not None
"""Whether the kernel keeps locks that end with their process."""

LOCK = ".lock"
BLOCK = 64 * 1024
"""Bytes that are read at a time to find the last line of a file."""
_held: set[int] = set()
"""Descriptors of the locks of this process. A forked child gives them up: it must not hold them when we are dead."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds. Raises RunError where it cannot be read or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: must hold a mapping: {str(data)[:60]}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(data, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all; what a full disk cut off is removed, and the OSError goes on."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_picture(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG, whole or not at all. Raises OSError."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def drop_cut_line(file: IO[bytes]) -> int:
    """Cut an open file back to its last whole line, go to its end, and return its length."""
    end = file.seek(0, os.SEEK_END)
    while end:  # from the end, block by block: a long file is not read whole for each line that is added
        start = max(0, end - BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    file.truncate(end)
    return file.seek(0, os.SEEK_END)


def append_rows(path: Path, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON lines to a file and its disk before returning; one that is begun starts with `header`.

    A line that a crash cut off is dropped first. Raises OSError.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if drop_cut_line(file) == 0:
            text = json.dumps(header) + "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def check_same_settings(folder: Path | str, stored: Mapping[str, Any], settings: Mapping[str, Any], flag: str) -> None:
    """Raise RunError with the first setting that differs; `flag` is the one that names another folder."""
    for key in sorted({*stored, *settings}):
        if stored.get(key) != settings.get(key):
            raise RunError(
                f"{folder}: holds another experiment: {key} is {stored.get(key)!r} there and {settings.get(key)!r} "
                f"now; give another {flag}"
            )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the kernel frees it when the process ends, however it ends. Raises RunError if in use."""
    if not HAS_LOCKS:
        yield
        return
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise RunError(f"{folder}: in use by process {file.read().strip() or '?'}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def exclusive(path: Path, waits: Callable[[], None] | None = None, keep: bool = False) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it; the kernel frees it when its process ends, however it ends.

    `waits` is called once if there is somebody to wait for; the file is removed afterwards, unless it is to `keep`.
    Raises OSError where it cannot be made.
    """
    lock = take_lock(path, wait=waits is None)
    if lock is None:
        if waits:
            waits()
        lock = take_lock(path, wait=True)
    assert lock is not None
    try:
        yield
    finally:
        if not keep:
            with contextlib.suppress(OSError):
                path.unlink()
        free_lock(lock)


def take_lock(path: Path, wait: bool = False) -> int | None:
    """Return a descriptor that holds the lock file, or None where somebody else does. Raises OSError."""
    if not HAS_LOCKS:
        return os.open(path, os.O_RDWR | os.O_CREAT)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:  # else it was removed by who had it before
                _held.add(lock)
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file; False where there is none."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def free_lock(lock: int) -> None:
    """Give up what `take_lock` returned."""
    _held.discard(lock)
    os.close(lock)


def _forked() -> None:
    for lock in _held:
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
