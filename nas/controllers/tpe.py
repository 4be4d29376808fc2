"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), over the choices as the walk asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.optuna_sampler import OptunaStudy
from nas.spaces.encoding import Choices


class TPEController:
    """Optuna's TPE (Bergstra et al. 2011) with its own defaults, one or several objectives."""

    def __init__(self, problem: Problem):
        self._study = OptunaStudy(problem)

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that a sampler of this seed proposes after what was told."""
        import optuna

        return self._study.ask(optuna.samplers.TPESampler(seed=seed), full=False)

    def tell(self, told: Observation) -> None:
        """Add a finished trial."""
        self._study.tell(told)
