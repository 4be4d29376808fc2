"""Latency tables by name: those that ship, those that were imported, and those of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.errors import TableError
from nas.latency.table import LatencyTable
from nas.utils.paths import shipped, user_cache
from nas.utils.registry import nearest

FOLDER = "latency_tables"
SUFFIX = ".jsonl"


def imported_path(name: str) -> Path:
    """Return where an imported table of that name lies by default."""
    return user_cache() / FOLDER / "published" / f"{name}{SUFFIX}"


def named_tables() -> dict[str, Path]:
    """Return the tables that a name finds: the imported ones and, first where both have a name, the shipped ones."""
    folders = (user_cache() / FOLDER / "published", shipped(FOLDER))
    return {path.stem: path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find_table(name: str, where: str = "--table") -> Path:
    """Return the path of the table that `name` spells: a file, else a shipped or imported table's name.

    Raises TableError with the nearest name where there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if len(path.parts) > 1 or path.suffix == SUFFIX:
        raise TableError(f"{path}: no such latency table")
    known = named_tables()
    if name not in known:
        raise TableError(f"{where}: unknown latency table '{name}'{nearest(name, known)}")
    return known[name]


def open_named(name: str, where: str = "--table") -> LatencyTable:
    """Return the table that `name` spells. Raises TableError as `find_table` does, and for a broken table."""
    return LatencyTable.open(find_table(name, where))


def all_tables() -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of every shipped table and of every table in the user's cache.

    A table of this machine has no name that finds it: it yields its path instead.
    """
    named = named_tables()
    yield from named.items()
    for path in sorted((user_cache() / FOLDER).rglob(f"*{SUFFIX}")):
        if path not in named.values() and not path.name.startswith("."):
            yield str(path), path


def processor(table: LatencyTable) -> str:
    """Return the name of the processor that a table is of."""
    device = table.header["device"]
    return str(device.get("processor", "unknown")) if isinstance(device, dict) else str(device)


def describe(name: str, table: LatencyTable) -> dict[str, Any]:
    """Return a table in a line: name, device, runtime, the space that it is of, rows and source."""
    header = table.header
    version = header["runtime_version"]
    return {
        "name": name,
        "device": processor(table),
        "runtime": header["runtime"] if version == "unknown" else f"{header['runtime']} {version}",
        "space": header.get("space", ""),
        "rows": len(table.rows),
        "source": header.get("source", "measured here"),
        "path": str(table.path),
    }
