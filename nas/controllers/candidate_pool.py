"""Candidates by the ten thousand: those that an aim admits, their columns for a surrogate, and what is bred of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.controllers.gaussian_process import Columns
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Floats, Indices, Integers
from nas.study.objectives import within

SMALL = 20_000
"""Up to so many rows, all of a domain are looked at each time."""
DRAWN = 20_000
"""Random rows of a larger one: what stands for it in means, spreads and latencies, and candidates to begin with."""
ENOUGH = 1_000
"""Random rows that an aim must admit; where there are fewer, more are bred of the cheapest."""
GENERATIONS = 60
CHOICE_WEIGHT, NUMBER_WEIGHT = 1.0, 0.3
"""A priori: of all choices together, and of each number."""


@dataclass(frozen=True)
class CostLimit:
    """One thing to search for: the best value among candidates whose cost is within a limit.

    `cost` is a column of `Pool.costs`; the limit is in its unit, infinite where everything is admitted.
    """

    cost: int = 0
    limit: float = float("inf")

    def admits(self, costs: Floats) -> NDArray[np.bool_]:
        """Return whether each of N candidates, (costs, N), is within the limit."""
        return within(costs[self.cost], self.limit)


@dataclass(frozen=True)
class Batch:
    """N distinct candidates: rows, what is known of them, and their columns, (N, columns)."""

    rows: Indices
    facts: CandidateCosts
    points: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Integers | NDArray[np.bool_]) -> Batch:
        """Return some of them."""
        return Batch(self.rows[which], self.facts.take(which), self.points[which])

    def with_more(self, other: Batch) -> Batch:
        """Return these and the others."""
        mine, more = self.facts, other.facts
        facts = CandidateCosts(
            np.concatenate([mine.keys, more.keys]),
            np.concatenate([mine.latency_ms, more.latency_ms], axis=-1),
            np.concatenate([mine.features, more.features]),
        )
        return Batch(np.concatenate([self.rows, other.rows]), facts, np.concatenate([self.points, other.points]))


class CandidatePool:
    """The candidates of a domain. Everything is a function of the domain and of the random generators given."""

    def __init__(self, domain: EncodedSpace):
        self.domain = domain
        self._admitted: dict[CostLimit, Batch] = {}

    @cached_property
    def is_whole(self) -> bool:
        """Whether all candidates are looked at each time."""
        return self.domain.size <= SMALL

    @cached_property
    def columns(self) -> Columns:
        """The groups of `points`: each choice in one-hot columns, -1 among them, then each number."""
        widths = [int(width) + 1 for width in self.domain.widths]
        numbers = len(self._center)
        group = np.repeat(np.arange(len(widths) + numbers), [*widths, *([1] * numbers)])
        weight = [CHOICE_WEIGHT / len(widths)] * len(widths) + [NUMBER_WEIGHT] * numbers
        return Columns(group, np.array(weight))

    def costs(self, facts: CandidateCosts) -> Floats:
        """Return what a limit may be on, (costs, N): the latency on each device in ms, then the features."""
        return np.vstack([np.atleast_2d(facts.latency_ms), facts.features.T])

    @property
    def costs_of_stock(self) -> Floats:
        """What random candidates cost, (costs, N)."""
        return self.costs(self._stock.facts)

    def batch(self, rows: Indices) -> Batch:
        """Return the distinct candidates among the rows, (N, choices), the first spelling of each."""
        return self._distinct(rows, self.domain.facts(rows))

    def _distinct(self, rows: Indices, facts: CandidateCosts) -> Batch:
        _, first = np.unique(facts.keys, return_index=True)
        first.sort()
        return Batch(rows[first], facts.take(first), self.points(rows[first], facts.take(first)))

    def points(self, rows: Indices, facts: CandidateCosts) -> Floats:
        """Return the columns of rows, (N, columns); two one-hot columns that differ are a distance of 1."""
        hot = [(rows[:, place, None] == np.arange(-1, width)) for place, width in enumerate(self.domain.widths)]
        numbers = (self._numbers(facts) - self._center) / self._spread
        return np.concatenate([np.concatenate(hot, axis=1) * np.sqrt(0.5), numbers], axis=1)

    def admitted(self, aim: CostLimit) -> Batch:
        """Return candidates that `aim` admits: all of a small domain; few or none where it is out of reach."""
        if aim not in self._admitted:
            found = self._stock.take(aim.admits(self.costs(self._stock.facts)))
            if not self.is_whole and len(found) < ENOUGH:
                found = self._bred(aim)
            self._admitted[aim] = found
        return self._admitted[aim]

    def near(self, rows: Indices, count: int, aim: CostLimit, rng: np.random.Generator) -> Indices:
        """Return up to `count` mutants, one to three changes away from some of `rows`, that `aim` admits."""
        changed = rows[rng.integers(0, len(rows), count)]
        changes = rng.integers(1, 4, count)
        for number in range(1, 4):
            more = changes >= number
            changed[more] = self.domain.mutate(changed[more], rng)
        return changed[aim.admits(self.costs(self.domain.facts(changed)))]

    def _bred(self, aim: CostLimit) -> Batch:
        """Return candidates that `aim` admits, by mutation towards a smaller cost."""
        rng = np.random.default_rng(1)
        rows = self._stock.rows[np.argsort(self.costs_of_stock[aim.cost])[:ENOUGH]]
        for _ in range(GENERATIONS):
            both = self.batch(np.concatenate([rows, self.domain.mutate(rows, rng)]))
            costs = self.costs(both.facts)
            inside = aim.admits(costs)
            # Those within stay, whatever they cost: breeding on would leave the smallest networks alone.
            order = np.lexsort([costs[aim.cost] * ~inside, ~inside])
            rows = both.rows[order[:ENOUGH]]
            if inside.sum() >= ENOUGH:
                break
        return self.batch(rows[aim.admits(self.costs(self.domain.facts(rows)))])

    def _numbers(self, facts: CandidateCosts) -> Floats:
        return np.vstack([np.log(np.maximum(np.atleast_2d(facts.latency_ms), 1e-9)), facts.features.T]).T

    @cached_property
    def _rows(self) -> Indices:
        return self.domain.all_rows() if self.is_whole else self.domain.sample(DRAWN, np.random.default_rng(0))

    @cached_property
    def _facts(self) -> CandidateCosts:
        return self.domain.facts(self._rows)

    @cached_property
    def _stock(self) -> Batch:
        return self._distinct(self._rows, self._facts)

    @cached_property
    def _center(self) -> Floats:
        return np.asarray(self._numbers(self._facts).mean(axis=0), np.float64)

    @cached_property
    def _spread(self) -> Floats:
        spread = self._numbers(self._facts).std(axis=0)
        return np.asarray(np.where(spread > 1e-9, spread, 1.0), np.float64)
