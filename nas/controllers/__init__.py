"""The controllers: what to try next. To add one: write a file, add a line here.

A controller keeps no random state and no store. What it asks is a function of the seed it is given and of what it
was told, so a search that was killed goes on exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nas.architecture import Scalar
from nas.controllers.base import Observation, Problem
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


class Controller(Protocol):
    """What a controller file provides; it is made with `Controller(problem)`.

    Where not every space suits it, or its library may be missing, it also has `check(domain)`, which raises UsageError
    before anything is measured; the domain's facts cannot be asked for yet.
    """

    def __init__(self, problem: Problem):
        """Begin with nothing told."""

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return the active choices of a candidate, while those of `pending` are being evaluated."""

    def tell(self, told: Observation) -> None:
        """Take in a candidate that ended, or failed."""


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
