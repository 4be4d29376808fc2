"""An in-memory Optuna study for the controllers that use Optuna's samplers.

Each call of `ask` uses a new sampler with the seed of the call. A sampler that remembers earlier calls would make the
next proposal depend on more than the trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.spaces.encoding import Indices
from nas.study.trials import Trial, TrialState


class OptunaStudy:
    """The trials of a search as complete trials of an Optuna study; each choice is a categorical parameter.

    All samplers but TPE look only at parameters that every trial has, so they ignore choices that are not always
    active. For these samplers a candidate is `full`: its inactive choices have a value too, which has no effect.
    """

    def __init__(self, problem: Problem):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._domain = problem.domain
        self.study = optuna.create_study(directions=list(problem.objective.directions))

    def ask(self, sampler: Any, full: bool) -> dict[str, Scalar]:
        """Return the active choices that a sampler proposes. With `full` the sampler chooses inactive ones too."""
        import optuna

        self.study.sampler = sampler
        trial = self.study.ask()

        def choose(key: str, values: tuple[Scalar, ...]) -> Scalar:
            value = trial.suggest_categorical(key, values)
            assert isinstance(value, Scalar)
            return value

        if full:
            pairs = self._domain.choices.items()
            row = np.array([[values.index(choose(key, values)) for key, values in pairs]], np.int16)
            chosen = self._domain.decode(self._domain.activate(row)[0])
        else:
            chosen = self._domain.walk(choose)
        # Discard the proposal: if it counted, a search that resumes would get other proposals.
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return chosen

    def add(self, trial: Trial, filling: Indices | None = None, attributes: Mapping[str, Any] | None = None) -> bool:
        """Add a trial that ended. A failed trial is not added.

        Args:
            trial: The trial.
            filling: The values of inactive choices as indices, (choices,); None leaves these choices out.
            attributes: The system attributes of the Optuna trial.

        Returns:
            Whether the trial was added.
        """
        import optuna

        if trial.state is TrialState.FAILED:
            return False
        domain = self._domain
        choices = dict(trial.choices)
        if filling is not None:
            row = domain.encode(choices)
            choices = domain.decode(np.where(row >= 0, row, filling))
        distributions = {key: optuna.distributions.CategoricalDistribution(domain.choices[key]) for key in choices}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            added = optuna.trial.create_trial(
                params=choices,
                distributions=distributions,
                values=list(trial.values),
                system_attrs=dict(attributes or {}),
            )
            self.study.add_trial(added)
        return True
