"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), over the active choices of the space."""

from __future__ import annotations

from collections.abc import Sequence

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.optuna_sampler import OptunaStudy
from nas.spaces.encoding import Choices
from nas.study.trials import Trial


class TPEController:
    """Optuna's TPE (Bergstra et al. 2011) with its defaults, for one or several objectives."""

    def __init__(self, problem: Problem):
        self._study = OptunaStudy(problem)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that a sampler with this seed proposes."""
        import optuna

        return self._study.ask(optuna.samplers.TPESampler(seed=seed), full=False)

    def tell(self, trial: Trial) -> None:
        """Add a trial."""
        self._study.add(trial)
