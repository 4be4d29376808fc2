"""Catalog of latency tables: shipped tables, imported tables, and tables of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.errors import TableError, UsageError
from nas.latency.table import LatencyTable
from nas.utils.paths import shipped, user_cache
from nas.utils.registry import nearest

FOLDER = "latency_tables"
SUFFIX = ".jsonl"


def imported_path(name: str) -> Path:
    """Return the default path of the imported table with this name."""
    return user_cache() / FOLDER / "published" / f"{name}{SUFFIX}"


def device_path(name: str) -> Path:
    """Return the path of the table of the device that the user calls `name`."""
    return user_cache() / FOLDER / "named" / f"{name}{SUFFIX}"


def check_name(name: str) -> None:
    """Raise UsageError if a table cannot have this name: it is not a file name, or a shipped table has it."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError("must consist of letters, digits, '-', '_' and '.'", key="name", value=name)
    if (shipped(FOLDER) / f"{name}{SUFFIX}").is_file():
        raise UsageError("is the name of a shipped table; give another one", key="name", value=name)


def named_tables() -> dict[str, Path]:
    """Return the tables of named devices, imported tables and shipped ones by name. A shipped table hides others."""
    folders = (user_cache() / FOLDER / "named", user_cache() / FOLDER / "published", shipped(FOLDER))
    return {path.stem: path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find_table(name: str, where: str = "--table") -> Path:
    """Return the path of a table: `name` is a file, or the name of a shipped or imported table.

    Raises:
        TableError: There is no such table; with the nearest name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if len(path.parts) > 1 or path.suffix == SUFFIX:
        raise TableError("no such latency table", where=path)
    known = named_tables()
    if name not in known:
        raise TableError("unknown latency table", where=where, value=name, nearest=nearest(name, known))
    return known[name]


def open_named(name: str, where: str = "--table") -> LatencyTable:
    """Return the table called `name`, see `find_table`. Raises TableError if it is missing or broken."""
    return LatencyTable.open(find_table(name, where))


def all_tables() -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of each shipped table and of each table in the user's cache.

    Tables of this machine have no name; their path is yielded instead.
    """
    named = named_tables()
    yield from named.items()
    for path in sorted((user_cache() / FOLDER).rglob(f"*{SUFFIX}")):
        if path not in named.values() and not path.name.startswith("."):
            yield str(path), path


def processor(table: LatencyTable) -> str:
    """Return the name of the processor that a table was measured on."""
    device = table.header["device"]
    return str(device.get("processor", "unknown")) if isinstance(device, dict) else str(device)


def describe(name: str, table: LatencyTable) -> dict[str, Any]:
    """Return a summary of a table: name, device, runtime, space, rows and source."""
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
