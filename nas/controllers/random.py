"""Uniform sampling: the baseline that every controller must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.spaces.encoding import Choices


class RandomController:
    """Uniform sampling: draws each active choice by itself."""

    def __init__(self, problem: Problem):
        self._domain = problem.domain

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a random candidate of this seed."""
        return self._domain.decode(self._domain.sample(1, np.random.default_rng(seed))[0])

    def tell(self, told: Observation) -> None:
        """Learn nothing."""
