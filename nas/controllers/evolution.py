"""Regularized evolution, also called aging evolution (Real et al. 2019, algorithm 1).

Where the objective has several values, its score is maximised. A candidate that failed is no member of the
population; one that was told and never asked for (an earlier run's, a reference network) is, like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Indices

POPULATION, SAMPLE = 50, 10
TRIES = 16
"""Tournaments for one candidate: how many mutants are looked at for one that is fresh."""


class EvolutionController:
    """Regularized evolution (Real et al. 2019): mutates the best of 10 of the last 50 candidates.

    A mutant differs in one choice. The first 50 candidates are random.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        self._known = SeenNetworks(problem)
        self._population: deque[tuple[Indices, float]] = deque(maxlen=POPULATION)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a mutant that is new, by the seed; a random candidate before there is a population."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        if len(self._population) < POPULATION:
            return domain.decode(self._known.random(rng, pending))
        rows, scores = map(np.array, zip(*self._population, strict=True))
        sampled = rng.integers(0, POPULATION, (TRIES, SAMPLE))
        parents = rows[sampled[np.arange(TRIES), scores[sampled].argmax(axis=1)]]
        mutants = self._known.fresh(domain.mutate(parents, rng), pending)
        return domain.decode(mutants[0] if len(mutants) else self._known.random(rng, pending))

    def tell(self, told: Observation) -> None:
        """Add a candidate; beyond 50 the oldest dies."""
        row, score = self._known.add(told.choices), scalar_score(self._problem, told)
        if score is not None:
            self._population.append((row, score))
