"""Latency tables that others published, as tables of ours: one file per family of formats, told apart by content.

A published row becomes a block of ours at its input shape. Where the source counts something that is no block of
ours (a head in several parts), the parts are added; what the source did not measure alone is listed in the header
and counts 0; what no block of ours equals is left out. Each module says against which source it was checked.
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
from nas.latency.table import LatencyTable
from nas.networks.network import Layer, input_shapes
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space

__all__ = [
    "FORMATS", "Published", "Source", "complete", "is_published", "read_published", "source_of", "uncovered",
    "write_table",
]  # fmt: skip

FORMATS: dict[str, Callable[[Sequence[tuple[Path, Any]]], Published | None]] = {
    "ProxylessNAS (CSV or YAML)": keyed.read_proxyless,
    "Once-for-All (CSV or YAML, one file per resolution)": keyed.read_ofa,
    "single-path-nas (JSON)": single_path.read,
    "FBNet of jh88 (JSON)": fbnet.read,
}
"""A reader gets (path, parsed content) of every file and returns None where the first is not of its format."""


def read_published(paths: Sequence[Path]) -> Published:
    """Return what the files of one published table hold.

    Raises TableError with file, row, rule and value for what is wrong in them, and for an unknown format.
    """
    files = [(path, read_content(path)) for path in paths]
    for reader in FORMATS.values():
        if (found := reader(files)) is not None:
            return found
    raise TableError(f"{paths[0]}: not a published latency table; the known formats are {'; '.join(FORMATS)}")


def source_of(published: Published, stem: str) -> Source:
    """Return where the values come from: the source that has them, else one that is known by its file's `stem`."""
    for source in SOURCES:
        if source.family == published.family and set(published.digests) <= set(source.digests):
            return source
    unknown = "unknown"
    return Source(stem, published.family, (), f"unknown ({stem})", unknown, unknown, unknown, unknown, unknown)


def write_table(published: Published, source: Source, path: Path) -> LatencyTable:
    """Write the rows as a latency table at `path`, whole or not at all, and return it.

    An imported table is replaced. Raises TableError where something else is in the way.
    """
    if path.exists() and not is_published(LatencyTable.open(path)):
        raise TableError(f"{path}: is not an imported table, and is not replaced by one")
    header = {
        **source.header(),
        "space": published.family,
        "published": True,
        "converted": "by 'nas profile --import'",
        "notes": list(published.notes),
        "not_measured": [_listed(layer) for layer in published.not_measured],
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        LatencyTable.open(partial, header).append((row.layer, [(0.0, row.ms)]) for row in published.rows)
        partial.replace(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return LatencyTable.open(path)


def is_published(table: LatencyTable) -> bool:
    """Whether others measured this table, on a device that is not here."""
    return table.header.get("published") is True


def complete(table: LatencyTable, layers: Iterable[Layer]) -> list[str]:
    """Add to `table`, in memory, what its source did not measure of `layers`; return in words what one must know.

    Layers that the header lists as not measured count 0 ms. A head for another number of classes counts as the
    published one: no other was measured, and its linear layer is a small part of it.
    """
    unmeasured = [_key(data, table) for data in _list(table, "not_measured")]
    for key in unmeasured:
        if key not in table.rows:
            table.assume(key, 0.0)
    known = {_without_classes(*key): key for key in list(table.rows)}
    words = [str(note) for note in _list(table, "notes")]
    for layer in layers:
        key, like = (layer.spec, layer.in_shape), known.get(_without_classes(layer.spec, layer.in_shape))
        if key not in table.rows and like is not None:
            table.assume(key, table.rows[like][0][1])
            if like not in unmeasured:
                words.append(f"the head counts with {like[0].kwargs.get('num_classes', 1000)} classes, as published")
    return list(dict.fromkeys(words))


def uncovered(table: LatencyTable, space: Space) -> tuple[list[Layer], int]:
    """Return which layers that `space` can have the table lacks, and how many layers there are in all."""
    layers = reachable(space)
    copy = LatencyTable(table.path, table.header, dict(table.rows))
    complete(copy, layers)
    return copy.missing(layers), len(layers)


def _listed(layer: Layer) -> dict[str, Any]:
    shapes = [list(shape) for shape in input_shapes(layer)]
    return {**layer.spec.to_dict(), "in": shapes if isinstance(layer.in_shape[0], tuple) else shapes[0]}


def _list(table: LatencyTable, key: str) -> list[Any]:
    found = table.header.get(key, [])
    if not isinstance(found, list):
        raise TableError(f"{table.path}, line 1: {key} must be a list: {found!r}")
    return found


def _key(data: Any, table: LatencyTable) -> tuple[BlockSpec, Any]:
    try:
        shape = data["in"]
        in_shape = tuple(map(tuple, shape)) if isinstance(shape[0], list) else tuple(shape)
        return BlockSpec.from_dict({key: value for key, value in data.items() if key != "in"}), in_shape
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise TableError(f"{table.path}, line 1: not_measured must list blocks with 'in': {data!r}") from error


def _without_classes(spec: BlockSpec, in_shape: Any) -> tuple[Any, ...]:
    return spec.op, tuple(pair for pair in spec.args if pair[0] != "num_classes"), in_shape
