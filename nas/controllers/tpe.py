"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), over the choices as the walk asks for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from nas.architecture import Scalar
from nas.domain import Choices
from nas.problem import Problem, Told


class TPEController:
    """An Optuna study in memory with the sampler's own defaults, one or several objectives."""

    def __init__(self, problem: Problem):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._domain = problem.domain
        self._study = optuna.create_study(directions=list(problem.objective.directions))

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the candidate that a sampler of this seed proposes after what was told."""
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self._study.ask()
        chosen = self._domain.walk(lambda key, values: _plain(trial.suggest_categorical(key, values)))
        # The proposal is forgotten: only what is told may count, or a restarted search would ask for others.
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return chosen

    def tell(self, told: Told) -> None:
        """Add a finished trial; of a failed one there is nothing to learn."""
        import optuna

        if told.values is None:
            return
        choices, known = dict(told.choices), self._domain.choices
        distributions = {key: optuna.distributions.CategoricalDistribution(known[key]) for key in choices}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.add_trial(
                optuna.trial.create_trial(params=choices, distributions=distributions, values=list(told.values))
            )


def _plain(value: Any) -> Scalar:
    assert isinstance(value, Scalar)
    return value
