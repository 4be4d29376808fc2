"""Latencies of a grid's points: of those within the budget, and near it where the budget is latency itself."""

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

SPREAD = 12
"""So many points, spread over the grid's MACs, tell what the others will take."""
NEARBY = 32
"""At most so many points are measured because they may be within a budget of latency."""
MARGIN = 0.1
"""A guess may be off by so much: what it puts outside of the tolerance and the margin is not measured."""
AT_ONCE = 16


@dataclass(frozen=True)
class GridLatencies:
    """The base's latency in ms, that of each point by digest, and the device that they are of."""

    base_ms: float
    latency_ms: dict[str, float]
    measured_on: dict[str, Any] = field(default_factory=dict)


def measure_admitted(
    base: GridPoint, admitted: Sequence[GridPoint], stopwatch: NetworkLatency, reporter: Reporter
) -> GridLatencies:
    """Return the latencies of the points that a budget of MACs or activations admits: measured, to be compared."""
    if not stopwatch.is_measured:
        return _known(_covered([base, *admitted], stopwatch), base, stopwatch)
    _measure([base, *admitted], base, stopwatch, reporter)
    return _known([base, *admitted], base, stopwatch)


def measure_grid(
    base: GridPoint,
    every: Sequence[GridPoint],
    times: float,
    tolerance: float,
    stopwatch: NetworkLatency,
    reporter: Reporter,
) -> GridLatencies:
    """Return the latencies of the points around `times` that of the base: all that a guess puts there are measured.

    The guess is a fit of log latency by log MACs, activations and layers to a spread of points, and then to all that
    were measured. Of a table, every point's is known that the table covers.
    """
    if not stopwatch.is_measured:
        return _known(_covered(every, stopwatch), base, stopwatch)
    order = sorted(every, key=lambda spot: (spot.macs, spot.architecture.digest))
    places = np.linspace(0, len(order) - 1, min(SPREAD, len(order))).round().astype(int)
    seen = {spot.architecture.digest: spot for spot in [base, *(order[place] for place in places)]}
    _measure(list(seen.values()), base, stopwatch, reporter)
    low, high = (times * (1 + sign * (tolerance + MARGIN)) for sign in (-1, 1))
    guessed = _guess(list(seen.values()), order, stopwatch) / stopwatch.ms(base.architecture)
    near = [spot for spot, share in zip(order, guessed, strict=True) if low <= share <= high]
    distance = {
        spot.architecture.digest: abs(float(np.log(share / times))) for spot, share in zip(order, guessed, strict=True)
    }
    near = sorted(near, key=lambda spot: distance[spot.architecture.digest])[:NEARBY]
    seen |= {spot.architecture.digest: spot for spot in near}
    _measure(list(seen.values()), base, stopwatch, reporter)
    return _known(list(seen.values()), base, stopwatch)


def _covered(every: Sequence[GridPoint], stopwatch: NetworkLatency) -> list[GridPoint]:
    """Return the points that a table covers. Raises its TableError where there is none."""
    found, why = [], None
    for spot in every:
        try:
            stopwatch.session([spot.architecture])
            found.append(spot)
        except TableError as error:
            why = why or error
    if why and not found:
        raise why
    return found


def _measure(spots: Sequence[GridPoint], base: GridPoint, stopwatch: NetworkLatency, reporter: Reporter) -> None:
    """Measure those of the points that were in no session yet, some at once, each time beside the base."""
    waiting = {
        spot.architecture.digest: spot.architecture for spot in spots if not stopwatch.sessions(spot.architecture)
    }
    archs = list(waiting.values())
    for start in range(0, len(archs), AT_ONCE):
        reporter.say(f"measuring {len(archs[start : start + AT_ONCE])} of {len(archs)} scaled networks")
        batch = {arch.digest: arch for arch in (base.architecture, *archs[start : start + AT_ONCE])}
        stopwatch.session(list(batch.values()))


def _known(spots: Sequence[GridPoint], base: GridPoint, stopwatch: NetworkLatency) -> GridLatencies:
    found = {spot.architecture.digest: stopwatch.ms(spot.architecture) for spot in spots}
    return GridLatencies(stopwatch.ms(base.architecture), found)


def _guess(seen: Sequence[GridPoint], every: Sequence[GridPoint], stopwatch: NetworkLatency) -> NDArray[np.float64]:
    """Return the latencies in ms to expect, (N,), by a ridge regression in logarithms."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def columns(spots: Sequence[GridPoint]) -> NDArray[np.float64]:
        return np.log([(spot.macs, spot.activations, spot.layers) for spot in spots])

    model = make_pipeline(StandardScaler(), Ridge(alpha=0.01))
    model.fit(columns(seen), np.log([stopwatch.ms(spot.architecture) for spot in seen]))
    return np.asarray(np.exp(model.predict(columns(every))), np.float64)


def check_any(
    admitted: Sequence[GridPoint], every: Sequence[GridPoint], shares: Sequence[float], budget: Budget
) -> None:
    """Raise UsageError, with the nearest point, where the budget admits none."""
    if admitted:
        return
    known = [(abs(np.log(share / budget.times)), share, spot) for spot, share in zip(every, shares, strict=True)
             if np.isfinite(share) and share > 0]  # fmt: skip
    _, share, spot = min(known, key=lambda entry: entry[0])
    words = ",".join(f"{value:g}" for value in spot.choices.values())
    raise UsageError(
        f"--budget: no grid point meets {budget.times:g} times the base's {budget.resource} to "
        f"{100 * budget.tolerance:.3g}%: the nearest, {words}, has {share:.2f} times; "
        "give a finer --step or a wider --tolerance"
    )
