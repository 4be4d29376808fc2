"""The latency table of one device and runtime: measured layers, and the prediction of a network as their sum.

A table is a file of JSON lines: a header that says of what it is, then measured rows, appended as they come: layers,
whole networks, and the calibration that was fitted to them. A row may stand several times, once for each pass; a last
line that a crash cut off is dropped.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from nas.architecture import Architecture
from nas.devices.timing import middle
from nas.errors import SpaceError, TableError
from nas.latency.calibration import Calibration, Certificate, Sample
from nas.latency.robust_estimation import estimate
from nas.latency.rows import (
    Key,
    Measurable,
    MeasuredNetwork,
    RepeatedLayer,
    RowKey,
    Visits,
    boundary_layer,
    layer_name,
    name_of,
    read_row,
    row_to_dict,
)
from nas.networks.network import Layer, trace
from nas.spaces.identity import json_digest
from nas.utils.files import append_rows

W = TypeVar("W", bound=Measurable)

FORMAT = 2

# What decides speed, and so what a table must agree in with the device that it is used for.
IDENTITY = ("device", "runtime", "runtime_version", "threads", "dtype")


@dataclass
class LatencyTable:
    """Every measured layer and network.

    `rows` holds the visits by name: (spec, in_shape) for a layer, (spec, in_shape, 2) for it twice in series, and the
    whole networks themselves. `costs` holds what else was measured by column and name; `calibrations` and
    `certificates` are keyed by the space's key.
    """

    path: Path
    header: dict[str, Any]
    rows: dict[RowKey, Visits] = field(default_factory=dict)
    costs: dict[str, dict[RowKey, list[float]]] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    _estimates: dict[RowKey, float] = field(default_factory=dict, repr=False)

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
        cut_off = len(lines) == 1 and '{"format": '.startswith(lines[0][:11])  # before the first line was whole
        if cut_off and header is not None:
            return cls(path, {"format": FORMAT, **header})
        table = cls(path, _header(lines[0], f"{path}, line 1"))
        for number, line in enumerate(lines[1:-1], start=2):
            table._read(line, f"{path}, line {number}")
        return table

    def append(
        self,
        rows: Iterable[tuple[Measurable, Visits]],
        costs: Mapping[RowKey, Mapping[str, Sequence[float]]] | None = None,
    ) -> None:
        """Add visits, and costs by name, and write them to the file before returning. Raises TableError."""
        rows, costs = list(rows), costs or {}
        self._write([row_to_dict(what, visits, costs.get(name_of(what), {})) for what, visits in rows])
        for what, visits in rows:
            name = name_of(what)
            self._add(name, visits, costs.get(name, {}))

    def append_calibration(self, space: str, calibration: Calibration, certificate: Certificate) -> None:
        """Add what the sums of a space are calibrated by, and how far it holds; the last one counts."""
        self._write([
            {"space": space, "calibration": calibration.to_dict(), "certificate": certificate.to_dict()}
        ])  # fmt: skip
        self.calibrations[space], self.certificates[space] = calibration, certificate

    def check_same(self, header: dict[str, Any], advice: str) -> None:
        """Raise TableError where this table is of another device or runtime than `header`."""
        for difference in self.differences(header).values():
            raise TableError(f"{self.path}: {difference}: {advice}")

    def assume(self, key: Key, ms: float) -> None:
        """Let a layer that nobody measured count `ms`, in memory only."""
        self._add(key, [(0.0, ms)], {})

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        try:
            append_rows(self.path, self.header, rows)
        except OSError as error:
            raise TableError(f"{self.path}: cannot be written: {error}") from error

    def _read(self, line: str, where: str) -> None:
        try:
            data = json.loads(line)
            if "device" in data:
                raise TableError("a second header: a file is the table of one device and runtime")
            if "calibration" in data:
                self.calibrations[data["space"]] = Calibration.from_dict(data["calibration"])
                self.certificates[data["space"]] = Certificate.from_dict(data["certificate"])
            else:
                self._add(*read_row(data, where))
        except (SpaceError, TableError) as error:
            text = str(error)
            raise TableError(text if text.startswith(where) else f"{where}: {text}") from error
        except (ValueError, OverflowError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise TableError(f"{where}: a row needs a block or a network, 'in' and 'ms': {error!r}") from error

    def _add(self, name: RowKey, visits: Visits, costs: Mapping[str, Sequence[float]]) -> None:
        self.rows.setdefault(name, []).extend(visits)
        for column, values in costs.items():
            self.costs.setdefault(column, {}).setdefault(name, []).extend(values)
        self._estimates.clear()

    @property
    def networks(self) -> list[MeasuredNetwork]:
        """The whole networks that were measured."""
        return [name for name in self.rows if isinstance(name, MeasuredNetwork)]

    def visits(self, what: Measurable) -> int:
        """Return how often it was visited."""
        return len(self.rows.get(name_of(what), ()))

    def cost(self, column: str, what: Measurable) -> float | None:
        """Return the median of what one of `COLUMNS` says, None where it was not measured."""
        values = self.costs.get(column, {}).get(name_of(what))
        return middle(values) if values else None

    def latency_ms(self, layer: Layer) -> float:
        """Return the layer's latency in ms. Raises TableError, naming layer and nearest row, when not covered."""
        key = (layer.spec, layer.in_shape)
        if key not in self.rows:
            raise TableError(f"{self.path}: {layer_name(*key)} is not covered{self._nearest(key)}")
        return self._estimated()[key]

    def predict_cost(self, column: str, arch: Architecture) -> float | None:
        """Return the sum of a column over the network's layers, None where it was not measured for each of them.

        Means something for size_bytes and energy_mj; a peak of memory is no sum.
        """
        costs = [self.cost(column, layer) for layer in trace(arch)]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def boundary_saving_ms(self, shape: Any) -> float:
        """Return what is saved in ms where layers hand over a feature map of this shape. Raises TableError."""
        layer = boundary_layer(shape)
        alone, twice = name_of(layer), name_of(RepeatedLayer(layer))
        if alone not in self.rows or twice not in self.rows:
            raise TableError(f"{self.path}: two of {layer_name(*alone)} in series are not covered")
        return 2 * self._estimated()[alone] - self._estimated()[twice]

    def network_ms(self, network: MeasuredNetwork) -> float:
        """Return the latency in ms of a measured network, estimated as the layers' are."""
        return self._estimated()[network]

    def _estimated(self) -> dict[Any, float]:
        """Return the estimates of all rows: every visit tells something of the machine's mood at the others."""
        if not self._estimates:
            self._estimates = _estimate(self.rows)
        return self._estimates

    def predictor(self, space: str) -> LatencyPredictor:
        """Return what predicts networks of the space of that key; plain sums where it was not calibrated."""
        return LatencyPredictor(self, self.calibrations.get(space, Calibration()))

    def sample(self, layer: Layer, seams: bool = True) -> Sample:
        """Return what predicts a layer's share in a network's latency. Raises TableError when it is not covered."""
        hands_over = seams and len(layer.out_shape) == 3
        boundary_saving_ms = self.boundary_saving_ms(layer.out_shape) if hands_over else 0.0
        return Sample(self.latency_ms(layer), boundary_saving_ms, 1, prod(layer.out_shape))

    def repeatability(self, names: Sequence[RowKey]) -> float:
        """Return the mean relative difference of networks' estimates from their odd and their even visits.

        After one common factor: which of the machine's speeds is its common one may differ between the halves, and
        that moves rows and networks alike.
        """
        halves = []
        for parity in (0, 1):
            halves.append(_estimate({name: sorted(visits)[parity::2] for name, visits in self.rows.items()}))
        odd, even = halves
        ratios = [odd[name] / even[name] for name in names if name in odd and name in even]
        return sum(abs(ratio / middle(ratios) - 1) for ratio in ratios) / len(ratios) if ratios else 0.0

    def digest(self, layers: Iterable[Layer], space: str) -> str:
        """Return sixteen hex digits of all that decides the predictions of a space with these layers.

        They stay the same while the table grows by the layers and calibrations of other spaces.
        """
        measured = {
            json.dumps(row_to_dict(what, [], {})): self.rows.get(name_of(what), []) for what in _rows_of(layers)
        }
        rows = {row: [(round(at, 3), round(ms, 6)) for at, ms in visits] for row, visits in measured.items() if visits}
        return json_digest([rows, self.calibrations.get(space, Calibration()).to_dict()])

    def missing(self, whats: Iterable[W], visits: int = 1) -> list[W]:
        """Return those of `whats` that were visited less than `visits` times."""
        return [what for what in whats if self.visits(what) < visits]

    def check_covers(self, layers: Iterable[Layer]) -> None:
        """Raise TableError, with the first layer that the table lacks and the nearest that it has."""
        for layer in self.missing(layers)[:1]:
            self.latency_ms(layer)

    def differences(self, header: dict[str, Any]) -> dict[str, str]:
        """Return in words, for each key, where this table is of another device or runtime than `header`."""
        return {
            key: f"{key} is {_words(self.header.get(key))} in the table and {_words(header.get(key))} here"
            for key in (*IDENTITY, "host")
            if self.header.get(key) != header.get(key)
        }

    def _nearest(self, key: Key) -> str:
        layers = [name for name in self.rows if isinstance(name, tuple) and len(name) == 2]
        names = {layer_name(*layer): layer for layer in layers if layer[0].op == key[0].op}
        close = difflib.get_close_matches(layer_name(*key), list(names), n=1, cutoff=0.0)
        return f"; nearest is {close[0]}" if close else ""


@dataclass(frozen=True)
class LatencyPredictor:
    """The latency of any network of one space by a table: a sum over its layers, in ms."""

    table: LatencyTable
    calibration: Calibration

    def layer_ms(self, layer: Layer) -> float:
        """Return what the layer adds. Raises TableError, naming layer and nearest row, when not covered."""
        return self.calibration.latency_ms(self.table.sample(layer, seams=bool(self.calibration.seam)))

    def predict(self, arch: Architecture) -> float:
        """Return the network's latency in ms. Raises TableError as `layer_ms`."""
        return sum(map(self.layer_ms, trace(arch)))


def _rows_of(layers: Iterable[Layer]) -> Iterator[Measurable]:
    """Yield the layers, and what tells of the seams between them."""
    for layer in layers:
        yield layer
        if len(layer.out_shape) == 3:
            seam = boundary_layer(layer.out_shape)
            yield from (seam, RepeatedLayer(seam))


def _estimate(rows: Mapping[RowKey, Visits]) -> dict[RowKey, float]:
    visits = [(name, at, ms) for name, visits in rows.items() for at, ms in visits]
    return estimate(*([visit[part] for visit in visits] for part in range(3)))


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return repr(value)


def _header(line: str, where: str) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{where}: not a latency table: {error}") from error
    if not isinstance(header, dict) or any(key not in header for key in ("format", *IDENTITY)):
        raise TableError(f"{where}: the header must have {', '.join(('format', *IDENTITY))}")
    if header["format"] != FORMAT:
        raise TableError(
            f"{where}: format must be {FORMAT}: {header['format']!r}; move the table away and profile anew"
        )
    return header
