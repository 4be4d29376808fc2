"""Parsing of `nas scale` flags: texts to coefficients, phis, latencies, points and roundings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.scaling.presets import PRESETS, Coefficients, Point, Preset, ScalingRule
from nas.scaling.scale import default_resolution_step, missing_dimensions
from nas.scaling.sizes import DIMENSIONS, Rounding
from nas.utils.registry import lookup, nearest
from nas.utils.units import parse_latency

DEFAULT_PRESET = Preset(
    "EfficientNet's coefficients", PRESETS["efficientnet"].source, PRESETS["efficientnet"].coefficients
)
"""The preset without --preset: EfficientNet's coefficients, with a resolution step that fits the base."""
MAX_PHIS = 1000
HEADS = ("scaled", "never-narrower", "fixed")


@dataclass(frozen=True)
class Rule:
    """How the networks of a family are made.

    Attributes:
        name: The origin of the rule in result files: a preset's name, "given", "searched" or "by hand".
        rounding: How scaled sizes are rounded.
        coefficients: The compound scaling rule; None for a table of points.
        points: The points of a table; empty for a compound scaling rule.
        reference: The base resolution, in pixels, for which the points' resolutions hold.
        compared: The rule that the sizes of the points are compared with; None if there is none.
    """

    name: str
    rounding: Rounding
    coefficients: ScalingRule | None = None
    points: tuple[Point, ...] = ()
    reference: int = 0
    compared: ScalingRule | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the rule's part of a result file."""
        return {
            "rule": self.name,
            "coefficients": self.coefficients.to_dict() if self.coefficients else None,
            "rounding": self.rounding.to_dict(),
        }


def find_preset(name: str) -> Preset:
    """Return a preset by name. Raises UsageError with the nearest name."""
    return lookup(PRESETS, name, "preset", "--preset")


def make_rounding(
    preset: Preset, arch: Architecture, divisor: int | None, repeats: str | None, step: int | None, head: str | None
) -> Rounding:
    """Return the preset's rounding, overridden by the flags that are not None. Raises UsageError."""
    given: dict[str, Any] = {"divisor": divisor, "repeats": repeats, "resolution_step": step, "head": head}
    for key in ("divisor", "resolution_step"):
        if given[key] is not None and (type(given[key]) is not int or given[key] < 1):
            raise UsageError("must be a whole number of at least 1", key=key, value=given[key])
    for key, known in (("repeats", ("ceil", "round")), ("head", HEADS)):
        value = given[key]
        if value is not None and value not in known:
            raise UsageError("unknown rounding", key=key, value=value, nearest=nearest(str(value), known))
    if head is not None:
        given["head"] = head.replace("-", " ")
    rounding = replace(preset.rounding, **{key: value for key, value in given.items() if value is not None})
    return replace(rounding, resolution_step=rounding.resolution_step or default_resolution_step(arch.resolution))


def parse_coefficients(text: str) -> Coefficients:
    """Return the coefficients of a text such as "1.2,1.1,1.15". Raises UsageError if one is below 1 or all are 1.

    A fourth number is the factor of the channels of a detector's neck.
    """
    numbers = _numbers(text, "coefficients")
    if len(numbers) not in (3, 4):
        rule = "must be three numbers: alpha,beta,gamma for depth, width and resolution; or four, for a detector's neck"
        raise UsageError(rule, key="coefficients", value=text)
    coefficients = Coefficients(*numbers)
    for name, value in coefficients.to_dict().items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1", key="coefficients", value=value)
    if max(numbers) == 1:
        raise UsageError("at least one of them must be above 1", key="coefficients", value=text)
    return coefficients


def parse_phis(text: str, key: str = "phi") -> list[float]:
    """Return the phis of a text such as "0..7" or "0,1,2.5"; `key` is the setting's name. Raises UsageError."""
    if ".." in text:
        ends = text.split("..")
        if len(ends) != 2 or "..." in text:
            raise UsageError("must be 'first..last'", key=key, value=text)
        first, last = (_number(end, key) for end in ends)
        if first > last:
            raise UsageError("the first phi must not be above the last", key=key, value=text)
        if last - first >= MAX_PHIS:
            raise UsageError(f"must be at most {MAX_PHIS} phis", key=key, value=text)
        return [first + step for step in range(math.floor(last - first) + 1)]
    return _distinct(_numbers(text, key), key, text)


def parse_latencies(text: str) -> list[float]:
    """Return the latencies in ms of a text such as "5ms,10ms". Raises UsageError."""
    return _distinct([parse_latency(part, "latency") for part in text.split(",")], "latency", text)


def parse_points(given: Mapping[str, str | None], base: Architecture) -> tuple[Point, ...]:
    """Return every combination of the values of --depth, --width and --resolution.

    Args:
        given: The texts by dimension: factors of depth and width, and pixels of the resolution.
        base: The network whose resolution is used if none is given.

    Raises:
        UsageError: If a value is not above zero, or pixels are not whole.
    """
    values = {key: [] if text is None else _distinct(_numbers(text, key), key, text) for key, text in given.items()}
    for key, numbers in values.items():
        for number in numbers:
            if not 0 < number < math.inf or (key == "resolution" and number != int(number)):
                kind = "whole number of pixels" if key == "resolution" else "factor"
                raise UsageError(f"must be a {kind} above zero", key=key, value=number)
    depths, widths = values.get("depth") or [1.0], values.get("width") or [1.0]
    sizes = [int(size) for size in values.get("resolution") or [base.resolution]]
    return tuple(
        Point(f"d{depth:.12g} w{width:.12g} {size} px", depth, width, size)
        for depth, width, size in product(depths, widths, sizes)
    )


def check_dimensions(base: Architecture, coefficients: ScalingRule, *, key: str = "", where: str = "") -> None:
    """Raise UsageError if the rule scales a dimension that the network does not have.

    `key` is the setting that gives the rule; `where` is the network, for a rule that no setting gives.
    """
    missing = missing_dimensions(base)
    for dimension, reason in missing.items():
        if dimension in coefficients.dimensions:
            known = ", ".join(name for name in DIMENSIONS if name not in missing)
            rule = f"this network has no {dimension} to scale: {reason}; it has {known}"
            raise UsageError(rule, key=key, where=where)


def _distinct(numbers: list[float], key: str, text: str) -> list[float]:
    if len(set(numbers)) < len(numbers):
        raise UsageError("values must be distinct", key=key, value=text)
    return numbers


def _numbers(text: str, key: str) -> list[float]:
    return [_number(part, key) for part in text.split(",")]


def _number(text: str, key: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError("not a number", key=key, value=text) from None
    if not math.isfinite(value):
        raise UsageError("must be finite", key=key, value=text)
    return value
