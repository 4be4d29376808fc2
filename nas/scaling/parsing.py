"""What `nas scale` is asked for, read from flags: a rule, the networks on it, and how to round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.scaling.presets import PRESETS, Coefficients, Point, Preset
from nas.scaling.scale import DIMENSIONS, Factors, Rounding, fine_step, missing_dimensions
from nas.utils.registry import lookup, nearest
from nas.utils.units import parse_latency

UNNAMED = Preset("EfficientNet's coefficients", PRESETS["efficientnet"].source, PRESETS["efficientnet"].coefficients)
"""What scales where no preset is named: the paper's coefficients, with a step of pixels that fits the base."""
MOST = 1000
HEADS = ("scaled", "never-narrower", "fixed")


@dataclass(frozen=True)
class Rule:
    """How a family is made: coefficients, or a published table's points, and the rounding; `name` says whose.

    The points' inputs are those of a base for `reference` pixels.
    """

    name: str
    rounding: Rounding
    coefficients: Coefficients | None = None
    points: tuple[Point, ...] = ()
    reference: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as a result tells it."""
        return {
            "rule": self.name,
            "coefficients": asdict(self.coefficients) if self.coefficients else None,
            "rounding": asdict(self.rounding),
        }


def find_preset(name: str) -> Preset:
    """Return a preset. Raises UsageError with the nearest name."""
    return lookup(PRESETS, name, "preset", "--preset")


def make_rounding(
    preset: Preset, arch: Architecture, divisor: int | None, repeats: str | None, step: int | None, head: str | None
) -> Rounding:
    """Return the preset's rounding with what the flags say otherwise. Raises UsageError."""
    given: dict[str, Any] = {"divisor": divisor, "repeats": repeats, "resolution_step": step, "head": head}
    for key in ("divisor", "resolution_step"):
        if given[key] is not None and (type(given[key]) is not int or given[key] < 1):
            raise UsageError(f"--{key.replace('_', '-')}: must be a whole number of at least 1: {given[key]!r}")
    for key, known in (("repeats", ("ceil", "round")), ("head", HEADS)):
        value = given[key]
        if value is not None and value not in known:
            raise UsageError(f"--{key}: unknown: {value!r}{nearest(str(value), known)}")
    if head is not None:
        given["head"] = head.replace("-", " ")
    rounding = replace(preset.rounding, **{key: value for key, value in given.items() if value is not None})
    return replace(rounding, resolution_step=rounding.resolution_step or fine_step(arch.resolution))


def parse_coefficients(text: str) -> Coefficients:
    """Return the coefficients that "1.2,1.1,1.15" spells. Raises UsageError where one is below 1, or all are 1."""
    numbers = _numbers(text, "--coefficients")
    if len(numbers) != 3:
        raise UsageError(f"--coefficients: are three, alpha,beta,gamma for depth, width, resolution: {text!r}")
    found = Coefficients(*numbers)
    for field in fields(found):
        if getattr(found, field.name) < 1:
            raise UsageError(f"--coefficients: {field.name} must be at least 1: {getattr(found, field.name):g}")
    if found.at(1) == Factors():
        raise UsageError("--coefficients: one of them must be above 1: '1,1,1' scales nothing")
    return found


def parse_phis(text: str, flag: str = "--phi") -> list[float]:
    """Return the phis that "0..7" or "0,1,2.5" spells. Raises UsageError."""
    if ".." in text:
        ends = text.split("..")
        if len(ends) != 2 or "..." in text:
            raise UsageError(f"{flag}: must be 'first..last': {text!r}")
        first, last = (_number(end, flag) for end in ends)
        if first > last:
            raise UsageError(f"{flag}: the first must not be above the last: {text!r}")
        if last - first >= MOST:
            raise UsageError(f"{flag}: {MOST} at most: {text!r}")
        return [first + step for step in range(math.floor(last - first) + 1)]
    return _once(_numbers(text, flag), flag, text)


def parse_latencies(text: str) -> list[float]:
    """Return the targets in ms that "5ms,10ms" spells. Raises UsageError."""
    return _once([parse_latency(part, "latency") for part in text.split(",")], "--latency", text)


def parse_points(given: Mapping[str, str | None], base: Architecture) -> tuple[Point, ...]:
    """Return every combination of the factors of `--depth` and `--width` and the pixels of `--resolution`.

    Raises UsageError where one is not above zero, or pixels are not whole.
    """
    values = {
        key: [] if text is None else _once(_numbers(text, f"--{key}"), f"--{key}", text) for key, text in given.items()
    }
    for key, numbers in values.items():
        for number in numbers:
            if not 0 < number < math.inf or (key == "resolution" and number != int(number)):
                rule = "pixels, a whole number above zero" if key == "resolution" else "a factor above zero"
                raise UsageError(f"--{key}: must be {rule}: {number:g}")
    depths, widths = values.get("depth") or [1.0], values.get("width") or [1.0]
    sizes = [int(size) for size in values.get("resolution") or [base.resolution]]
    return tuple(
        Point(f"d{depth:.12g} w{width:.12g} {size} px", depth, width, size)
        for depth, width, size in product(depths, widths, sizes)
    )


def check_exists(base: Architecture, coefficients: Coefficients, flag: str) -> None:
    """Raise UsageError where the rule scales what the network does not have."""
    for dimension, why in missing_dimensions(base).items():
        if dimension in coefficients.dimensions:
            known = ", ".join(name for name in DIMENSIONS if name not in missing_dimensions(base))
            raise UsageError(f"{flag}: this network has no {dimension} to scale: {why}; it has {known}")


def _once(numbers: list[float], flag: str, text: str) -> list[float]:
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{flag}: the same twice: {text!r}")
    return numbers


def _numbers(text: str, flag: str) -> list[float]:
    return [_number(part, flag) for part in text.split(",")]


def _number(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{flag}: not a number: {text!r}") from None
    if not math.isfinite(value):
        raise UsageError(f"{flag}: must be finite: {text!r}")
    return value
