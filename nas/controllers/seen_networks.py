"""What a controller need not ask for: networks that were told, however each is spelled, and those out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.controllers.base import Observation, Problem
from nas.spaces.encoding import Choices, Indices

DRAWS = (64, 4096)
"""How many random rows are looked at for one that is fresh: the second lot where the first has none."""


class SeenNetworks:
    """The networks that were told, by the keys of the domain's facts."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._keys: set[Any] = set()
        self._waiting: list[Indices] = []

    def add(self, choices: Choices) -> Indices:
        """Take in a candidate that was told, and return its row, (choices,)."""
        row = self._problem.domain.encode(choices)
        self._waiting.append(row)  # keys are found together when they are needed: one at a time is slow
        return row

    def fresh(self, rows: Indices, pending: Sequence[Choices] = ()) -> Indices:
        """Return those of `rows`, (N, choices), that were not told, are not pending and that the objective admits.

        Each network comes once, in the order of `rows`.
        """
        domain, objective = self._problem.domain, self._problem.objective
        if self._waiting:
            self._keys.update(domain.facts(np.array(self._waiting)).keys.tolist())
            self._waiting = []
        if not len(rows):
            return rows
        taken = set(self._keys) if not pending else self._keys | self._pending(pending)
        facts = domain.facts(rows)
        kept = []
        admitted = np.broadcast_to(objective.admits(facts.latency_ms), len(rows)).tolist()
        for place, (key, within) in enumerate(zip(facts.keys.tolist(), admitted, strict=True)):
            if within and key not in taken:
                taken.add(key)
                kept.append(place)
        found: Indices = rows[kept]
        return found

    def random(self, rng: np.random.Generator, pending: Sequence[Choices] = ()) -> Indices:
        """Return a random row, (choices,), that is fresh; any random one where none was found."""
        domain = self._problem.domain
        for count in DRAWS:
            drawn = domain.sample(count, rng)
            drawn = np.concatenate([self.fresh(drawn, pending), drawn])
            if len(drawn) > count:
                break
        row: Indices = drawn[0]
        return row

    def _pending(self, pending: Sequence[Choices]) -> set[Any]:
        domain = self._problem.domain
        return set(domain.facts(np.array([domain.encode(choices) for choices in pending])).keys.tolist())


def scalar_score(problem: Problem, told: Observation) -> float | None:
    """Return the number to maximise, also where the objective has several values; None for a candidate that failed."""
    return None if told.metrics is None else problem.objective.score(told.metrics)
