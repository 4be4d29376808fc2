"""What every reader of published tables needs: parsed files, checked numbers, and rows as layers of ours."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import SpaceError, TableError
from nas.networks.block_schema import block_spec
from nas.networks.network import Layer, traced
from nas.spaces.yaml_format import read_yaml


@dataclass(frozen=True)
class Row:
    """One layer of ours with its published milliseconds."""

    layer: Layer
    ms: float


@dataclass(frozen=True)
class Published:
    """A published table in our terms. `family` names the format and the shipped space that it covers.

    `digests` are those of each file's values, in whatever file format they came. `not_measured` are layers of
    the space that the source did not measure alone; `notes` say what a reader must know of the numbers.
    """

    family: str
    rows: tuple[Row, ...]
    digests: tuple[str, ...]
    not_measured: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A value of a keyed file in ms, and where it stands."""

    ms: float
    where: str


@dataclass(frozen=True)
class Keyed:
    """A file of keys like "expanded_conv-input:7x7x192-output:...", as ProxylessNAS and Once-for-All publish."""

    entries: Mapping[str, Entry]


def read_content(path: Path) -> Any:
    """Return a Keyed file, what a JSON file holds, or None for anything else; nothing in it is executed.

    Raises TableError for a file that cannot be read, and for a broken one of a known format.
    """
    if path.is_dir():
        raise TableError(f"{path}: is a folder, not the file of a published table")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read: {error}") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TableError(f"{path}: broken JSON, or cut off: {error}") from error
    if text.partition("\n")[0].startswith("key,"):
        try:
            return _keyed_csv(text, path)
        except csv.Error as error:
            raise TableError(f"{path}: not a table of comma-separated values: {error}") from error
    return _keyed_yaml(path) if "-input:" in text else None


def _keyed_csv(text: str, path: Path) -> Keyed:
    lines = csv.reader(io.StringIO(text))
    header = next(lines)
    if "mean_ms" not in header:
        raise TableError(f"{path}, line 1: the columns key and mean_ms are needed: {','.join(header)}")
    entries: dict[str, Entry] = {}
    for fields in lines:
        where = f"{path}, line {lines.line_num}"
        if len(fields) != len(header):
            raise TableError(f"{where}: {len(fields)} of {len(header)} columns; was the file cut off?")
        row = dict(zip(header, fields, strict=True))
        if row["key"] in entries:
            raise TableError(f"{where}: '{row['key']}' stands twice")
        entries[row["key"]] = Entry(milliseconds(row["mean_ms"], f"{where}: mean_ms"), where)
    return Keyed(entries)


def _keyed_yaml(path: Path) -> Keyed | None:
    try:
        data = read_yaml(path)
    except SpaceError as error:
        raise TableError(str(error)) from error
    if not isinstance(data, Mapping):
        return None
    entries = {}
    for key, value in data.items():
        where = f"{path}: {key}"
        if not isinstance(value, Mapping) or "mean" not in value:
            raise TableError(f"{where}: needs a mapping with 'mean': {value!r}")
        entries[str(key)] = Entry(milliseconds(value["mean"], f"{where}: mean"), where)
    return Keyed(entries)


def milliseconds(value: object, where: str, per_ms: float = 1.0) -> float:
    """Return a published time in ms. Raises TableError where it is not a finite number above zero."""
    try:
        ms = float(value) / per_ms if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        ms = math.nan
    if not (math.isfinite(ms) and ms > 0):
        raise TableError(f"{where} must be a finite number above zero: {value!r}")
    return ms


def layer_of(op: str, args: Mapping[str, Any], in_shape: Any, where: str) -> Layer:
    """Return the layer of ours that a published row describes. Raises TableError where none can be it."""
    try:
        return traced(block_spec(op, args, where), in_shape, where)
    except SpaceError as error:
        raise TableError(str(error)) from error


def digest(values: Mapping[str, float]) -> str:
    """Return sixteen hex digits of published values: the same for CSV and YAML of the same table."""
    text = "\n".join(sorted(f"{key}={value!r}" for key, value in values.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mean_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return one row for each layer: the mean of those that are the same layer, in the order of the first."""
    found: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        found.setdefault((row.layer.spec, row.layer.in_shape), []).append(row)
    return tuple(Row(same[0].layer, sum(row.ms for row in same) / len(same)) for same in found.values())
