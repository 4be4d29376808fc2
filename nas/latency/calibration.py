"""From the sum over a table to the latency of a whole network: a correction fitted to some, checked on others.

A layer in a network is not the layer alone: alone it must take its input and give its output in the layout of the
outside, and be called; between two layers a runtime keeps its own layout. What is saved at a seam is measured as
2 T(A) - T(A after A) for a 1x1 convolution A at every shape that layers hand over. The correction is additive over
layers, so that searching on the table stays exact, and has no constant: one fitted to common networks is wrong by
a large part of a fast one.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from nas.errors import TableError

T = TypeVar("T")

PRIOR = {"scale": (1.0, 1.0), "seam": (1.0, 0.15), "ms_per_layer": (0.0, 0.05), "ms_per_mega": (0.0, 0.05)}
"""What each coefficient is without evidence, and the share of a network's latency by which its term may be wrong."""
NOISE = 0.025
"""The relative error that a network's measurement and a sum of rows are taken to have."""
TOLERANCE = 0.05
"""A table predicts well while its mean relative error on networks that it has not seen is within this."""


@dataclass(frozen=True)
class Sample:
    """What predicts a network, or one layer of it: table times in ms, what its seams save in ms, layers, elements.

    `elements` counts what the layers put out, `measured_ms` is the network's latency where it is known.
    """

    table_ms: float
    boundary_saving_ms: float
    layers: int
    elements: int
    measured_ms: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """latency_ms = scale * table_ms - seam * seam_ms + ms_per_layer * layers + ms_per_mega * elements / 10^6.

    `error` is the mean relative error on each calibrating network, fitted on the others.
    """

    scale: float = 1.0
    seam: float = 0.0
    ms_per_layer: float = 0.0
    ms_per_mega: float = 0.0
    networks: int = 0
    error: float | None = None

    def latency_ms(self, sample: Sample) -> float:
        """Return the latency in ms of a network, or what a layer adds to it."""
        return float(sum(getattr(self, name) * value for name, value in _terms(sample).items()))

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

    `repeatability` is the mean difference between estimates of the same networks from every other visit, after one
    common factor: what the device itself differs by, on that day.
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


def _terms(sample: Sample) -> dict[str, float]:
    return {
        "scale": sample.table_ms,
        "seam": -sample.boundary_saving_ms,
        "ms_per_layer": sample.layers,
        "ms_per_mega": sample.elements / 1e6,
    }


def fit(samples: Sequence[Sample]) -> Calibration:
    """Return the calibration by Bayesian linear regression on relative errors: few networks move it little.

    Raises TableError without samples.
    """
    if not samples:
        raise TableError("a calibration needs at least one measured network")
    errors = [
        abs(_solve([*samples[:index], *samples[index + 1 :]]).latency_ms(sample) / sample.measured_ms - 1)
        for index, sample in enumerate(samples)
    ]
    return replace(_solve(samples), networks=len(samples), error=sum(errors) / len(errors))


def _solve(samples: Sequence[Sample]) -> Calibration:
    """Return the most likely coefficients; the prior's where there are no samples."""
    import numpy as np

    if not samples:
        return Calibration(**{name: prior[0] for name, prior in PRIOR.items()})  # type: ignore[arg-type]
    shares = np.array([[value / sample.measured_ms for value in _terms(sample).values()] for sample in samples])
    means, deviations = (np.array([prior[part] for prior in PRIOR.values()]) for part in (0, 1))
    certain = np.diag(np.mean(shares**2, axis=0) / deviations**2) + 1e-12 * np.eye(len(means))
    evidence = shares.T @ shares / NOISE**2
    solution = np.linalg.solve(evidence + certain, shares.sum(axis=0) / NOISE**2 + certain @ means)
    return Calibration(**dict(zip(PRIOR, map(float, solution), strict=True)))  # type: ignore[arg-type]


def certify(predicted_ms: Sequence[float], measured_ms: Sequence[float], repeatability: float) -> Certificate:
    """Return the certificate of predictions beside measurements, two at least, in ms."""
    import numpy as np
    from scipy.stats import spearmanr

    ranked = min(np.ptp(predicted_ms), np.ptp(measured_ms)) > 0  # else no rank is defined
    errors = np.abs(np.asarray(predicted_ms) / np.asarray(measured_ms) - 1)
    return Certificate(
        networks=len(errors),
        mean_error=float(errors.mean()),
        worst_error=float(errors.max()),
        within_5=float((errors <= 0.05).mean()),
        within_10=float((errors <= 0.10).mean()),
        spearman=float(spearmanr(predicted_ms, measured_ms).statistic) if ranked else 0.0,
        repeatability=repeatability,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _checked(kind: type[T], data: dict[str, Any]) -> T:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(data, dict) or set(data) != set(names):
        raise TableError(f"a {kind.__name__.lower()} must have {', '.join(names)}")
    for name, value in data.items():
        if name == "created":
            right, rule = isinstance(value, str), "a date"
        else:
            right, rule = type(value) in (int, float) and math.isfinite(value), "a finite number"
        if not right and (name, value) != ("error", None):
            raise TableError(f"{name} of a {kind.__name__.lower()} must be {rule}: {value!r}")
    return kind(**data)
