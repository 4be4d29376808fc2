"""Latency over a whole space, by dynamic programming over the tables: counts, quantiles, exactly uniform samples.

Costs are counted on a grid of equal steps from the fastest network on. Each row's cost is first reduced by what the
best way on from its state costs anyway, so it is never negative, whatever the sign of the costs was, and only what a
network takes beyond the fastest one is spread over the grid. Counts are float64: exact to 2^53, then to about 1e-15.
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
"""Steps of the grid: a row's cost is known to 1/8192 of the range looked at."""
COUNTS = 1 << 25
"""At most so many counts are held, 256 MB: with more states the grid is coarser, never the result wrong."""
BATCH = 1 << 18
"""Networks drawn at once."""
WEIGHTS = 1 << 19
"""Weights computed at once."""
TRIES = 1000
"""A window that keeps less than one of this many draws is given up."""


class Count(NamedTuple):
    """How many distinct networks: proven bounds and the likeliest value between them."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Distribution:
    """How many of `total` distinct networks take up to each of `edges_ms`; quantiles lie within `error_ms`."""

    edges_ms: Floats
    within: Floats
    total: int
    error_ms: float

    def quantile(self, share: float) -> float:
        """Return the latency in ms that `share` of the networks keep."""
        return float(np.interp(share * self.within[-1], self.within, self.edges_ms))

    def share_within(self, limit_ms: float) -> float:
        """Return the share of the networks that take up to `limit_ms`."""
        return float(np.interp(limit_ms, self.edges_ms, self.within) / self.within[-1])

    def histogram(self, edges_ms: Sequence[float] | Floats) -> Floats:
        """Return the share of the networks between every two neighbours of `edges_ms`."""
        return np.diff([self.share_within(float(edge)) for edge in edges_ms])


@dataclass(frozen=True)
class _Grid:
    """Whole steps beyond the fastest network: each row's excess `units`, and `last`, the most that may be spent."""

    step_ms: float
    last: int
    units: tuple[Integers, ...]


def latency_distribution(compiled: SpaceCosts, bins: int = 4 * BINS) -> Distribution:
    """Return the distribution of latency over the distinct networks, each row's cost rounded to the nearest step."""
    reach = compiled.slowest_ms - compiled.fastest_ms
    step = max(reach / _affordable(compiled, bins), _smallest_step(compiled))
    units = tuple(np.rint(excess / step).astype(np.intp) for excess in _excess(compiled))
    grid = _Grid(step, int(reach / step) + len(units), units)
    base = np.zeros(grid.last + 1)
    base[0] = 1.0
    counts = _completions(compiled, grid, base)[0][0, 1:]
    edges = compiled.fastest_ms + (np.arange(grid.last + 2) - 0.5) * step
    edges = np.clip(edges, compiled.fastest_ms, compiled.slowest_ms)
    return Distribution(edges, np.concatenate([[0.0], np.cumsum(counts)]), compiled.size, len(units) * step / 2)


def count_within(compiled: SpaceCosts, limit_ms: float, bins: int = BINS) -> Count:
    """Return how many distinct networks take up to `limit_ms`, as bounds and the likeliest value."""
    if limit_ms < compiled.fastest_ms:
        return Count(0.0, 0.0, 0.0)
    if limit_ms >= compiled.slowest_ms:
        return Count(*[float(compiled.size)] * 3)
    grid = _floored(compiled, limit_ms, bins)
    within = _completions(compiled, grid, np.ones(grid.last + 1))[0][0, 1:]
    lost = len(grid.units) + 1  # each row may have lost almost a step by rounding down, the limit one by rounding
    low = float(within[grid.last - lost]) if grid.last >= lost else 0.0
    middle = float(np.interp(grid.last - lost / 2, np.arange(grid.last + 1), within))
    return Count(max(low, 1.0), max(middle, 1.0), float(within[-1]))


def sample_within(
    compiled: SpaceCosts,
    limit_ms: float,
    n: int,
    rng: np.random.Generator,
    at_least_ms: float | None = None,
    bins: int = BINS,
) -> Codes:
    """Return the codes, (tables, n), of networks drawn uniformly from all distinct ones that take up to `limit_ms`.

    With `at_least_ms`, from those that also take at least that. The drawn set is a little too large, as costs are
    rounded down to the grid; what lies outside is rejected by its exact latency, so that the rest is uniform up to
    the rounding of float64 counts. Raises UsageError where no network keeps the limits, or fewer than one in a
    thousand of those that keep them by the grid.
    """
    if limit_ms < compiled.fastest_ms or (at_least_ms or 0.0) > min(limit_ms, compiled.slowest_ms):
        raise UsageError(_out_of_reach(compiled, limit_ms, at_least_ms))
    least = -np.inf if at_least_ms is None else at_least_ms
    grid = _floored(compiled, limit_ms, bins)
    spare = np.ones(grid.last + 1)
    if at_least_ms is not None:
        need = int((at_least_ms - compiled.fastest_ms) / grid.step_ms) - len(grid.units) - 1
        spare[grid.last - max(need, 0) + 1 :] = 0.0
    ahead = _completions(compiled, grid, spare)
    if ahead[0][0, -1] == 0.0:
        raise UsageError(_out_of_reach(compiled, limit_ms, at_least_ms))
    kept, found, drawn = [], 0, 0
    while found < n:
        codes = _draw(compiled, grid, ahead, min(BATCH, 64 + int((n - found) * 1.05 * (drawn + 1) / (found + 1))), rng)
        latencies = compiled.predict_many(codes)
        kept.append(codes[:, (latencies <= limit_ms) & (latencies >= least)])
        found, drawn = found + kept[-1].shape[1], drawn + codes.shape[1]
        if drawn > TRIES * (found + TRIES):
            raise UsageError(_out_of_reach(compiled, limit_ms, at_least_ms))
    return np.concatenate([np.empty((len(compiled.tables), 0), compiled.dtype), *kept], axis=1)[:, :n]


def _out_of_reach(compiled: SpaceCosts, limit_ms: float, at_least_ms: float | None) -> str:
    limit = format_latency(limit_ms)
    window = f"{limit} is" if at_least_ms is None else f"{format_latency(at_least_ms)} to {limit} are"
    fastest, slowest = format_latency(compiled.fastest_ms), format_latency(compiled.slowest_ms)
    return f"{window} out of reach: the networks of '{compiled.space.name}' take {fastest} to {slowest}"


def _excess(compiled: SpaceCosts) -> list[Floats]:
    """Return for each table what every row, (rows,) in ms, costs beyond the best way on from its state."""
    least = compiled.least
    return [
        np.maximum(table.cost + behind[table.after] - np.repeat(before, np.diff(table.first)), 0.0)
        for table, before, behind in zip(compiled.tables, least[:-1], least[1:], strict=True)
    ]


def _floored(compiled: SpaceCosts, limit_ms: float, bins: int) -> _Grid:
    """Return the grid on which no network within `limit_ms` spends more than `last`."""
    budget = min(limit_ms, compiled.slowest_ms) - compiled.fastest_ms
    step = max(budget / _affordable(compiled, bins), _smallest_step(compiled))
    units = tuple((excess / step).astype(np.intp) for excess in _excess(compiled))
    return _Grid(step, int(budget / step) + 1, units)  # one more, for what the division rounded up


def _affordable(compiled: SpaceCosts, bins: int) -> int:
    return max(min(bins, COUNTS // sum(table.states for table in compiled.tables)), 16)


def _smallest_step(compiled: SpaceCosts) -> float:
    """Return a step that is far above the rounding of a latency, for a range of no width."""
    return 1e-12 * max(abs(compiled.fastest_ms), abs(compiled.slowest_ms), 1e-6)


def _completions(compiled: SpaceCosts, grid: _Grid, base: Floats) -> list[Floats]:
    """Return for each table, and after the last, the number of ways on, (states, 1 + last + 1).

    Entry [state, 1 + b] counts those from `state` with b steps left to spend, `base[b]` of them after the last
    table; entry [state, 0] is 0, for less than nothing left.
    """
    ends = int(compiled.tables[-1].after.max()) + 1
    ahead = [np.tile(np.concatenate([[0.0], base]), (ends, 1))]
    for table, units in zip(reversed(compiled.tables), reversed(grid.units), strict=True):
        ways = np.zeros((table.states, grid.last + 2))
        behind, after, spent = ahead[-1], table.after.tolist(), units.tolist()
        bounds = table.first.tolist()
        for state in range(table.states):
            for row in range(bounds[state], bounds[state + 1]):
                unit = spent[row]
                if unit <= grid.last:
                    ways[state, 1 + unit :] += behind[after[row], 1 : grid.last + 2 - unit]
        ahead.append(ways)
    return ahead[::-1]


def _draw(compiled: SpaceCosts, grid: _Grid, ahead: Sequence[Floats], n: int, rng: np.random.Generator) -> Codes:
    """Return codes, (tables, n), each path with `grid.last` steps to spend as likely as any other."""
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
    """Return for each of `left`, (m,), a row, in proportion to the ways on `ahead` from there with what remains."""
    order = np.argsort(left, kind="stable")
    budgets, starts = np.unique(left[order], return_index=True)
    ends = np.append(starts[1:], len(left))
    points = rng.random(len(left))
    chosen = np.empty(len(left), np.intp)
    flat, offset = ahead.ravel(), after * ahead.shape[1] + 1
    width = max(WEIGHTS // len(units), 1)
    for low in range(0, len(budgets), width):
        some = budgets[low : low + width]
        remain = np.maximum(some[:, None] - units, -1)
        sums = np.cumsum(flat.take(remain + offset), axis=1)
        for number, total in enumerate(sums):
            at = slice(starts[low + number], ends[low + number])
            targets = np.minimum(points[at] * total[-1], np.nextafter(total[-1], 0.0))
            chosen[at] = np.searchsorted(total, targets, side="right")
    result = np.empty_like(chosen)
    result[order] = chosen
    return result
