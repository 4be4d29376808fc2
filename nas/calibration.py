"""From the sum over a table to the latency of a whole network: a correction fitted to some, checked on others.

A layer in a network is not the layer alone: its input is warm, a runtime may keep its own memory layout from one to
the next, and what a network costs once is in every layer's own measurement. All of that grows with the number of
layers' outputs, so the correction stays additive over layers, and searching on the table stays exact.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from typing import Any, TypeVar

from nas.errors import TableError
from nas.network import Layer

T = TypeVar("T")

MIN_AFFINE = 5
"""With fewer networks to fit, more than one coefficient does worse than one."""


@dataclass(frozen=True)
class Sample:
    """A network to calibrate by: its table sum in ms, the elements that its layers put out, its measured ms."""

    table_ms: float
    elements: int
    measured_ms: float


@dataclass(frozen=True)
class Calibration:
    """latency_ms = constant_ms + sum over the layers of (scale * table_ms + ms_per_mega * output elements / 10^6).

    `error` is the mean relative error on each calibrating network, fitted on the others.
    """

    constant_ms: float = 0.0
    scale: float = 1.0
    ms_per_mega: float = 0.0
    networks: int = 0
    error: float | None = None

    def layer_ms(self, layer: Layer, table_ms: float) -> float:
        """Return what `layer` adds to a network's latency in ms, given its own."""
        return self.scale * table_ms + self.ms_per_mega * prod(layer.out_shape) / 1e6

    def total_ms(self, sample: Sample) -> float:
        """Return what `layer_ms` gives over all layers of a network, and the constant."""
        return self.constant_ms + self.scale * sample.table_ms + self.ms_per_mega * sample.elements / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Return the coefficients by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Return what `to_dict` gave. Raises TableError."""
        return _checked(cls, data)


@dataclass(frozen=True)
class Certificate:
    """How far predictions are from networks that the calibration has not seen; errors are relative fractions.

    `repeatability` is the mean difference between estimates of the same networks from every other visit: what
    the device itself differs by, on that day.
    """

    networks: int
    mean_error: float
    worst_error: float
    within_5: float
    within_10: float
    spearman: float
    repeatability: float
    created: str

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Certificate:
        """Return what `to_dict` gave. Raises TableError."""
        return _checked(cls, data)

    def __str__(self) -> str:
        return (
            f"mean error {self.mean_error:.1%}, worst {self.worst_error:.1%}, within 5 % {self.within_5:.0%}, "
            f"within 10 % {self.within_10:.0%}, Spearman {self.spearman:.3f} on {self.networks} networks it has not "
            f"seen; the device repeats itself to {self.repeatability:.1%}"
        )


def fit(samples: Sequence[Sample]) -> Calibration:
    """Return the calibration that errs least on each of `samples` when fitted on the others.

    Candidates, by relative least squares: one factor; factor and constant; and those with a term for the layers'
    outputs. With fewer than five samples only the factor is tried. Raises TableError without samples.
    """
    if not samples:
        raise TableError("a calibration needs at least one measured network")
    columns: list[tuple[str, ...]] = [("scale",)]
    if len(samples) >= MIN_AFFINE:
        columns += [("scale", "constant_ms"), ("scale", "ms_per_mega"), ("scale", "constant_ms", "ms_per_mega")]
    errors = {names: _left_out_error(samples, names) for names in columns}
    best = min(columns, key=lambda names: errors[names])
    return replace(Calibration(**_solve(samples, best)), networks=len(samples), error=errors[best])


def _left_out_error(samples: Sequence[Sample], names: tuple[str, ...]) -> float:
    """Return the mean relative error on each sample, fitted on the others (on itself where it is alone)."""
    total = 0.0
    for index, sample in enumerate(samples):
        others = [*samples[:index], *samples[index + 1 :]] or samples
        coefficients = _solve(others, names)
        total += abs(Calibration(**coefficients).total_ms(sample) / sample.measured_ms - 1)
    return total / len(samples)


def _solve(samples: Sequence[Sample], names: tuple[str, ...]) -> dict[str, Any]:
    import numpy as np

    terms = [{"scale": s.table_ms, "constant_ms": 1.0, "ms_per_mega": s.elements / 1e6} for s in samples]
    rows = np.array([
        [term[name] / sample.measured_ms for name in names] for term, sample in zip(terms, samples, strict=True)
    ])  # fmt: skip
    solution = np.linalg.lstsq(rows, np.ones(len(samples)), rcond=None)[0]
    return dict(zip(names, map(float, solution), strict=True))


def certify(predicted_ms: Sequence[float], measured_ms: Sequence[float], repeatability: float) -> Certificate:
    """Return the certificate of predictions beside measurements, two at least, in ms."""
    import numpy as np
    from scipy.stats import spearmanr

    errors = np.abs(np.asarray(predicted_ms) / np.asarray(measured_ms) - 1)
    return Certificate(
        networks=len(errors),
        mean_error=float(errors.mean()),
        worst_error=float(errors.max()),
        within_5=float((errors <= 0.05).mean()),
        within_10=float((errors <= 0.10).mean()),
        spearman=float(spearmanr(predicted_ms, measured_ms).statistic),
        repeatability=repeatability,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _checked(kind: type[T], data: dict[str, Any]) -> T:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(data, dict) or set(data) != set(names):
        raise TableError(f"a {kind.__name__.lower()} must have {', '.join(names)}")
    for name, value in data.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise TableError(f"{name} of a {kind.__name__.lower()} must be finite: {value}")
    return kind(**data)
