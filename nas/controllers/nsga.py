"""Optuna's NSGA-II (Deb et al. 2002) and NSGA-III (Deb and Jain 2014), with one or several objectives.

A generation is 50 candidates, Optuna's default, in the order in which they were told: an earlier run's and reference
networks are members like any other. Constraints are not told to it: what is out of reach is never evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
from nas.controllers.optuna_sampler import OptunaStudy
from nas.spaces.encoding import Choices

POPULATION = 50


class NSGAController:
    """One of Optuna's two samplers.

    An inactive choice of a parent has a random value: nothing is inherited there.
    """

    def __init__(self, problem: Problem, sampler: str):
        self._study, self._domain, self._name = OptunaStudy(problem), problem.domain, sampler
        self._count = 0

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return a child of the last whole generation's parents, by the seed; a random candidate in the first."""
        return self._study.ask(self._sampler(seed), full=True)

    def tell(self, told: Observation) -> None:
        """Add a finished trial; a generation that it completes gives the next one's parents."""
        filling = self._domain.random_rows(1, np.random.default_rng(self._count))[0]
        generation = self._count // POPULATION
        if not self._study.tell(told, filling, {f"{self._name}:generation": generation}):
            return
        self._count += 1
        if self._count % POPULATION == 0:
            # The first ask of a generation chooses its parents, NSGA-III partly at random: a seed of the generation
            # makes them a function of what was told. What this ask proposes is not needed.
            self._study.ask(self._sampler(generation), full=True)

    def _sampler(self, seed: int) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return getattr(optuna.samplers, self._name)(population_size=POPULATION, seed=seed)


def nsga2(problem: Problem) -> NSGAController:
    """Optuna's NSGA-II (Deb et al. 2002), one or several objectives."""
    return NSGAController(problem, "NSGAIISampler")


def nsga3(problem: Problem) -> NSGAController:
    """Optuna's NSGA-III (Deb and Jain 2014), one or several objectives."""
    return NSGAController(problem, "NSGAIIISampler")
