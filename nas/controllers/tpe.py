"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), over the choices as the walk asks for them."""

from __future__ import annotations

import warnings
from typing import Any

from nas.architecture import Scalar
from nas.space import Choices, Space


class TPEController:
    """An Optuna study in memory with the sampler's own defaults, one or several objectives."""

    def __init__(self, space: Space, directions: tuple[str, ...]):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._study = optuna.create_study(directions=list(directions))

    def ask(self, seed: int) -> dict[str, Scalar]:
        """Return the candidate that a sampler of this seed proposes after what was told."""
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self._study.ask()
        _, chosen = self._space.walk(lambda key, values: _plain(trial.suggest_categorical(key, values)))
        # The proposal is forgotten: only what is told may count, or a restarted search would ask for others.
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return chosen

    def tell(self, choices: Choices, values: tuple[float, ...]) -> None:
        """Add a finished trial."""
        import optuna

        distributions = {key: optuna.distributions.CategoricalDistribution(self._space.choices[key]) for key in choices}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.add_trial(
                optuna.trial.create_trial(params=dict(choices), distributions=distributions, values=list(values))
            )


def _plain(value: Any) -> Scalar:
    assert isinstance(value, Scalar)
    return value
