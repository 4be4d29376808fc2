"""The latency table of one device and runtime: measured layers, and the prediction of a network as their sum.

A table is a file of JSON lines: a header that says of what it is, then measured rows, appended as they come: layers,
whole networks, and the calibration that was fitted to them. A row may stand several times, once for each pass; a last
line that a crash cut off is dropped.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from nas.architecture import Architecture, BlockSpec, Shape
from nas.calibration import Calibration, Certificate, Sample
from nas.errors import SpaceError, TableError
from nas.estimate import estimate
from nas.files import drop_cut_line
from nas.network import Layer, as_shapes, input_shapes, trace, traced

FORMAT = 2
Key = tuple[BlockSpec, Any]
Visits = list[tuple[float, float]]
"""When, in seconds of an epoch, and how long, in ms: the median of the visit's timed calls."""
CALIBRATION, HELD_OUT = "calibration", "held_out"
ROLES = (CALIBRATION, HELD_OUT)

# What decides speed, and so what a table must agree in with the device that it is used for.
IDENTITY = ("device", "runtime", "runtime_version", "threads", "dtype")


@dataclass
class MeasuredNetwork:
    """A whole network of a space, measured along with its layers: to calibrate the sum, or to check it."""

    space: str
    role: str
    arch: Architecture
    visits: Visits = field(default_factory=list)


@dataclass
class LatencyTable:
    """Every measured layer and network.

    `rows` holds the visits of each (spec, in_shape), `pairs` those of it twice in series. `networks` is keyed by
    (space, digest), `calibrations` and `certificates` by the name of the space.
    """

    path: Path
    header: dict[str, Any]
    rows: dict[Key, Visits] = field(default_factory=dict)
    pairs: dict[Key, Visits] = field(default_factory=dict)
    networks: dict[tuple[str, str], MeasuredNetwork] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    _estimates: dict[Any, float] = field(default_factory=dict, repr=False)

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
            table._read(line, f"{path}, line {number}")
        return table

    def append(self, rows: Iterable[tuple[Layer, Visits]]) -> None:
        """Add visits of layers and write them to the file before returning. Raises TableError."""
        rows = list(rows)
        self._write([_row_to_dict(layer) | _visits_to_dict(visits) for layer, visits in rows])
        for layer, visits in rows:
            self._add(self.rows, (layer.spec, layer.in_shape), visits)

    def append_pairs(self, rows: Iterable[tuple[Layer, Visits]]) -> None:
        """Add visits of layers that were measured twice in series, written as `append` does. Raises TableError."""
        rows = list(rows)
        self._write([_row_to_dict(layer) | {"repeat": 2} | _visits_to_dict(visits) for layer, visits in rows])
        for layer, visits in rows:
            self._add(self.pairs, (layer.spec, layer.in_shape), visits)

    def append_networks(self, networks: Iterable[MeasuredNetwork]) -> None:
        """Add visits of whole networks, written as `append` does. Raises TableError."""
        networks = list(networks)
        self._write([
            {"network": network.arch.to_dict(), "space": network.space, "role": network.role}
            | _visits_to_dict(network.visits)
            for network in networks
        ])  # fmt: skip
        for network in networks:
            self._add_network(network)

    def append_calibration(self, space: str, calibration: Calibration, certificate: Certificate) -> None:
        """Add what the sums of a space are calibrated by, and how far it holds; the last one counts."""
        self._write([
            {"space": space, "calibration": calibration.to_dict(), "certificate": certificate.to_dict()}
        ])  # fmt: skip
        self.calibrations[space], self.certificates[space] = calibration, certificate

    def assume(self, key: Key, ms: float) -> None:
        """Let a layer that nobody measured count `ms`, in memory only."""
        self._add(self.rows, key, [(0.0, ms)])

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if drop_cut_line(file) == 0:
                    text = json.dumps(self.header) + "\n" + text
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TableError(f"{self.path}: cannot be written: {error}") from error

    def _read(self, line: str, where: str) -> None:
        try:
            data = json.loads(line)
            if "calibration" in data:
                self.calibrations[data["space"]] = Calibration.from_dict(data["calibration"])
                self.certificates[data["space"]] = Certificate.from_dict(data["certificate"])
            elif "network" in data:
                self._add_network(_network(data))
            else:
                rows = self.pairs if _is_pair(data) else self.rows
                self._add(rows, *_row(data, where))
        except (SpaceError, TableError) as error:
            text = str(error)
            raise TableError(text if text.startswith(where) else f"{where}: {text}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise TableError(f"{where}: a row needs a block or a network, 'in' and 'ms': {error!r}") from error

    def _add(self, rows: dict[Key, Visits], key: Key, visits: Visits) -> None:
        rows.setdefault(key, []).extend(visits)
        self._estimates.clear()

    def _add_network(self, network: MeasuredNetwork) -> None:
        known = self.networks.setdefault((network.space, network.arch.digest), network)
        if known is not network:
            known.visits.extend(network.visits)
        self._estimates.clear()

    def visits(self, layer: Layer) -> int:
        """Return how often the layer was visited."""
        return len(self.rows.get((layer.spec, layer.in_shape), ()))

    def pair_visits(self, layer: Layer) -> int:
        """Return how often the layer was visited twice in series."""
        return len(self.pairs.get((layer.spec, layer.in_shape), ()))

    def latency_ms(self, layer: Layer) -> float:
        """Return the layer's latency in ms. Raises TableError, naming layer and nearest row, when not covered."""
        key = (layer.spec, layer.in_shape)
        if key not in self.rows:
            raise TableError(f"{self.path}: {layer_name(*key)} is not covered{self._nearest(key)}")
        return self._estimated()[key]

    def seam_ms(self, shape: Any) -> float:
        """Return what is saved in ms where layers hand over a feature map of this shape. Raises TableError."""
        layer = seam_layer(shape)
        key = (layer.spec, layer.in_shape)
        if key not in self.pairs or key not in self.rows:
            raise TableError(f"{self.path}: two of {layer_name(*key)} in series are not covered")
        known = self._estimated()
        return 2 * known[key] - known[*key, 2]

    def network_ms(self, network: MeasuredNetwork) -> float:
        """Return the latency in ms of a measured network, estimated as the layers' are."""
        return self._estimated()[network.space, network.arch.digest]

    def _estimated(self) -> dict[Any, float]:
        """Return the estimates of all rows: every visit tells something of the machine's mood at the others."""
        if not self._estimates:
            visits = [(name, at, ms) for name, visits in self._named() for at, ms in visits]
            self._estimates = estimate(*([visit[part] for visit in visits] for part in range(3)))
        return self._estimates

    def _named(self) -> list[tuple[Any, Visits]]:
        pairs = (((*key, 2), visits) for key, visits in self.pairs.items())
        networks = ((key, network.visits) for key, network in self.networks.items())
        return [*self.rows.items(), *pairs, *networks]

    def predictor(self, space: str) -> Predictor:
        """Return what predicts networks of the space called `space`; plain sums where it was not calibrated."""
        return Predictor(self, self.calibrations.get(space, Calibration()))

    def sample(self, layer: Layer, seams: bool = True) -> Sample:
        """Return what predicts a layer's share in a network's latency. Raises TableError when it is not covered."""
        hands_over = seams and len(layer.out_shape) == 3
        seam_ms = self.seam_ms(layer.out_shape) if hands_over else 0.0
        return Sample(self.latency_ms(layer), seam_ms, 1, prod(layer.out_shape))

    def repeatability(self, names: Sequence[tuple[str, str]]) -> float:
        """Return the mean relative difference of networks' estimates from their odd and their even visits."""
        halves = []
        for parity in (0, 1):
            kept = [(name, at, ms) for name, visits in self._named() for at, ms in sorted(visits)[parity::2]]
            halves.append(estimate(*([visit[part] for visit in kept] for part in range(3))))
        odd, even = halves
        differences = [abs(odd[name] / even[name] - 1) for name in names if name in odd and name in even]
        return sum(differences) / len(differences) if differences else 0.0

    def missing(self, layers: Iterable[Layer], visits: int = 1) -> list[Layer]:
        """Return those of `layers` that were visited less than `visits` times."""
        return [layer for layer in layers if self.visits(layer) < visits]

    def missing_networks(self, networks: Iterable[MeasuredNetwork], visits: int = 1) -> list[MeasuredNetwork]:
        """Return those of `networks` that were visited less than `visits` times."""
        known = self.networks
        return [
            network
            for network in networks
            if (key := (network.space, network.arch.digest)) not in known or len(known[key].visits) < visits
        ]

    def differences(self, header: dict[str, Any]) -> dict[str, str]:
        """Return in words, for each key, where this table is of another device or runtime than `header`."""
        return {
            key: f"{key} is {_words(self.header.get(key))} in the table and {_words(header.get(key))} here"
            for key in IDENTITY
            if self.header.get(key) != header.get(key)
        }

    def _nearest(self, key: Key) -> str:
        names = {layer_name(*row): row for row in self.rows if row[0].op == key[0].op}
        close = difflib.get_close_matches(layer_name(*key), list(names), n=1, cutoff=0.0)
        return f"; nearest is {close[0]}" if close else ""


@dataclass(frozen=True)
class Predictor:
    """The latency of any network of one space by a table: a sum over its layers, in ms."""

    table: LatencyTable
    calibration: Calibration

    def layer_ms(self, layer: Layer) -> float:
        """Return what the layer adds. Raises TableError, naming layer and nearest row, when not covered."""
        return self.calibration.latency_ms(self.table.sample(layer, seams=bool(self.calibration.seam)))

    def predict(self, arch: Architecture) -> float:
        """Return the network's latency in ms. Raises TableError as `layer_ms`."""
        return sum(map(self.layer_ms, trace(arch)))


def seam_layer(shape: Shape) -> Layer:
    """Return the layer that tells, alone and twice, what a seam of this shape saves: a 1x1 convolution."""
    return traced(BlockSpec.of("conv", {"out_channels": shape[0], "kernel_size": 1}), shape)


def layer_name(spec: BlockSpec, in_shape: Any) -> str:
    """Return a layer in words: 'mbconv(out_channels=24, stride=2) at 16x112x112'."""
    return f"{spec} at {', '.join('x'.join(map(str, shape)) for shape in as_shapes(in_shape))}"


def layer_key(layer: Layer) -> str:
    """Return 16 hex digits that name the layer in every process: those of its spec and its input's shapes."""
    row = _row_to_dict(layer)
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return repr(value)


def _row_to_dict(layer: Layer) -> dict[str, Any]:
    shapes = [list(shape) for shape in input_shapes(layer)]
    several = isinstance(layer.in_shape[0], tuple)
    return {**layer.spec.to_dict(), "in": shapes if several else shapes[0]}


def _visits_to_dict(visits: Visits) -> dict[str, Any]:
    times = {"ms": [round(ms, 6) for _, ms in visits]}
    return {**times, "at": [round(at, 3) for at, _ in visits]} if any(at for at, _ in visits) else times


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


def _row(data: dict[str, Any], where: str) -> tuple[Key, Visits]:
    shape, visits = data.pop("in"), _visits(data)
    data.pop("repeat", None)
    spec = BlockSpec.from_dict(data, where)
    return (spec, tuple(map(_shape, shape)) if isinstance(shape[0], list) else _shape(shape)), visits


def _is_pair(data: dict[str, Any]) -> bool:
    repeat = data.get("repeat", 1)
    if repeat not in (1, 2):
        raise TableError(f"repeat must be 1 or 2: {repeat!r}")
    return bool(repeat == 2)


def _network(data: dict[str, Any]) -> MeasuredNetwork:
    if data["role"] not in ROLES:
        raise TableError(f"role must be one of {', '.join(ROLES)}: {data['role']!r}")
    return MeasuredNetwork(data["space"], data["role"], Architecture.from_dict(data["network"]), _visits(data))


def _visits(data: dict[str, Any]) -> Visits:
    """Take "ms" and "at" out of a row; a published row has one time, of which nobody told when."""
    times, at = [float(ms) for ms in data.pop("ms")], data.pop("at", None)
    at = [0.0] * len(times) if at is None else [float(second) for second in at]
    if not times or not all(math.isfinite(ms) and ms > 0 for ms in times):
        raise TableError(f"ms must be finite numbers above zero: {times!r}")
    if len(at) != len(times) or not all(map(math.isfinite, at)):
        raise TableError(f"at must be a finite number of seconds for each of ms: {at!r}")
    return list(zip(at, times, strict=True))


def _shape(data: Sequence[Any]) -> tuple[int, int, int]:
    channels, height, width = (int(size) for size in data)
    return channels, height, width
