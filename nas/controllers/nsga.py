"""Optuna's NSGA-II (Deb et al. 2002) and NSGA-III (Deb and Jain 2014), for one or several objectives.

A generation is 50 trials, Optuna's default, in the order in which they ended. Trials of an earlier run count like any
other. The samplers get no constraints, because candidates out of reach are never evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.optuna_sampler import OptunaStudy
from nas.spaces.encoding import Choices
from nas.study.trials import Trial

POPULATION = 50


class NSGAController:
    """A controller that uses one of Optuna's NSGA samplers.

    An inactive choice of a parent gets a random value, so a child inherits nothing there.
    """

    def __init__(self, problem: Problem, sampler: str):
        self._study, self._domain, self._name = OptunaStudy(problem), problem.domain, sampler
        self._count = 0

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a child of the last complete generation's parents; a random candidate in the first generation."""
        return self._study.ask(self._sampler(seed), full=True)

    def tell(self, trial: Trial) -> None:
        """Add a trial. A complete generation gives the parents of the next one."""
        filling = self._domain.random_rows(1, np.random.default_rng(self._count))[0]
        generation = self._count // POPULATION
        if not self._study.add(trial, filling, {f"{self._name}:generation": generation}):
            return
        self._count += 1
        if self._count % POPULATION == 0:
            # The first proposal of a generation selects its parents, and NSGA-III does so partly at random. A seed
            # that depends on the generation alone makes the selection reproducible. The proposal is not used.
            self._study.ask(self._sampler(generation), full=True)

    def _sampler(self, seed: int) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return getattr(optuna.samplers, self._name)(population_size=POPULATION, seed=seed)


def nsga2(problem: Problem) -> NSGAController:
    """Optuna's NSGA-II (Deb et al. 2002), for one or several objectives."""
    return NSGAController(problem, "NSGAIISampler")


def nsga3(problem: Problem) -> NSGAController:
    """Optuna's NSGA-III (Deb and Jain 2014), for one or several objectives."""
    return NSGAController(problem, "NSGAIIISampler")
