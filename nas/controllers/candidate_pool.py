"""Candidate pools: tens of thousands of candidates within a cost limit, encoded as columns for a surrogate model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.controllers.gaussian_process import Columns
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Floats, Indices, Integers
from nas.study.objectives import within

SMALL = 20_000
"""A space of at most this many rows is considered whole for each proposal."""
DRAWN = 20_000
"""Random rows that represent a larger space: for means, deviations and latencies, and as first candidates."""
ENOUGH = 1_000
"""A limit must admit this many rows. If it admits fewer random ones, mutation of the cheapest adds more."""
GENERATIONS = 60
CHOICE_WEIGHT, NUMBER_WEIGHT = 1.0, 0.3
"""Prior weights in the kernel: of all choices together, and of each number."""


@dataclass(frozen=True)
class CostLimit:
    """A limit on one cost of the candidates.

    Attributes:
        cost: The row of `CandidatePool.costs`.
        limit: The limit in the unit of that cost; infinite to admit all candidates.
    """

    cost: int = 0
    limit: float = float("inf")

    def admits(self, costs: Floats) -> NDArray[np.bool_]:
        """Whether each of N candidates with these costs, (costs, N), is within the limit, (N,)."""
        return within(costs[self.cost], self.limit)


@dataclass(frozen=True)
class Batch:
    """N distinct candidates.

    Attributes:
        rows: Their indices, (N, choices).
        facts: Their known costs.
        points: Their columns for the surrogate model, (N, columns).
    """

    rows: Indices
    facts: CandidateCosts
    points: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Integers | NDArray[np.bool_]) -> Batch:
        """Return the candidates at these indices, or where this mask is true."""
        return Batch(self.rows[which], self.facts.take(which), self.points[which])

    def with_more(self, other: Batch) -> Batch:
        """Return these candidates and the others."""
        left, right = self.facts, other.facts
        facts = CandidateCosts(
            np.concatenate([left.keys, right.keys]),
            np.concatenate([left.latency_ms, right.latency_ms], axis=-1),
            np.concatenate([left.features, right.features]),
        )
        return Batch(np.concatenate([self.rows, other.rows]), facts, np.concatenate([self.points, other.points]))


class CandidatePool:
    """The candidates of a space. All results depend only on the space and on the random generators passed in."""

    def __init__(self, domain: EncodedSpace):
        self.domain = domain
        self._admitted: dict[CostLimit, Batch] = {}

    @cached_property
    def is_whole(self) -> bool:
        """Whether the pool contains all candidates of the space."""
        return self.domain.size <= SMALL

    @cached_property
    def columns(self) -> Columns:
        """The groups of the columns of `points`: each choice, one-hot with a column for inactive, then each number."""
        widths = [int(width) + 1 for width in self.domain.widths]
        numbers = len(self._center)
        group = np.repeat(np.arange(len(widths) + numbers), [*widths, *([1] * numbers)])
        weight = [CHOICE_WEIGHT / len(widths)] * len(widths) + [NUMBER_WEIGHT] * numbers
        return Columns(group, np.array(weight))

    def costs(self, facts: CandidateCosts) -> Floats:
        """Return the costs that a limit can apply to, (costs, N): the latencies in ms by device, then the features."""
        return np.vstack([np.atleast_2d(facts.latency_ms), facts.features.T])

    @property
    def base_costs(self) -> Floats:
        """The costs of all candidates of a small space, or of random ones of a large space, (costs, N)."""
        return self.costs(self._base.facts)

    def batch(self, rows: Indices) -> Batch:
        """Return the distinct networks among the rows, (N, choices), each with its first row."""
        return self._distinct(rows, self.domain.facts(rows))

    def _distinct(self, rows: Indices, facts: CandidateCosts) -> Batch:
        _, first = np.unique(facts.keys, return_index=True)
        first.sort()
        return Batch(rows[first], facts.take(first), self.points(rows[first], facts.take(first)))

    def points(self, rows: Indices, facts: CandidateCosts) -> Floats:
        """Return the columns of rows, (N, columns). Two different values of a choice have a squared distance of 1."""
        hot = [(rows[:, place, None] == np.arange(-1, width)) for place, width in enumerate(self.domain.widths)]
        numbers = (self._number_columns(facts) - self._center) / self._spread
        return np.concatenate([np.concatenate(hot, axis=1) * np.sqrt(0.5), numbers], axis=1)

    def admitted(self, limit: CostLimit) -> Batch:
        """Return candidates within a limit: all those of a small space; few or none if the limit is out of reach."""
        if limit not in self._admitted:
            found = self._base.take(limit.admits(self.costs(self._base.facts)))
            if not self.is_whole and len(found) < ENOUGH:
                found = self._mutated_down(limit)
            self._admitted[limit] = found
        return self._admitted[limit]

    def near(self, rows: Indices, count: int, limit: CostLimit, rng: np.random.Generator) -> Indices:
        """Return up to `count` mutants within a limit, (M, choices): random rows with one to three changed choices."""
        changed = rows[rng.integers(0, len(rows), count)]
        changes = rng.integers(1, 4, count)
        for number in range(1, 4):
            more = changes >= number
            changed[more] = self.domain.mutate(changed[more], rng)
        return changed[limit.admits(self.costs(self.domain.facts(changed)))]

    def _mutated_down(self, limit: CostLimit) -> Batch:
        """Return candidates within a limit, found by mutation toward a smaller cost."""
        rng = np.random.default_rng(1)
        rows = self._base.rows[np.argsort(self.base_costs[limit.cost])[:ENOUGH]]
        for _ in range(GENERATIONS):
            both = self.batch(np.concatenate([rows, self.domain.mutate(rows, rng)]))
            costs = self.costs(both.facts)
            inside = limit.admits(costs)
            # Keep all rows within the limit, whatever they cost, or only the smallest networks would remain.
            order = np.lexsort([costs[limit.cost] * ~inside, ~inside])
            rows = both.rows[order[:ENOUGH]]
            if inside.sum() >= ENOUGH:
                break
        return self.batch(rows[limit.admits(self.costs(self.domain.facts(rows)))])

    def _number_columns(self, facts: CandidateCosts) -> Floats:
        return np.vstack([np.log(np.maximum(np.atleast_2d(facts.latency_ms), 1e-9)), facts.features.T]).T

    @cached_property
    def _rows(self) -> Indices:
        return self.domain.all_rows() if self.is_whole else self.domain.sample(DRAWN, np.random.default_rng(0))

    @cached_property
    def _facts(self) -> CandidateCosts:
        return self.domain.facts(self._rows)

    @cached_property
    def _base(self) -> Batch:
        return self._distinct(self._rows, self._facts)

    @cached_property
    def _center(self) -> Floats:
        return np.asarray(self._number_columns(self._facts).mean(axis=0), np.float64)

    @cached_property
    def _spread(self) -> Floats:
        spread = self._number_columns(self._facts).std(axis=0)
        return np.asarray(np.where(spread > 1e-9, spread, 1.0), np.float64)
