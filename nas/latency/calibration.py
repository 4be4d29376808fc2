"""Calibration: corrects the sum of layer latencies to the latency of a whole network.

A layer that is measured alone converts its input and output between the runtime's own layout and the outside one, and
pays for a call. Inside a network it does not: each layer boundary saves that time. The saving is measured as
2 T(A) - T(A after A), for a 1x1 convolution A at each shape that a layer outputs. And a layer that is measured alone
finds its weights in a nearer cache: in a network, a whole inference has passed since they were last read. That costs
time in proportion to the parameters, and matters for small images. The correction is a sum over layers, so that
searches on the table stay exact. It has no constant term: fitted on common networks, a constant would be a
large error for a fast network.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from nas.errors import TableError

T = TypeVar("T")

PRIOR = {
    "scale": (1.0, 1.0),
    "seam": (1.0, 0.15),
    "ms_per_layer": (0.0, 0.05),
    "ms_per_mega": (0.0, 0.05),
    "ms_per_mega_params": (0.0, 0.05),
}
"""Prior mean of each coefficient, and the standard deviation of its term as a share of a network's latency."""
LATER = ("ms_per_mega_params",)
"""Coefficients that calibrations of before may lack."""
NOISE = 0.025
"""Assumed relative error of a network's measured latency and of a sum of rows."""
TOLERANCE = 0.05
"""A table is accurate if its mean relative error on held-out networks is at most this."""


@dataclass(frozen=True)
class Features:
    """The inputs from which the calibration predicts the latency of a network or of one of its layers.

    Attributes:
        table_ms: Sum of the layers' latencies by the table.
        boundary_saving_ms: Sum of the savings at the layers' output boundaries.
        layers: Number of layers.
        elements: Number of elements that the layers output.
        params: Number of parameters of the layers.
        measured_ms: Measured latency of the network; 0 if not measured.
    """

    table_ms: float
    boundary_saving_ms: float
    layers: int
    elements: int
    params: int
    measured_ms: float = 0.0

    def __add__(self, other: Features) -> Features:
        """Return the features of two parts of a network together."""
        return Features(
            self.table_ms + other.table_ms,
            self.boundary_saving_ms + other.boundary_saving_ms,
            self.layers + other.layers,
            self.elements + other.elements,
            self.params + other.params,
            self.measured_ms + other.measured_ms,
        )

    def terms(self) -> dict[str, float]:
        """Return the factor of each coefficient of a `Calibration`."""
        return {
            "scale": self.table_ms,
            "seam": -self.boundary_saving_ms,
            "ms_per_layer": self.layers,
            "ms_per_mega": self.elements / 1e6,
            "ms_per_mega_params": self.params / 1e6,
        }


@dataclass(frozen=True)
class Calibration:
    """A linear model of latency.

    latency_ms = scale * table_ms - seam * boundary_saving_ms + ms_per_layer * layers
                 + ms_per_mega * elements / 10^6 + ms_per_mega_params * params / 10^6

    Attributes:
        scale: Coefficient of the sum of layer latencies.
        seam: Coefficient of the boundary savings (its name in table files).
        ms_per_layer: Milliseconds per layer.
        ms_per_mega: Milliseconds per million output elements.
        networks: Number of networks that it was fitted to.
        error: Mean relative leave-one-out error on these networks.
        ms_per_mega_params: Milliseconds per million parameters.
    """

    scale: float = 1.0
    seam: float = 0.0
    ms_per_layer: float = 0.0
    ms_per_mega: float = 0.0
    networks: int = 0
    error: float | None = None
    ms_per_mega_params: float = 0.0

    def latency_ms(self, features: Features) -> float:
        """Return the latency in ms of a network, or the share of one layer in it."""
        return float(sum(getattr(self, name) * value for name, value in features.terms().items()))

    def to_dict(self) -> dict[str, Any]:
        """Return the coefficients by name; without that of the parameters if it is 0, as before it existed."""
        found = asdict(self)
        return found if self.ms_per_mega_params else {name: found[name] for name in found if name not in LATER}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote. Raises TableError."""
        return _checked(cls, {**dict.fromkeys(LATER, 0.0), **data} if isinstance(data, dict) else data)


@dataclass(frozen=True)
class Certificate:
    """Accuracy of the predictions on held-out networks. Errors are relative fractions.

    Attributes:
        networks: Number of held-out networks.
        mean_error: Mean error.
        worst_error: Largest error.
        within_5: Share of the networks with an error of at most 5 %.
        within_10: Share of the networks with an error of at most 10 %.
        spearman: Rank correlation of predictions and measurements.
        repeatability: Mean difference between estimates from the odd and from the even samples of the same networks,
            after one common factor: the device's own variation on that day.
        created: Date and time in ISO format.
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
        """Return the certificate that `to_dict` wrote. Raises TableError."""
        return _checked(cls, data)

    def __str__(self) -> str:
        return (
            f"mean error {self.mean_error:.1%}, worst {self.worst_error:.1%}, within 5 % {self.within_5:.0%}, "
            f"within 10 % {self.within_10:.0%}, Spearman {self.spearman:.3f} on {self.networks} held-out networks; "
            f"repeatability of the device {self.repeatability:.1%}"
        )


def fit(networks: Sequence[Features]) -> Calibration:
    """Fit a calibration to measured networks by Bayesian linear regression on relative errors.

    Few networks move the coefficients little from their priors. Raises TableError without networks.
    """
    if not networks:
        raise TableError("a calibration needs at least one measured network")
    errors = [
        abs(_solve([*networks[:index], *networks[index + 1 :]]).latency_ms(network) / network.measured_ms - 1)
        for index, network in enumerate(networks)
    ]
    return replace(_solve(networks), networks=len(networks), error=sum(errors) / len(errors))


def _solve(networks: Sequence[Features]) -> Calibration:
    """Return the most likely coefficients; without networks, the means of the priors."""
    import numpy as np

    if not networks:
        return Calibration(**{name: prior[0] for name, prior in PRIOR.items()})  # type: ignore[arg-type]
    shares = np.array([[value / network.measured_ms for value in network.terms().values()] for network in networks])
    means, deviations = (np.array([prior[part] for prior in PRIOR.values()]) for part in (0, 1))
    prior_precision = np.diag(np.mean(shares**2, axis=0) / deviations**2) + 1e-12 * np.eye(len(means))
    precision = shares.T @ shares / NOISE**2
    solution = np.linalg.solve(precision + prior_precision, shares.sum(axis=0) / NOISE**2 + prior_precision @ means)
    return Calibration(**dict(zip(PRIOR, map(float, solution), strict=True)))  # type: ignore[arg-type]


def certify(predicted_ms: Sequence[float], measured_ms: Sequence[float], repeatability: float) -> Certificate:
    """Return the certificate of predicted latencies, compared with measured ones; at least two of each, in ms."""
    import numpy as np
    from scipy.stats import spearmanr

    has_ranks = min(np.ptp(predicted_ms), np.ptp(measured_ms)) > 0  # equal values have no rank correlation
    errors = np.abs(np.asarray(predicted_ms) / np.asarray(measured_ms) - 1)
    return Certificate(
        networks=len(errors),
        mean_error=float(errors.mean()),
        worst_error=float(errors.max()),
        within_5=float((errors <= 0.05).mean()),
        within_10=float((errors <= 0.10).mean()),
        spearman=float(spearmanr(predicted_ms, measured_ms).statistic) if has_ranks else 0.0,
        repeatability=repeatability,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _checked(kind: type[T], data: dict[str, Any]) -> T:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    title = kind.__name__.lower()
    if not isinstance(data, dict) or set(data) != set(names):
        raise TableError(f"must have the keys {', '.join(names)}", key=title)
    for name, value in data.items():
        if name == "created":
            valid, rule = isinstance(value, str), "a date"
        else:
            valid, rule = type(value) in (int, float) and math.isfinite(value), "a finite number"
        if not valid and (name, value) != ("error", None):
            raise TableError(f"must be {rule}", key=f"{title}.{name}", value=value)
    return kind(**data)
