"""Published latency tables, converted to our format: one reader per family of formats, recognized by content.

A published row becomes one of our blocks at its input shape. The parts of a head are added up. Layers that the source
did not measure alone are listed in the header and count 0; rows that match none of our blocks are left out. Each reader
names the source that it was checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nas.architecture import BlockSpec
from nas.errors import TableError
from nas.latency.published import fbnet, keyed, single_path
from nas.latency.published.rows import Published, read_content
from nas.latency.published.sources import SOURCES, Source
from nas.latency.rows import Key, item_to_dict, read_layer_key
from nas.latency.table import LatencyTable
from nas.networks.network import Layer
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space

__all__ = [
    "FORMATS",
    "Published",
    "Source",
    "check_same_source",
    "complete",
    "is_published",
    "read_published",
    "source_of",
    "uncovered",
    "write_table",
]

FORMATS: dict[str, Callable[[Sequence[tuple[Path, Any]]], Published | None]] = {
    "ProxylessNAS (CSV, YAML or JSON)": keyed.read_proxyless,
    "Once-for-All (CSV, YAML or JSON, one file per resolution)": keyed.read_ofa,
    "single-path-nas (JSON)": single_path.read,
    "FBNet of jh88 (JSON)": fbnet.read,
}
"""Readers by format. A reader gets (path, parsed content) of each file; it returns None for another format."""


UNKNOWN = "unknown"
"""What the header of a table holds where its source is not known."""


def read_published(paths: Sequence[Path]) -> Published:
    """Read the files of one published table.

    Raises:
        TableError: The format is unknown, or a value is invalid.
    """
    files = [(path, read_content(path)) for path in paths]
    for reader in FORMATS.values():
        if (found := reader(files)) is not None:
            return found
    raise TableError(f"not a published latency table; known formats: {'; '.join(FORMATS)}", where=paths[0])


def source_of(published: Published, stem: str) -> Source:
    """Return the known source of the values; otherwise an unknown one, named by the file's `stem`."""
    for source in SOURCES:
        if source.family == published.family and set(published.digests) <= set(source.digests):
            return source
    return Source(stem, published.family, (), f"unknown ({stem})", *[UNKNOWN] * 5)


def write_table(published: Published, source: Source, path: Path) -> LatencyTable:
    """Write the rows as a latency table at `path`, completely or not at all, and return it.

    Replaces an imported table; see `check_same_source`. Raises TableError if `path` is another table.
    """
    if path.exists() and not is_published(LatencyTable.open(path)):
        raise TableError("is not an imported table; it is not replaced", where=path)
    header = {
        **source.header(),
        "space": published.family,
        "published": True,
        "converted": "by 'nas profile --import'",
        "notes": list(published.notes),
        "not_measured": [item_to_dict(layer) for layer in published.not_measured],
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        LatencyTable.open(partial, header).append((row.layer, [(0.0, row.ms)]) for row in published.rows)
        partial.replace(path)
    except OSError as error:
        raise TableError(f"cannot be written: {error.strerror}", where=path) from error
    finally:
        partial.unlink(missing_ok=True)
    return LatencyTable.open(path)


def check_same_source(path: Path, published: Published, source: Source) -> None:
    """Raise TableError if the table at `path` has another source than `published`.

    Tables of an unknown source are the same if their times are equal.
    """
    if not path.exists():
        return
    table, advice = LatencyTable.open(path), "give another --table or --name, or --replace to discard it"
    for key, value in {**source.header(), "space": published.family}.items():
        there = table.header.get(key)
        if there != value:
            raise TableError(f"{key} is {there!r} in the table and {value!r} in the files; {advice}", where=path)
    times = {(row.layer.spec, row.layer.in_shape): round(row.ms, 6) for row in published.rows}
    is_same = {key: samples[0][1] for key, samples in table.rows.items()} == times
    if source.url == UNKNOWN and not is_same:
        raise TableError(f"holds another table of an unknown source; {advice}", where=path)


def is_published(table: LatencyTable) -> bool:
    """Return whether the table was published by others; its device is not available."""
    return table.header.get("published") is True


def complete(table: LatencyTable, layers: Iterable[Layer]) -> list[str]:
    """Add the layers that the source did not measure to `table`, in memory, and return notes for the user.

    Layers that the header lists as not measured count 0 ms. A head with another number of classes counts as the
    published head, because its linear layer is a small part of it.

    Args:
        table: A published table.
        layers: The layers of the space.
    """
    unmeasured = [_unmeasured_key(data, table) for data in _list(table, "not_measured")]
    for key in unmeasured:
        if key not in table.rows:
            table.assume(key, 0.0)
    published = {_without_classes(*key): key for key in list(table.rows)}
    notes = [str(note) for note in _list(table, "notes")]
    for layer in layers:
        key = layer.spec, layer.in_shape
        published_key = published.get(_without_classes(*key))
        if key not in table.rows and published_key is not None:
            table.assume(key, table.rows[published_key][0][1])
            if published_key not in unmeasured:
                notes.append(
                    f"the head counts with {published_key[0].kwargs.get('num_classes', 1000)} classes, as published"
                )
    return list(dict.fromkeys(notes))


def uncovered(table: LatencyTable, space: Space) -> tuple[list[Layer], int]:
    """Return the layers of `space` that the table lacks, and the number of layers of `space`."""
    layers = reachable(space)
    copy = LatencyTable(table.path, table.header, dict(table.rows))
    complete(copy, layers)
    return copy.missing(layers), len(layers)


def _list(table: LatencyTable, key: str) -> list[Any]:
    found = table.header.get(key, [])
    if not isinstance(found, list):
        raise TableError("must be a list", where=f"{table.path}, line 1", key=key, value=found)
    return found


def _unmeasured_key(data: Any, table: LatencyTable) -> Key:
    try:
        return read_layer_key(data)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        where = f"{table.path}, line 1"
        raise TableError("must list blocks with 'in'", where=where, key="not_measured", value=data) from error


def _without_classes(spec: BlockSpec, in_shape: Any) -> tuple[Any, ...]:
    return spec.op, tuple(pair for pair in spec.args if pair[0] != "num_classes"), in_shape
