"""Hill climbing with random restarts (White, Nolen and Savani 2021, "Exploring the loss landscape in NAS").

The variant that moves on to the first better neighbour: a space of many choices has hundreds of neighbours, and a
search may afford fewer evaluations. Where the objective has several values, its score is maximised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.seen_networks import SeenNetworks, scalar_score
from nas.spaces.encoding import Choices, Indices


class LocalSearchController:
    """Hill climbing (White et al. 2021): asks for neighbours of the best, and starts anew when none is better."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._known = SeenNetworks(problem)
        self._left: Indices = np.zeros((0, len(problem.domain.widths)), np.int16)
        self._score = -np.inf

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a neighbour that is left, by the seed; a random candidate where there is none."""
        domain, rng = self._problem.domain, np.random.default_rng(seed)
        left = self._known.fresh(self._left, pending)
        return domain.decode(rng.choice(left) if len(left) else self._known.random(rng, pending))

    def tell(self, told: Observation) -> None:
        """Move to the candidate if it is better than where one stands, or if its neighbours were all tried."""
        is_over = not len(self._left)
        row, score = self._known.add(told.choices), scalar_score(self._problem, told)
        if score is not None and (is_over or score > self._score):
            self._score, self._left = score, self._problem.domain.neighbours(row)
        self._left = self._known.fresh(self._left)
