"""Uniform sampling: the baseline for every controller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.spaces.encoding import Choices
from nas.study.trials import Trial


class RandomController:
    """Uniform sampling: draws each active choice independently."""

    def __init__(self, problem: Problem):
        self._domain = problem.domain

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a random candidate."""
        return self._domain.decode(self._domain.sample(1, np.random.default_rng(seed))[0])

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""
