"""Regularized evolution, also called aging evolution (Real et al. 2019, algorithm 1).

If the objective has several values, it maximizes the score. Failed trials do not join the population; trials of an
earlier run do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Indices
from nas.study.trials import Trial

POPULATION, SAMPLE = 50, 10
TRIES = 16
"""Tournaments for each proposal. Each gives a mutant, and the first fresh one is proposed."""


class EvolutionController:
    """Regularized evolution (Real et al. 2019): mutates the best of 10 random members of the last 50 trials.

    A mutant differs in one choice. The first 50 candidates are random.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        self._seen = SeenNetworks(problem)
        self._population: deque[tuple[Indices, float]] = deque(maxlen=POPULATION)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a fresh mutant, or a random candidate before the population is complete."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        if len(self._population) < POPULATION:
            return domain.decode(self._seen.random(rng, pending))
        rows, scores = map(np.array, zip(*self._population, strict=True))
        sampled = rng.integers(0, POPULATION, (TRIES, SAMPLE))
        parents = rows[sampled[np.arange(TRIES), scores[sampled].argmax(axis=1)]]
        mutants = self._seen.fresh(domain.mutate(parents, rng), pending)
        return domain.decode(mutants[0] if len(mutants) else self._seen.random(rng, pending))

    def tell(self, trial: Trial) -> None:
        """Add a trial to the population. The oldest member leaves if there are more than 50."""
        row, score = self._seen.add(trial.choices), scalar_score(self._problem, trial)
        if score is not None:
            self._population.append((row, score))
