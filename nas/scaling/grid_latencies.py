"""Latencies of grid points: of the points within a budget, or near a budget of latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import TableError, UsageError
from nas.scaling.budget import Budget
from nas.scaling.grid import GridPoint
from nas.scaling.network_latency import NetworkLatency
from nas.utils.reporting import Reporter

INITIAL_POINTS = 12
"""Points spread over the grid's MACs; a regression on them estimates the latencies of all others."""
MAX_NEAR_POINTS = 32
"""At most this many of the points that are estimated near the budget are measured."""
ESTIMATE_MARGIN = 0.1
"""Relative error of the estimates; points beyond the tolerance plus this margin are not measured."""
SESSION_SIZE = 16
"""Networks that are measured in one session, without the base."""


@dataclass(frozen=True)
class GridLatencies:
    """Latencies of grid points; the field names are the keys of `grid.json`.

    Attributes:
        base_ms: The base's latency in ms.
        latency_ms: The latency in ms of each known point, by digest.
        measured_on: The device, as `describe_device` returns it.
    """

    base_ms: float
    latency_ms: dict[str, float]
    measured_on: dict[str, Any] = field(default_factory=dict)


def measure_admitted(
    base: GridPoint, admitted: Sequence[GridPoint], network_latency: NetworkLatency, reporter: Reporter
) -> GridLatencies:
    """Return the latencies of all points that a budget of MACs or activations admits.

    A latency table gives only the points that it covers.
    """
    points = [base, *admitted]
    if network_latency.is_measured:
        _measure(points, base, network_latency, reporter)
    else:
        points = _covered(points, network_latency)
    return _known_latencies(points, base, network_latency)


def measure_grid(
    base: GridPoint,
    points: Sequence[GridPoint],
    times: float,
    tolerance: float,
    network_latency: NetworkLatency,
    reporter: Reporter,
) -> GridLatencies:
    """Return the latencies of the points near `times` the latency of the base.

    A few points spread over the grid are measured. A regression of log latency on log MACs, activations and layers
    then selects the points near the budget, which are measured too. A latency table gives all points that it covers.

    Args:
        base: The base.
        points: The distinct networks of the grid.
        times: The budget, relative to the base.
        tolerance: The relative deviation from the budget that a point may have.
        network_latency: Measures or predicts latencies.
        reporter: Reports progress.
    """
    if not network_latency.is_measured:
        return _known_latencies(_covered(points, network_latency), base, network_latency)
    by_macs = sorted(points, key=lambda point: (point.macs, point.architecture.digest))
    places = np.linspace(0, len(by_macs) - 1, min(INITIAL_POINTS, len(by_macs))).round().astype(int)
    chosen = {point.architecture.digest: point for point in [base, *(by_macs[place] for place in places)]}
    _measure(list(chosen.values()), base, network_latency, reporter)
    low, high = (times * (1 + sign * (tolerance + ESTIMATE_MARGIN)) for sign in (-1, 1))
    estimates = _estimate_ms(list(chosen.values()), by_macs, network_latency) / network_latency.ms(base.architecture)
    near = [
        (abs(float(np.log(share / times))), point)
        for point, share in zip(by_macs, estimates, strict=True)
        if low <= share <= high
    ]
    nearest = sorted(near, key=lambda entry: entry[0])[:MAX_NEAR_POINTS]
    chosen |= {point.architecture.digest: point for _, point in nearest}
    _measure(list(chosen.values()), base, network_latency, reporter)
    return _known_latencies(list(chosen.values()), base, network_latency)


def _covered(points: Sequence[GridPoint], network_latency: NetworkLatency) -> list[GridPoint]:
    """Return the points that a latency table covers. Raises the first TableError if it covers none."""
    covered, first_error = [], None
    for point in points:
        try:
            network_latency.measure([point.architecture])
            covered.append(point)
        except TableError as error:
            first_error = first_error or error
    if first_error and not covered:
        raise first_error
    return covered


def _measure(points: Sequence[GridPoint], base: GridPoint, network_latency: NetworkLatency, reporter: Reporter) -> None:
    """Measure the points that have not been measured yet, in sessions that include the base."""
    unmeasured = {
        point.architecture.digest: point.architecture
        for point in points
        if not network_latency.session_count(point.architecture)
    }
    archs = list(unmeasured.values())
    for start in range(0, len(archs), SESSION_SIZE):
        batch = archs[start : start + SESSION_SIZE]
        reporter.say(f"measuring {len(batch)} of {len(archs)} scaled networks")
        network_latency.measure(list({arch.digest: arch for arch in (base.architecture, *batch)}.values()))


def _known_latencies(points: Sequence[GridPoint], base: GridPoint, network_latency: NetworkLatency) -> GridLatencies:
    latency_ms = {point.architecture.digest: network_latency.ms(point.architecture) for point in points}
    return GridLatencies(network_latency.ms(base.architecture), latency_ms)


def _estimate_ms(
    measured: Sequence[GridPoint], points: Sequence[GridPoint], network_latency: NetworkLatency
) -> NDArray[np.float64]:
    """Return the estimated latencies of `points` in ms, (N,), by a ridge regression in logarithms."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(points: Sequence[GridPoint]) -> NDArray[np.float64]:
        return np.log([(point.macs, point.activations, point.layers) for point in points])

    model = make_pipeline(StandardScaler(), Ridge(alpha=0.01))
    model.fit(features(measured), np.log([network_latency.ms(point.architecture) for point in measured]))
    return np.asarray(np.exp(model.predict(features(points))), np.float64)


def check_any_admitted(
    admitted: Sequence[GridPoint], points: Sequence[GridPoint], shares: Sequence[float], budget: Budget
) -> None:
    """Raise UsageError with the nearest point if the budget admits none.

    `shares` are the costs of `points` relative to the base; infinite ones are unknown.
    """
    if admitted:
        return
    known = [
        (abs(np.log(share / budget.times)), share, point)
        for point, share in zip(points, shares, strict=True)
        if np.isfinite(share) and share > 0
    ]
    _, share, point = min(known, key=lambda entry: entry[0])
    coefficients = ",".join(f"{value:g}" for value in point.choices.values())
    raise UsageError(
        f"no grid point is within {100 * budget.tolerance:.3g}% of {budget.times:g} times the base's {budget.resource}",
        key="budget",
        nearest=f"; the nearest, {coefficients}, has {share:.2f} times: use a smaller --step or a larger --tolerance",
    )
