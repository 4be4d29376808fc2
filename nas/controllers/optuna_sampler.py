"""What the controllers that are Optuna's samplers share: a study in memory that holds what was told, and that alone.

A sampler is made anew for each ask, from the ask's seed: what one remembers of earlier asks would make the next
proposal depend on more than what was told.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.spaces.encoding import Indices


class OptunaStudy:
    """The told candidates as complete trials of an Optuna study, each choice a categorical parameter.

    A sampler that looks only at parameters which every trial has (all but TPE) is blind to choices that are not
    always active. For these a candidate is made `full`: its inactive choices have a value too, and no meaning.
    """

    def __init__(self, problem: Problem):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._domain = problem.domain
        self.study = optuna.create_study(directions=list(problem.objective.directions))

    def ask(self, sampler: Any, full: bool) -> dict[str, Scalar]:
        """Return the active choices that the sampler proposes; where `full`, it is asked for the others too."""
        import optuna

        self.study.sampler = sampler
        trial = self.study.ask()

        def choose(key: str, values: tuple[Scalar, ...]) -> Scalar:
            return _plain(trial.suggest_categorical(key, values))

        if full:
            pairs = self._domain.choices.items()
            row = np.array([[values.index(choose(key, values)) for key, values in pairs]], np.int16)
            chosen = self._domain.decode(self._domain.activate(row)[0])
        else:
            chosen = self._domain.walk(choose)
        # The proposal is forgotten: only what is told may count, or a restarted search would ask for others.
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return chosen

    def tell(
        self, told: Observation, filling: Indices | None = None, attributes: Mapping[str, Any] | None = None
    ) -> bool:
        """Add a finished trial; of a failed one there is nothing to learn. Return whether it was added.

        Inactive choices take the indices of `filling`, (choices,), where it is given. `attributes` are the trial's
        system attributes.
        """
        import optuna

        if told.values is None:
            return False
        domain = self._domain
        choices = dict(told.choices)
        if filling is not None:
            row = domain.encode(choices)
            choices = domain.decode(np.where(row >= 0, row, filling))
        distributions = {key: optuna.distributions.CategoricalDistribution(domain.choices[key]) for key in choices}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = optuna.trial.create_trial(
                params=choices, distributions=distributions, values=list(told.values),
                system_attrs=dict(attributes or {}),
            )  # fmt: skip
            self.study.add_trial(trial)
        return True


def _plain(value: Any) -> Scalar:
    assert isinstance(value, Scalar)
    return value
