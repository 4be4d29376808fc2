"""The latency table of one device and runtime: measured layers, and the prediction of a network as their sum.

A table is a file of JSON lines: a header that says of what it is, then measured rows, appended as they come. A row
may stand several times, once for each pass; a last line that a crash cut off is dropped.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError, TableError
from nas.files import drop_cut_line
from nas.network import Layer, as_shapes, input_shapes, trace
from nas.profiling import low_quantile

FORMAT = 1
Key = tuple[BlockSpec, Any]

# What decides speed, and so what a table must agree in with the device that it is used for.
IDENTITY = ("device", "runtime", "runtime_version", "threads", "dtype")


@dataclass
class LatencyTable:
    """Milliseconds of every measured layer. `rows` holds the visits' minima of each (spec, in_shape)."""

    path: Path
    header: dict[str, Any]
    rows: dict[Key, list[float]] = field(default_factory=dict)
    _known: dict[Key, float] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path, header: dict[str, Any] | None = None) -> LatencyTable:
        """Return the table at `path`; with `header`, a new one is begun where there is no file.

        Raises TableError with file, line and reason for a broken table.
        """
        if not path.is_file():
            if header is None:
                raise TableError(f"{path}: no such latency table")
            return cls(path, {"format": FORMAT, **header})
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"{path}: cannot be read: {error}") from error
        if len(lines) == 1 and header is not None:  # cut off before the first line was whole
            return cls(path, {"format": FORMAT, **header})
        table = cls(path, _header(lines[0], f"{path}, line 1"))
        for number, line in enumerate(lines[1:-1], start=2):
            table._add(*_row(line, f"{path}, line {number}"))
        return table

    def append(self, rows: Iterable[tuple[Layer, Sequence[float]]]) -> None:
        """Add visits' minima in ms and write them to the file before returning. Raises TableError."""
        rows = list(rows)
        text = "".join(json.dumps(_row_to_dict(layer, minima)) + "\n" for layer, minima in rows)
        try:
            self._write(text)
        except OSError as error:
            raise TableError(f"{self.path}: cannot be written: {error}") from error
        for layer, minima in rows:
            self._add((layer.spec, layer.in_shape), list(minima))

    def _write(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if drop_cut_line(file) == 0:
                text = json.dumps(self.header) + "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _add(self, key: Key, minima: list[float]) -> None:
        self.rows.setdefault(key, []).extend(minima)
        self._known.pop(key, None)

    def visits(self, layer: Layer) -> int:
        """Return how often the layer was visited."""
        return len(self.rows.get((layer.spec, layer.in_shape), ()))

    def latency_ms(self, layer: Layer) -> float:
        """Return the layer's latency in ms. Raises TableError, naming layer and nearest row, when not covered."""
        key = (layer.spec, layer.in_shape)
        if key not in self._known:
            if key not in self.rows:
                raise TableError(f"{self.path}: {layer_name(*key)} is not covered{self._nearest(key)}")
            self._known[key] = low_quantile(self.rows[key])
        return self._known[key]

    def predict(self, arch: Architecture) -> float:
        """Return the network's latency in ms: the sum over its layers. Raises TableError as `latency_ms`."""
        return sum(self.latency_ms(layer) for layer in trace(arch))

    def missing(self, layers: Iterable[Layer], visits: int = 1) -> list[Layer]:
        """Return those of `layers` that were visited less than `visits` times."""
        return [layer for layer in layers if self.visits(layer) < visits]

    def differences(self, header: dict[str, Any]) -> list[str]:
        """Return in words where this table is of another device or runtime than `header`."""
        return [
            f"{key} is {_words(self.header.get(key))} in the table and {_words(header.get(key))} here"
            for key in IDENTITY
            if self.header.get(key) != header.get(key)
        ]

    def _nearest(self, key: Key) -> str:
        names = {layer_name(*row): row for row in self.rows if row[0].op == key[0].op}
        close = difflib.get_close_matches(layer_name(*key), list(names), n=1, cutoff=0.0)
        return f"; nearest is {close[0]}" if close else ""


def layer_name(spec: BlockSpec, in_shape: Any) -> str:
    """Return a layer in words: 'mbconv(out_channels=24, stride=2) at 16x112x112'."""
    return f"{spec} at {', '.join('x'.join(map(str, shape)) for shape in as_shapes(in_shape))}"


def layer_key(layer: Layer) -> str:
    """Return 16 hex digits that name the layer in every process: those of its spec and its input's shapes."""
    row = _row_to_dict(layer, ())
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return repr(value)


def _row_to_dict(layer: Layer, minima: Sequence[float]) -> dict[str, Any]:
    shapes = [list(shape) for shape in input_shapes(layer)]
    several = isinstance(layer.in_shape[0], tuple)
    return {**layer.spec.to_dict(), "in": shapes if several else shapes[0], "ms": [round(ms, 6) for ms in minima]}


def _header(line: str, where: str) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except json.JSONDecodeError as error:
        raise TableError(f"{where}: not a latency table: {error}") from error
    if not isinstance(header, dict) or any(key not in header for key in ("format", *IDENTITY)):
        raise TableError(f"{where}: the header must have {', '.join(('format', *IDENTITY))}")
    if header["format"] != FORMAT:
        raise TableError(f"{where}: format must be {FORMAT}: {header['format']!r}")
    return header


def _row(line: str, where: str) -> tuple[Key, list[float]]:
    try:
        data = json.loads(line)
        shape, minima = data.pop("in"), data.pop("ms")
        spec = BlockSpec.from_dict(data, where)
        several = isinstance(shape[0], list)
        in_shape = tuple(_shape(part) for part in shape) if several else _shape(shape)
        values = [float(ms) for ms in minima]
    except SpaceError as error:
        raise TableError(str(error)) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TableError(f"{where}: a row needs a block, 'in' and 'ms': {error!r}") from error
    if not values or not all(math.isfinite(ms) and ms > 0 for ms in values):
        raise TableError(f"{where}: ms must be finite numbers above zero: {minima!r}")
    return (spec, in_shape), values


def _shape(data: Sequence[Any]) -> tuple[int, int, int]:
    channels, height, width = (int(size) for size in data)
    return channels, height, width
