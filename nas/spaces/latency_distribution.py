"""Latency over a whole space: counts, quantiles and uniform samples, by dynamic programming over cost tables.

Costs are counted in equal steps above the fastest network's latency. Each row's excess is its cost plus the smallest
cost after it, minus the smallest cost from its state to the end. An excess is never negative, even if costs are, and a
network's excesses add up to its latency above the fastest network. Counts are float64: exact up to 2^53, then within
a relative error of about 1e-15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.spaces.cost_tables import Codes, Floats, Integers, SpaceCosts
from nas.utils.units import format_latency

BINS = 1 << 13
"""Steps of the grid: a row's cost is known to 1/8192 of the latency range."""
COUNTS = 1 << 25
"""Largest number of counts in memory, 256 MB. A space with more states gets a coarser grid; results stay valid."""
BATCH = 1 << 18
"""Networks drawn at once."""
WEIGHTS = 1 << 19
"""Weights computed at once."""
TRIES = 1000
"""Sampling fails if fewer than one of this many draws is within the limits."""


class Count(NamedTuple):
    """A number of distinct networks: exact bounds, and the most likely value between them."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Distribution:
    """The distribution of latency over the distinct networks of a space.

    Attributes:
        edges_ms: Latencies in ms, increasing.
        within: The number of networks with a latency of at most each edge.
        total: The exact number of distinct networks.
        error_ms: The largest error of a quantile, in ms.
    """

    edges_ms: Floats
    within: Floats
    total: int
    error_ms: float

    def quantile(self, share: float) -> float:
        """Return the latency in ms that a share of the networks, in [0, 1], does not exceed."""
        return float(np.interp(share * self.within[-1], self.within, self.edges_ms))

    def share_within(self, limit_ms: float) -> float:
        """Return the share of the networks with a latency of at most `limit_ms`."""
        return float(np.interp(limit_ms, self.edges_ms, self.within) / self.within[-1])

    def histogram(self, edges_ms: Sequence[float] | Floats) -> Floats:
        """Return the share of the networks between each two adjacent `edges_ms`."""
        return np.diff([self.share_within(float(edge)) for edge in edges_ms])


@dataclass(frozen=True)
class _Grid:
    """Excesses in whole steps.

    Attributes:
        step_ms: The step.
        last: The largest excess of a network, in steps.
        units: The excess of each row, in steps, one array per table.
    """

    step_ms: float
    last: int
    units: tuple[Integers, ...]


def latency_distribution(compiled: SpaceCosts, bins: int = 4 * BINS) -> Distribution:
    """Return the latency distribution of the distinct networks. Costs of rows are rounded to the nearest step."""
    reach = compiled.max_cost - compiled.min_cost
    step = max(reach / _max_bins(compiled, bins), _smallest_step(compiled))
    units = tuple(np.rint(excess / step).astype(np.intp) for excess in _excess(compiled))
    grid = _Grid(step, int(reach / step) + len(units), units)
    base = np.zeros(grid.last + 1)
    base[0] = 1.0
    counts = _completions(compiled, grid, base)[0][0, 1:]
    edges = compiled.min_cost + (np.arange(grid.last + 2) - 0.5) * step
    edges = np.clip(edges, compiled.min_cost, compiled.max_cost)
    return Distribution(edges, np.concatenate([[0.0], np.cumsum(counts)]), compiled.size, len(units) * step / 2)


def count_within(compiled: SpaceCosts, limit_ms: float, bins: int = BINS) -> Count:
    """Return the number of distinct networks with a latency of at most `limit_ms`."""
    if limit_ms < compiled.min_cost:
        return Count(0.0, 0.0, 0.0)
    if limit_ms >= compiled.max_cost:
        return Count(*[float(compiled.size)] * 3)
    grid = _floored(compiled, limit_ms, bins)
    within = _completions(compiled, grid, np.ones(grid.last + 1))[0][0, 1:]
    rounded = len(grid.units) + 1  # rounding down takes less than a step from each row and from the limit
    low = float(within[grid.last - rounded]) if grid.last >= rounded else 0.0
    middle = float(np.interp(grid.last - rounded / 2, np.arange(grid.last + 1), within))
    return Count(max(low, 1.0), max(middle, 1.0), float(within[-1]))


def sample_within(
    compiled: SpaceCosts,
    limit_ms: float,
    n: int,
    rng: np.random.Generator,
    at_least_ms: float | None = None,
    bins: int = BINS,
) -> Codes:
    """Return networks drawn uniformly from all distinct networks within latency limits.

    Costs are rounded down to the grid, so some draws exceed the limits. They are rejected by their exact latency. The
    rest is uniform up to the rounding of float64 counts.

    Args:
        compiled: The space with latencies in ms.
        limit_ms: The largest latency.
        n: The number of networks.
        rng: The random generator.
        at_least_ms: The smallest latency; None: no lower limit.
        bins: Steps of the grid.

    Returns:
        The codes, (tables, n).

    Raises:
        UsageError: No network is within the limits, or fewer than one in a thousand draws is.
    """
    if limit_ms < compiled.min_cost or (at_least_ms or 0.0) > min(limit_ms, compiled.max_cost):
        raise UsageError(_unreachable(compiled, limit_ms, at_least_ms))
    least = -np.inf if at_least_ms is None else at_least_ms
    grid = _floored(compiled, limit_ms, bins)
    spare = np.ones(grid.last + 1)
    if at_least_ms is not None:
        needed = int((at_least_ms - compiled.min_cost) / grid.step_ms) - len(grid.units) - 1
        spare[grid.last - max(needed, 0) + 1 :] = 0.0
    ahead = _completions(compiled, grid, spare)
    if ahead[0][0, -1] == 0.0:
        raise UsageError(_unreachable(compiled, limit_ms, at_least_ms))
    kept, found, drawn = [], 0, 0
    while found < n:
        codes = _draw(compiled, grid, ahead, min(BATCH, 64 + int((n - found) * 1.05 * (drawn + 1) / (found + 1))), rng)
        latencies = compiled.costs(codes)
        kept.append(codes[:, (latencies <= limit_ms) & (latencies >= least)])
        found, drawn = found + kept[-1].shape[1], drawn + codes.shape[1]
        if drawn > TRIES * (found + TRIES):
            raise UsageError(_unreachable(compiled, limit_ms, at_least_ms))
    return np.concatenate([np.empty((len(compiled.tables), 0), compiled.dtype), *kept], axis=1)[:, :n]


def _unreachable(compiled: SpaceCosts, limit_ms: float, at_least_ms: float | None) -> str:
    limit = format_latency(limit_ms)
    window = f"{limit} is" if at_least_ms is None else f"{format_latency(at_least_ms)} to {limit} are"
    fastest, slowest = format_latency(compiled.min_cost), format_latency(compiled.max_cost)
    return f"{window} out of reach: the networks of '{compiled.space.name}' take {fastest} to {slowest}"


def _excess(compiled: SpaceCosts) -> list[Floats]:
    """Return the excess of each row, (rows,) in ms, one array per table."""
    least = compiled.min_remaining
    return [
        np.maximum(table.cost + behind[table.after] - np.repeat(before, np.diff(table.first)), 0.0)
        for table, before, behind in zip(compiled.tables, least[:-1], least[1:], strict=True)
    ]


def _floored(compiled: SpaceCosts, limit_ms: float, bins: int) -> _Grid:
    """Return the grid, rounded down, on which every network within `limit_ms` has an excess of at most `last`."""
    budget = min(limit_ms, compiled.max_cost) - compiled.min_cost
    step = max(budget / _max_bins(compiled, bins), _smallest_step(compiled))
    units = tuple((excess / step).astype(np.intp) for excess in _excess(compiled))
    return _Grid(step, int(budget / step) + 1, units)  # one more in case the division rounds up


def _max_bins(compiled: SpaceCosts, bins: int) -> int:
    """Return `bins`, or fewer if the counts would not fit into memory."""
    return max(min(bins, COUNTS // sum(table.states for table in compiled.tables)), 16)


def _smallest_step(compiled: SpaceCosts) -> float:
    """Return a step far above rounding errors, for spaces in which all networks have the same latency."""
    return 1e-12 * max(abs(compiled.min_cost), abs(compiled.max_cost), 1e-6)


def _completions(compiled: SpaceCosts, grid: _Grid, base: Floats) -> list[Floats]:
    """Return the number of paths from each state to the end, one array, (states, last + 2), per table and one after.

    Entry [state, 1 + b] counts the paths from `state` with an excess of at most b steps. After the last table it is
    `base[b]`. Entry [state, 0] is 0: the excess is already too large.
    """
    ends = int(compiled.tables[-1].after.max()) + 1
    ahead = [np.tile(np.concatenate([[0.0], base]), (ends, 1))]
    for table, units in zip(reversed(compiled.tables), reversed(grid.units), strict=True):
        counts = np.zeros((table.states, grid.last + 2))
        following, after, excess = ahead[-1], table.after.tolist(), units.tolist()
        bounds = table.first.tolist()
        for state in range(table.states):
            for row in range(bounds[state], bounds[state + 1]):
                unit = excess[row]
                if unit <= grid.last:
                    counts[state, 1 + unit :] += following[after[row], 1 : grid.last + 2 - unit]
        ahead.append(counts)
    return ahead[::-1]


def _draw(compiled: SpaceCosts, grid: _Grid, ahead: Sequence[Floats], n: int, rng: np.random.Generator) -> Codes:
    """Return the codes, (tables, n), of paths drawn uniformly from all paths with an excess of at most `grid.last`."""
    codes = np.empty((len(compiled.tables), n), compiled.dtype)
    states, left = np.zeros(n, np.intp), np.full(n, grid.last, np.intp)
    for number, (table, units) in enumerate(zip(compiled.tables, grid.units, strict=True)):
        rows = np.empty(n, np.intp)
        for state in np.flatnonzero(np.bincount(states)):
            here = np.flatnonzero(states == state)
            own = np.arange(table.first[state], table.first[state + 1])
            own = own[units[own] <= left[here].max()]
            choices = _choose(ahead[number + 1], table.after[own], units[own], left[here], rng)
            rows[here] = own[choices]
        codes[number] = rows
        states, left = table.after[rows], left - units[rows]
    return codes


def _choose(
    ahead: Floats, after: Integers, units: Integers, left: Integers, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw a row for each network, with a probability proportional to the number of paths after the row.

    Args:
        ahead: The path counts of `_completions` after this table.
        after: The state after each row, (rows,).
        units: The excess of each row in steps, (rows,).
        left: The steps left to each network, (m,).
        rng: The random generator.

    Returns:
        The index of a row for each network, (m,).
    """
    order = np.argsort(left, kind="stable")
    budgets, starts = np.unique(left[order], return_index=True)
    ends = np.append(starts[1:], len(left))
    points = rng.random(len(left))
    chosen = np.empty(len(left), np.intp)
    flat, offset = ahead.ravel(), after * ahead.shape[1] + 1
    width = max(WEIGHTS // len(units), 1)
    for low in range(0, len(budgets), width):
        remaining = np.maximum(budgets[low : low + width][:, None] - units, -1)
        sums = np.cumsum(flat.take(remaining + offset), axis=1)
        for number, total in enumerate(sums):
            same_budget = slice(starts[low + number], ends[low + number])
            targets = np.minimum(points[same_budget] * total[-1], np.nextafter(total[-1], 0.0))
            chosen[same_budget] = np.searchsorted(total, targets, side="right")
    result = np.empty_like(chosen)
    result[order] = chosen
    return result
