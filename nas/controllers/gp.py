"""Optuna's Gaussian process (Matern kernel over Hamming distances, log expected improvement; Ament et al. 2023).

Its cost grows with the cube of the number of trials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.optuna_sampler import OptunaStudy
from nas.spaces.encoding import Choices
from nas.study.trials import Trial


class GPController:
    """Optuna's Gaussian process with its defaults, for one or several objectives; slow beyond a few hundred trials.

    An inactive choice counts as its first value.
    """

    def __init__(self, problem: Problem):
        self._study = OptunaStudy(problem)
        self._filling = np.zeros(len(problem.domain.widths), np.int16)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that a sampler with this seed proposes; the first ten are random."""
        import optuna

        sampler = optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        return self._study.ask(sampler, full=True)

    def tell(self, trial: Trial) -> None:
        """Add a trial."""
        self._study.add(trial, self._filling)
