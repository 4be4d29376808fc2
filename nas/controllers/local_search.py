"""Hill climbing with random restarts (White, Nolen and Savani 2021, "Exploring the loss landscape in NAS").

This variant moves to the first neighbor that is better. A space with many choices has hundreds of neighbors, more than
many searches can evaluate. If the objective has several values, it maximizes the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Indices
from nas.study.trials import Trial


class LocalSearchController:
    """Hill climbing (White et al. 2021): tries the neighbors of the best candidate; restarts if none is better."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._seen = SeenNetworks(problem)
        self._neighbors: Indices = np.zeros((0, len(problem.domain.widths)), np.int16)
        self._score = -np.inf

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a random untried neighbor, or a random candidate if none is left."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        fresh = self._seen.fresh(self._neighbors, pending)
        return domain.decode(rng.choice(fresh) if len(fresh) else self._seen.random(rng, pending))

    def tell(self, trial: Trial) -> None:
        """Move to the candidate if it is better than the current one, or if all neighbors were tried."""
        is_over = not len(self._neighbors)
        row, score = self._seen.add(trial.choices), scalar_score(self._problem, trial)
        if score is not None and (is_over or score > self._score):
            self._score, self._neighbors = score, self._problem.domain.neighbours(row)
        self._neighbors = self._seen.fresh(self._neighbors)
