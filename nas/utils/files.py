"""Crash-safe files: atomic writes, append-only JSON lines, and locks that the kernel releases.

The locks are our own and not `filelock`'s: `is_locked` probes with a shared lock, so that two processes that probe
at the same time do not take each other for the holder. `filelock.FileLock` is always exclusive.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
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
"""Whether the platform has locks that the kernel releases when their process ends."""

LOCK = ".lock"
IMAGE_RECORD = "images.json"
"""The file in a run folder that holds the digest of each image file of the run."""
BLOCK = 64 * 1024
"""Bytes read at a time when looking for the last line of a file."""
_held: set[int] = set()
"""Descriptors of this process's locks. A forked child closes them; otherwise it would keep the locks after our end."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file. Raises RunError if the file is unreadable or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {error}", where=path) from error
    if not isinstance(data, dict):
        raise RunError(f"must hold a mapping: {str(data)[:60]}", where=path)
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(data, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically. If writing fails, removes the partial file and re-raises the OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_picture(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG, atomically. Raises OSError."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names in all languages
        figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder, or that it can be made. Leaves nothing behind.

    Raises:
        RunError: The folder or its parent is read-only, is not a folder, or is on a full disk.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(BLOCK))
    except OSError as error:
        raise RunError(f"cannot be written: {place}: {error.strerror}", where=folder) from error


def drop_cut_line(file: IO[bytes]) -> int:
    """Remove an unfinished last line from an open file, seek to the end, and return the length."""
    end = file.seek(0, os.SEEK_END)
    while end:  # read backwards in blocks: files that grow line by line can be long
        start = max(0, end - BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    file.truncate(end)
    return file.seek(0, os.SEEK_END)


def append_rows(path: Path, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines to a file and flush them to the disk. Raises OSError.

    A new file starts with `header`. An unfinished last line of an interrupted write is removed first.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if drop_cut_line(file) == 0:
            text = json.dumps(header) + "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raises RunError if another process holds it."""
    path = folder / LOCK
    lock = take_lock(path)
    if lock is None:
        holder = path.read_text(encoding="utf-8").strip()
        raise RunError(f"in use by process {holder or '?'}", where=folder)
    try:
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        free_lock(lock)


@contextlib.contextmanager
def exclusive(path: Path, waits: Callable[[], None] | None = None, keep: bool = False) -> Iterator[None]:
    """Hold a lock file, and wait while another process holds it. The kernel releases it when its process ends.

    Args:
        path: The lock file.
        waits: Called once if another process holds the lock.
        keep: Whether to keep the file afterwards.

    Raises:
        OSError: The file cannot be created.
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
    """Return a descriptor that holds the lock file, or None if another process holds it. Raises OSError."""
    if not HAS_LOCKS:
        return os.open(path, os.O_RDWR | os.O_CREAT)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:  # 0: the previous holder has removed the file; try the new one
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
    """Whether a process holds the lock file. False if the file does not exist."""
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
    """Release what `take_lock` returned."""
    _held.discard(lock)
    os.close(lock)


def _close_inherited_locks() -> None:
    for lock in _held:
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder. OpenVINO's .xml has its weights in a .bin beside it."""
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(part.stat().st_size for part in parts)
