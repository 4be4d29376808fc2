"""Helpers of the readers of published tables: parsed files, checked numbers, and rows as our layers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nas.errors import SpaceError, TableError
from nas.networks.block_schema import block_spec
from nas.networks.network import Layer, traced
from nas.spaces.identity import hex_digest
from nas.spaces.yaml_files import read_yaml, unique_keys


@dataclass(frozen=True)
class Row:
    """One of our layers with its published time in ms."""

    layer: Layer
    ms: float


@dataclass(frozen=True)
class Published:
    """A published table in our terms.

    Attributes:
        family: Name of the format and of the shipped space that the table covers.
        rows: The layers with their times.
        digests: Digest of each file's values, independent of the file format.
        not_measured: Layers of the space that the source did not measure alone.
        notes: What a user must know about the numbers.
    """

    family: str
    rows: tuple[Row, ...]
    digests: tuple[str, ...]
    not_measured: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A time in ms and its place in a file."""

    ms: float
    where: str


@dataclass(frozen=True)
class Keyed:
    """A file with keys like "expanded_conv-input:7x7x192-output:...", as published by ProxylessNAS and Once-for-All."""

    entries: Mapping[str, Entry]


def read_content(path: Path) -> Any:
    """Return the content of a keyed file (CSV, YAML or JSON) or of another YAML or JSON file; None for other formats.

    The format is recognized by the content, not by the name.

    Raises:
        TableError: The file cannot be read, or is a broken file of a known format.
    """
    if path.is_dir():
        raise TableError("is a folder, not the file of a published table", where=path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TableError("no such file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot be read: {error}", where=path) from error
    if text.lstrip()[:1] in ("{", "["):
        data = _json(text, path)
        is_keyed = isinstance(data, Mapping) and any("-input:" in key for key in data)
        return _keyed(data, path) if is_keyed else data
    if text.partition("\n")[0].startswith("key,"):
        try:
            return _keyed_csv(text, path)
        except csv.Error as error:
            raise TableError(f"invalid CSV: {error}", where=path) from error
    return _yaml(text, path)


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except yaml.YAMLError as error:
        raise TableError(str(error), where=path) from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"invalid JSON, the file may be cut off: {error}", where=path) from error


def _yaml(text: str, path: Path) -> Any:
    """Return the content of a YAML file; None for a text that is not YAML and has no keys of a known format."""
    try:
        data = read_yaml(path)
    except SpaceError as error:
        if "-input:" not in text:
            return None
        raise TableError(str(error)) from error
    return _keyed(data, path) if "-input:" in text else _text_keys(data)


def _keyed_csv(text: str, path: Path) -> Keyed:
    lines = csv.reader(io.StringIO(text))
    header = next(lines)
    if "mean_ms" not in header:
        raise TableError("must have the columns key and mean_ms", where=f"{path}, line 1", value=",".join(header))
    entries: dict[str, Entry] = {}
    for fields in lines:
        where = f"{path}, line {lines.line_num}"
        if len(fields) != len(header):
            raise TableError(f"{len(fields)} of {len(header)} columns; the file may be cut off", where=where)
        row = dict(zip(header, fields, strict=True))
        if row["key"] in entries:
            raise TableError("duplicate key", where=where, value=row["key"])
        entries[row["key"]] = Entry(milliseconds(row["mean_ms"], f"{where}: mean_ms"), where)
    return Keyed(entries)


def _text_keys(data: Any) -> Any:
    """Return a table of a JSON format that is written as YAML, where the keys of layers are numbers."""
    if isinstance(data, Mapping):
        return {str(key): _text_keys(value) for key, value in data.items()}
    return data


def _keyed(data: Any, path: Path) -> Keyed | None:
    if not isinstance(data, Mapping):
        return None
    entries = {}
    for key, value in data.items():
        where = f"{path}: {key}"
        if not isinstance(value, Mapping) or "mean" not in value:
            raise TableError("must be a mapping with 'mean'", where=where, value=value)
        entries[str(key)] = Entry(milliseconds(value["mean"], f"{where}: mean"), where)
    return Keyed(entries)


def milliseconds(value: object, where: str, per_ms: float = 1.0) -> float:
    """Return a published time in ms. Raises TableError unless it is a finite number above zero."""
    try:
        ms = float(value) / per_ms if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        ms = math.nan
    if not (math.isfinite(ms) and ms > 0):
        raise TableError("must be a finite number above zero", where=where, value=value)
    return ms


def layer_of(op: str, args: Mapping[str, Any], in_shape: Any, where: str) -> Layer:
    """Return the layer that a published row describes. Raises TableError if there is none."""
    try:
        return traced(block_spec(op, args, where), in_shape, where)
    except SpaceError as error:
        raise TableError(str(error)) from error


def digest(values: Mapping[str, float]) -> str:
    """Return sixteen hex digits of published values, the same for CSV and YAML files of one table."""
    text = "\n".join(sorted(f"{key}={value!r}" for key, value in values.items()))
    return hex_digest(text)


def mean_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return one row per layer, with the mean of its times, in the order of first appearance."""
    found: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        found.setdefault((row.layer.spec, row.layer.in_shape), []).append(row)
    return tuple(Row(same[0].layer, sum(row.ms for row in same) / len(same)) for same in found.values())
