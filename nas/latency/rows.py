"""Rows of a latency table: the measured items and their JSON form."""

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
"""A layer's (spec, in_shape)."""
Samples = list[tuple[float, float]]
"""(when, in s of an epoch; how long, in ms: the median of the sample's timed calls) of each sample."""
Costs = dict[str, list[float]]
"""Other measured costs, by the names of `COLUMNS`."""
COLUMNS = ("size_bytes", "memory_bytes", "energy_mj")
"""Size of the exported file; peak memory of a fresh process, for whole networks only; energy of one call."""
CALIBRATION, HELD_OUT = "calibration", "held_out"
ROLES = (CALIBRATION, HELD_OUT)


@dataclass(frozen=True)
class RepeatedLayer:
    """A layer twice in series. Compared with the layer alone, it shows what a layer boundary saves."""

    layer: Layer


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network of a space, measured together with its layers.

    Attributes:
        space: The space's key.
        role: CALIBRATION or HELD_OUT.
        arch: The network.
    """

    space: str
    role: str
    arch: Architecture


Measurable = Layer | RepeatedLayer | MeasuredNetwork
RowKey = Any
"""(spec, in_shape) for a layer, (spec, in_shape, 2) for a repeated layer, the MeasuredNetwork for a network."""


def row_key(item: Measurable) -> RowKey:
    """Return the key of an item's row."""
    if isinstance(item, RepeatedLayer):
        return item.layer.spec, item.layer.in_shape, 2
    return (item.spec, item.in_shape) if isinstance(item, Layer) else item


def boundary_layer(shape: Shape) -> Layer:
    """Return the 1x1 convolution that, alone and repeated, measures the saving at a boundary of this shape."""
    return traced(BlockSpec.of("conv", {"out_channels": shape[0], "kernel_size": 1}), shape)


def layer_name(spec: BlockSpec, in_shape: Any) -> str:
    """Return a readable name: 'mbconv(out_channels=24, stride=2) at 16x112x112'."""
    return f"{spec} at {', '.join('x'.join(map(str, shape)) for shape in as_shapes(in_shape))}"


def layer_key(layer: Layer) -> str:
    """Return 16 hex digits of the layer's spec and input shapes, the same in each process."""
    return hashlib.sha256(json.dumps(item_to_dict(layer), sort_keys=True).encode()).hexdigest()[:16]


def row_to_dict(item: Measurable, samples: Samples, costs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the JSON form of a row, without the columns that were not measured."""
    row = {**item_to_dict(item), "ms": [round(ms, 6) for _, ms in samples]}
    if any(at for at, _ in samples):
        row["at"] = [round(at, 3) for at, _ in samples]
    return {**row, **{name: list(costs[name]) for name in COLUMNS if costs.get(name)}}


def item_to_dict(item: Measurable) -> dict[str, Any]:
    """Return the keys of a row that identify its item."""
    if isinstance(item, MeasuredNetwork):
        return {"network": item.arch.to_dict(), "space": item.space, "role": item.role}
    if isinstance(item, RepeatedLayer):
        return {**item_to_dict(item.layer), "repeat": 2}
    shapes = [list(shape) for shape in input_shapes(item)]
    return {**item.spec.to_dict(), "in": shapes if isinstance(item.in_shape[0], tuple) else shapes[0]}


def read_row(data: dict[str, Any]) -> tuple[RowKey, Samples, Costs]:
    """Return the content of a row that `row_to_dict` wrote.

    Raises:
        TableError: A value is invalid.
        SpaceError: The block or the network is invalid.
        ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError: A key is missing or malformed.
    """
    samples = _pop_samples(data)
    costs = {name: _numbers(data.pop(name), name, 0.0) for name in COLUMNS if name in data}
    if "network" in data:
        if data["role"] not in ROLES:
            raise TableError(f"must be one of {', '.join(ROLES)}", key="role", value=data["role"])
        return MeasuredNetwork(data["space"], data["role"], Architecture.from_dict(data["network"])), samples, costs
    repeat = data.pop("repeat", 1)
    if repeat not in (1, 2):
        raise TableError("must be 1 or 2", key="repeat", value=repeat)
    key = read_layer_key(data)
    return ((*key, 2) if repeat == 2 else key), samples, costs


def read_layer_key(data: Mapping[str, Any]) -> Key:
    """Return (spec, in_shape) of a layer that `item_to_dict` wrote. Raises the same errors as `read_row`."""
    shape = data["in"]
    in_shape = tuple(map(_shape, shape)) if isinstance(shape[0], list) else _shape(shape)
    return BlockSpec.from_dict({key: value for key, value in data.items() if key != "in"}), in_shape


def _pop_samples(data: dict[str, Any]) -> Samples:
    """Remove "ms" and "at" from a row and return its samples. A published row has one time and no "at"."""
    times = _numbers(data.pop("ms"), "ms", math.ulp(0.0))
    at = data.pop("at", None)
    at = [0.0] * len(times) if at is None else _numbers(at, "at", -math.inf)
    if len(at) != len(times):
        raise TableError("must have one number of seconds for each of 'ms'", key="at", value=at)
    return list(zip(at, times, strict=True))


def _numbers(values: Any, name: str, least: float) -> list[float]:
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        raise TableError("must be a list of numbers", key=name, value=values)
    found = [float(value) for value in values]
    if not found or not all(math.isfinite(value) and value >= least for value in found):
        rule = "must be finite numbers" + {0.0: " of at least zero", -math.inf: ""}.get(least, " above zero")
        raise TableError(rule, key=name, value=values)
    return found


def _shape(data: Sequence[Any]) -> Any:
    """Return the shape of a feature map (C, H, W), or of the predictions (N, C) of a detector's head."""
    shape = tuple(int(size) for size in data)
    if len(shape) not in (2, 3):
        raise ValueError(f"a shape must have three sizes, or two for predictions: {list(data)}")
    return shape
