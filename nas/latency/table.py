"""Latency tables: the measured layers of one device and runtime, and predictions as sums over layers.

A table is a file of JSON lines: a header that identifies device and runtime, then rows in the order of measurement:
layers, whole networks and calibrations. An item has one row per pass. A last line that a crash cut off is ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from nas.architecture import Architecture
from nas.devices.runtimes import selects_boxes
from nas.errors import SpaceError, TableError
from nas.latency.calibration import Calibration, Certificate, Features
from nas.latency.robust_estimation import estimate
from nas.latency.rows import (
    Key,
    Measurable,
    MeasuredNetwork,
    RepeatedLayer,
    RowKey,
    Samples,
    boundary_layer,
    layer_name,
    read_row,
    row_key,
    row_to_dict,
)
from nas.networks.detectors.post_processing import post_layer
from nas.networks.network import Layer, output_maps, output_shapes, trace
from nas.spaces.identity import json_digest
from nas.utils.files import append_rows

W = TypeVar("W", bound=Measurable)

FORMAT = 2

IDENTITY = ("device", "runtime", "runtime_version", "threads", "dtype")
"""The header keys that decide speed. A table must agree in them with the device that it is used for."""


@dataclass
class LatencyTable:
    """A latency table and its file.

    Attributes:
        path: The file.
        header: Device, runtime and settings of the measurements.
        rows: Samples by row key, see `row_key`.
        costs: Other measured costs, by column and row key.
        calibrations: Calibration of each space, by the space's key.
        certificates: Accuracy on held-out networks of each space, by the space's key.
    """

    path: Path
    header: dict[str, Any]
    rows: dict[RowKey, Samples] = field(default_factory=dict)
    costs: dict[str, dict[RowKey, list[float]]] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    _estimates: dict[RowKey, float] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path, header: dict[str, Any] | None = None) -> LatencyTable:
        """Return the table at `path`; with `header`, a new table if there is no file.

        Raises:
            TableError: There is no file and no `header`, or the file is broken.
        """
        if not path.is_file():
            if header is None:
                raise TableError("no such latency table", where=path)
            return cls(path, {"format": FORMAT, **header})
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"cannot be read: {error}", where=path) from error
        cut_off = len(lines) == 1 and '{"format": '.startswith(lines[0][:11])  # a crash cut off the header
        if cut_off and header is not None:
            return cls(path, {"format": FORMAT, **header})
        table = cls(path, _header(lines[0], f"{path}, line 1"))
        for number, line in enumerate(lines[1:-1], start=2):
            table._read(line, f"{path}, line {number}")
        return table

    def append(
        self,
        rows: Iterable[tuple[Measurable, Samples]],
        costs: Mapping[RowKey, Mapping[str, Sequence[float]]] | None = None,
    ) -> None:
        """Add samples, and costs by row key; both are in the file when this returns. Raises TableError."""
        rows, costs = list(rows), costs or {}
        self._write([row_to_dict(item, samples, costs.get(row_key(item), {})) for item, samples in rows])
        for item, samples in rows:
            key = row_key(item)
            self._add(key, samples, costs.get(key, {}))

    def append_calibration(self, space: str, calibration: Calibration, certificate: Certificate) -> None:
        """Add the calibration of a space and its certificate. The last one counts."""
        row = {"space": space, "calibration": calibration.to_dict(), "certificate": certificate.to_dict()}
        self._write([row])
        self.calibrations[space], self.certificates[space] = calibration, certificate

    def check_same(self, header: dict[str, Any], advice: str) -> None:
        """Raise TableError, with `advice`, if this table was made for another device or runtime than `header`."""
        for difference in self.differences(header).values():
            raise TableError(f"{difference}; {advice}", where=self.path)

    def assume(self, key: Key, ms: float) -> None:
        """Assume `ms` for a layer that was not measured, in memory only."""
        self._add(key, [(0.0, ms)], {})

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        try:
            append_rows(self.path, self.header, rows)
        except OSError as error:
            raise TableError(f"cannot be written: {error}", where=self.path) from error

    def _read(self, line: str, where: str) -> None:
        try:
            data = json.loads(line)
            if "device" in data:
                raise TableError("a second header; a table belongs to one device and runtime")
            if "calibration" in data:
                self.calibrations[data["space"]] = Calibration.from_dict(data["calibration"])
                self.certificates[data["space"]] = Certificate.from_dict(data["certificate"])
            else:
                self._add(*read_row(data))
        except (SpaceError, TableError) as error:
            raise TableError(
                error.rule, where=where, key=error.key, value=error.value, nearest=error.nearest
            ) from error
        except (ValueError, OverflowError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise TableError(f"a row needs a block or a network, 'in' and 'ms': {error!r}", where=where) from error

    def _add(self, key: RowKey, samples: Samples, costs: Mapping[str, Sequence[float]]) -> None:
        self.rows.setdefault(key, []).extend(samples)
        for column, values in costs.items():
            self.costs.setdefault(column, {}).setdefault(key, []).extend(values)
        self._estimates.clear()

    @property
    def networks(self) -> list[MeasuredNetwork]:
        """The measured whole networks."""
        return [key for key in self.rows if isinstance(key, MeasuredNetwork)]

    def sample_count(self, item: Measurable) -> int:
        """Return the number of samples of an item."""
        return len(self.rows.get(row_key(item), ()))

    def cost(self, column: str, item: Measurable) -> float | None:
        """Return the median of an item's values in one of `COLUMNS`, or None if it was not measured."""
        values = self.costs.get(column, {}).get(row_key(item))
        return median(values) if values else None

    def latency_ms(self, layer: Layer) -> float:
        """Return the layer's latency in ms. Raises TableError, with the nearest row, if the table lacks the layer."""
        key = (layer.spec, layer.in_shape)
        if key not in self.rows:
            raise TableError(f"{layer_name(*key)} is not covered", where=self.path, nearest=self._nearest(key))
        return self._estimated()[key]

    def predict_cost(self, column: str, arch: Architecture) -> float | None:
        """Return the sum of a column over the network's layers, or None if the table lacks one of them.

        The sum is meaningful for size_bytes and energy_mj; peak memory is not a sum over layers.
        """
        costs = [self.cost(column, layer) for layer in self.measured_layers(trace(arch))]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def boundary_saving_ms(self, shape: Any) -> float:
        """Return the time in ms saved at a boundary where one layer passes a feature map of this shape to the next.

        Raises TableError if it was not measured.
        """
        layer = boundary_layer(shape)
        alone, twice = row_key(layer), row_key(RepeatedLayer(layer))
        if alone not in self.rows or twice not in self.rows:
            raise TableError(f"two of {layer_name(*alone)} in series are not covered", where=self.path)
        return 2 * self._estimated()[alone] - self._estimated()[twice]

    def network_ms(self, network: MeasuredNetwork) -> float:
        """Return the latency in ms of a measured network, estimated together with the layers."""
        return self._estimated()[network]

    def _estimated(self) -> dict[Any, float]:
        """Return the latency of each row. Rows are estimated together: all samples show the machine's slowdowns."""
        if not self._estimates:
            self._estimates = _estimate(self.rows)
        return self._estimates

    def predictor(self, space: str) -> LatencyPredictor:
        """Return the predictor for the space with this key. Without a calibration it sums layer latencies."""
        return LatencyPredictor(self, self.calibrations.get(space, Calibration()))

    def measured_layers(self, layers: Iterable[Layer]) -> list[Layer]:
        """Return what the table measures of some layers: also the post-processing of detectors, if its runtime can."""
        pairs = ((layer, self.post_layer(layer)) for layer in layers)
        return [layer for pair in pairs for layer in pair if layer is not None]

    def post_layer(self, layer: Layer) -> Layer | None:
        """Return the post-processing after a layer; None if there is none, or the runtime cannot run it."""
        after = post_layer(layer)
        return after if after is not None and selects_boxes(self.header["runtime"]) else None

    def features_of(self, layer: Layer, boundaries: bool = True) -> Features:
        """Return the calibration features of a layer, for a detector's head with those of its post-processing.

        Raises TableError if the table lacks it.
        """
        found = self.features_alone(layer, boundaries)
        after = self.post_layer(layer)
        return found if after is None else found + self.features_alone(after, boundaries)

    def features_alone(self, layer: Layer, boundaries: bool = True) -> Features:
        """Return the calibration features of a layer without post-processing, or of post-processing alone."""
        boundary_saving_ms = sum(map(self.boundary_saving_ms, output_maps(layer))) if boundaries else 0.0
        elements = sum(map(prod, output_shapes(layer)))
        return Features(self.latency_ms(layer), boundary_saving_ms, 1, elements, layer.params)

    def repeatability(self, keys: Sequence[RowKey]) -> float:
        """Return the mean relative difference between estimates from the odd and from the even samples of networks.

        One common factor is divided out: the halves may disagree on the machine's usual speed, which scales rows and
        networks alike.
        """
        even, odd = (
            _estimate({key: sorted(samples)[parity::2] for key, samples in self.rows.items()}) for parity in (0, 1)
        )
        ratios = [even[key] / odd[key] for key in keys if key in odd and key in even]
        return sum(abs(ratio / median(ratios) - 1) for ratio in ratios) / len(ratios) if ratios else 0.0

    def digest(self, layers: Iterable[Layer], space: str) -> str:
        """Return sixteen hex digits of everything that decides predictions for a space with these layers.

        The digest does not change if the table grows by layers or calibrations of other spaces.
        """
        items = _rows_of(self.measured_layers(layers))
        measured = {json.dumps(row_to_dict(item, [], {})): self.rows.get(row_key(item), []) for item in items}
        rows = {
            row: [(round(at, 3), round(ms, 6)) for at, ms in samples] for row, samples in measured.items() if samples
        }
        return json_digest([rows, self.calibrations.get(space, Calibration()).to_dict()])

    def missing(self, items: Iterable[W], samples: int = 1) -> list[W]:
        """Return the items with fewer than `samples` samples."""
        return [item for item in items if self.sample_count(item) < samples]

    def check_covers(self, layers: Iterable[Layer]) -> None:
        """Raise TableError, with the nearest row, for the first layer that the table lacks."""
        for layer in self.missing(self.measured_layers(layers))[:1]:
            self.latency_ms(layer)

    def differences(self, header: dict[str, Any]) -> dict[str, str]:
        """Return a description, by key, of each difference between this table's device and runtime and `header`."""
        named = ("name",) if "name" in header else ()
        return {
            key: f"{key} is {_words(self.header.get(key))} in the table and {_words(header.get(key))} here"
            for key in (*IDENTITY, "host", *named)
            if self.header.get(key) != header.get(key)
        }

    def _nearest(self, key: Key) -> str:
        layers = [row for row in self.rows if isinstance(row, tuple) and len(row) == 2]
        names = [layer_name(*layer) for layer in layers if layer[0].op == key[0].op]
        close = difflib.get_close_matches(layer_name(*key), names, n=1, cutoff=0.0)
        return f"; nearest is {close[0]}" if close else ""


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts the latency of any network of one space, as a sum over its layers.

    Attributes:
        table: The layers' latencies.
        calibration: The correction from layers to whole networks.
    """

    table: LatencyTable
    calibration: Calibration

    def layer_ms(self, layer: Layer) -> float:
        """Return the layer's share of a network's latency. Raises TableError as `LatencyTable.latency_ms`."""
        return self.calibration.latency_ms(self.table.features_of(layer, boundaries=bool(self.calibration.seam)))

    def predict(self, arch: Architecture) -> float:
        """Return the network's latency in ms, with post-processing. Raises TableError as `layer_ms`."""
        return sum(map(self.layer_ms, trace(arch)))

    def post_ms(self, arch: Architecture) -> float:
        """Return the share of the post-processing in ms; 0 for a classifier. Raises TableError as `layer_ms`."""
        return self.post_share_ms(trace(arch)[-1])

    def post_share_ms(self, layer: Layer) -> float:
        """Return the latency in ms of the post-processing after a layer; 0 if there is none."""
        after = self.table.post_layer(layer)
        return 0.0 if after is None else self.calibration.latency_ms(self.table.features_alone(after, False))


def _rows_of(layers: Iterable[Layer]) -> Iterator[Measurable]:
    """Yield the layers, and the layers that measure the savings at their boundaries."""
    for layer in layers:
        yield layer
        for shape in output_maps(layer):
            boundary = boundary_layer(shape)
            yield from (boundary, RepeatedLayer(boundary))


def _estimate(rows: Mapping[RowKey, Samples]) -> dict[RowKey, float]:
    samples = [(key, at, ms) for key, samples in rows.items() for at, ms in samples]
    return estimate(*([sample[part] for sample in samples] for part in range(3)))


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return repr(value)


def _header(line: str, where: str) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TableError(f"not a latency table: {error}", where=where) from error
    if not isinstance(header, dict) or any(key not in header for key in ("format", *IDENTITY)):
        raise TableError(f"the header must have {', '.join(('format', *IDENTITY))}", where=where)
    if header["format"] != FORMAT:
        raise TableError(
            f"must be {FORMAT}; move the table away and run 'nas profile'",
            where=where,
            key="format",
            value=header["format"],
        )
    return header
