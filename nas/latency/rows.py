"""The rows of a latency table: what is measured, and how it is spelled as a line of JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.architecture import Architecture, BlockSpec, Shape
from nas.errors import TableError
from nas.networks.network import Layer, as_shapes, input_shapes, traced

Key = tuple[BlockSpec, Any]
Visits = list[tuple[float, float]]
"""When, in seconds of an epoch, and how long, in ms: the median of the visit's timed calls."""
Costs = dict[str, list[float]]
"""What else was measured, by the names of `COLUMNS`."""
COLUMNS = ("size_bytes", "memory_bytes", "energy_mj")
"""The exported file; the peak of a fresh process, for whole networks; one call, where the device tells."""
CALIBRATION, HELD_OUT = "calibration", "held_out"
ROLES = (CALIBRATION, HELD_OUT)


@dataclass(frozen=True)
class RepeatedLayer:
    """A layer twice in series: beside the layer alone it tells what a seam saves."""

    layer: Layer


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network of a space, measured along with its layers: to calibrate the sum, or to check it."""

    space: str
    role: str
    arch: Architecture


Measurable = Layer | RepeatedLayer | MeasuredNetwork
RowKey = Any
"""What names a row: (spec, in_shape) for a layer, (spec, in_shape, 2) for a pair, a network itself."""


def name_of(what: Measurable) -> RowKey:
    """Return the name of what is measured."""
    if isinstance(what, RepeatedLayer):
        return what.layer.spec, what.layer.in_shape, 2
    return (what.spec, what.in_shape) if isinstance(what, Layer) else what


def boundary_layer(shape: Shape) -> Layer:
    """Return the layer that tells, alone and twice, what a seam of this shape saves: a 1x1 convolution."""
    return traced(BlockSpec.of("conv", {"out_channels": shape[0], "kernel_size": 1}), shape)


def layer_name(spec: BlockSpec, in_shape: Any) -> str:
    """Return a layer in words: 'mbconv(out_channels=24, stride=2) at 16x112x112'."""
    return f"{spec} at {', '.join('x'.join(map(str, shape)) for shape in as_shapes(in_shape))}"


def layer_key(layer: Layer) -> str:
    """Return 16 hex digits that name the layer in every process: those of its spec and its input's shapes."""
    return hashlib.sha256(json.dumps(_what_to_dict(layer), sort_keys=True).encode()).hexdigest()[:16]


def row_to_dict(what: Measurable, visits: Visits, costs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a row as JSON spells it; what was not measured is not there."""
    row = {**_what_to_dict(what), "ms": [round(ms, 6) for _, ms in visits]}
    if any(at for at, _ in visits):
        row["at"] = [round(at, 3) for at, _ in visits]
    return {**row, **{name: list(costs[name]) for name in COLUMNS if costs.get(name)}}


def _what_to_dict(what: Measurable) -> dict[str, Any]:
    if isinstance(what, MeasuredNetwork):
        return {"network": what.arch.to_dict(), "space": what.space, "role": what.role}
    if isinstance(what, RepeatedLayer):
        return {**_what_to_dict(what.layer), "repeat": 2}
    shapes = [list(shape) for shape in input_shapes(what)]
    return {**what.spec.to_dict(), "in": shapes if isinstance(what.in_shape[0], tuple) else shapes[0]}


def read_row(data: dict[str, Any], where: str) -> tuple[RowKey, Visits, Costs]:
    """Return what `row_to_dict` wrote. Raises TableError, SpaceError, or what broken data makes of itself."""
    visits = _visits(data)
    costs = {name: _numbers(data.pop(name), name, 0.0) for name in COLUMNS if name in data}
    if "network" in data:
        if data["role"] not in ROLES:
            raise TableError(f"role must be one of {', '.join(ROLES)}: {data['role']!r}")
        return MeasuredNetwork(data["space"], data["role"], Architecture.from_dict(data["network"])), visits, costs
    shape, repeat = data.pop("in"), data.pop("repeat", 1)
    if repeat not in (1, 2):
        raise TableError(f"repeat must be 1 or 2: {repeat!r}")
    key = BlockSpec.from_dict(data, where), _in_shape(shape)
    return ((*key, 2) if repeat == 2 else key), visits, costs


def _visits(data: dict[str, Any]) -> Visits:
    """Take "ms" and "at" out of a row; a published row has one time, of which nobody told when."""
    times = _numbers(data.pop("ms"), "ms", math.ulp(0.0))
    at = data.pop("at", None)
    at = [0.0] * len(times) if at is None else _numbers(at, "at", -math.inf)
    if len(at) != len(times):
        raise TableError(f"at must be a number of seconds for each of ms: {at!r}")
    return list(zip(at, times, strict=True))


def _numbers(values: Any, name: str, least: float) -> list[float]:
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        raise TableError(f"{name} must be a list of numbers: {values!r}")
    found = [float(value) for value in values]
    if not found or not all(math.isfinite(value) and value >= least for value in found):
        rule = "finite numbers" + {0.0: " from zero", -math.inf: ""}.get(least, " above zero")
        raise TableError(f"{name} must be {rule}: {values!r}")
    return found


def _in_shape(data: Any) -> Any:
    return tuple(map(_shape, data)) if isinstance(data[0], list) else _shape(data)


def _shape(data: Sequence[Any]) -> tuple[int, int, int]:
    channels, height, width = (int(size) for size in data)
    return channels, height, width
