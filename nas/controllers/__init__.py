"""Controllers: they propose the next candidate. To add one, write a file and add a line to CONTROLLERS.

A controller has no random state and stores nothing. Its proposals depend only on the seed of each call and on the
trials that it learned from. So a search that resumes after a kill continues exactly as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nas.architecture import Scalar
from nas.controllers.base import Problem
from nas.controllers.cmaes import CMAESController
from nas.controllers.evolution import EvolutionController
from nas.controllers.exhaustive import ExhaustiveController
from nas.controllers.gp import GPController
from nas.controllers.local_search import LocalSearchController
from nas.controllers.nsga import nsga2, nsga3
from nas.controllers.ppo import ppo
from nas.controllers.random import RandomController
from nas.controllers.reinforce import reinforce
from nas.controllers.surrogate import SurrogateController
from nas.controllers.tpe import TPEController
from nas.spaces.encoding import Choices
from nas.study.trials import Trial


class Controller(Protocol):
    """The interface of a controller.

    A controller that does not suit every space, or needs an optional library, also has a static method
    `check(domain)`. It raises UsageError before anything is measured, so it must not use the domain's costs.
    """

    def __init__(self, problem: Problem):
        """Start without any trials."""

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Propose a candidate.

        Args:
            seed: The seed of this call.
            pending: The choices of the candidates that are being evaluated.

        Returns:
            The active choices of the candidate and their values.
        """

    def tell(self, trial: Trial) -> None:
        """Learn from a trial that ended. A failed trial has neither metrics nor values."""


CONTROLLERS: dict[str, Callable[[Problem], Controller]] = {
    "surrogate": SurrogateController,
    "tpe": TPEController,
    "random": RandomController,
    "exhaustive": ExhaustiveController,
    "evolution": EvolutionController,
    "local_search": LocalSearchController,
    "nsga2": nsga2,
    "nsga3": nsga3,
    "cmaes": CMAESController,
    "gp": GPController,
    "reinforce": reinforce,
    "ppo": ppo,
}
