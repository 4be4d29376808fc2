"""What a search for coefficients may spend, and what it maximises: accuracy by a budget of any resource."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import UsageError
from nas.study.objectives import SOFT, Bools, Floats, Goal, Metrics, Objective, SingleTargetObjective, make_objective
from nas.utils.registry import lookup

RESOURCES = ("latency", "macs", "activations")
OBJECTIVES = ("soft", "hard", "constrained")


@dataclass(frozen=True)
class Budget:
    """`times` what the base spends of a resource, and the share by which a grid point may miss that.

    EfficientNet's is twice the MACs, Dollar et al. look at activations, latency-aware scaling at the device's ms.
    """

    resource: str
    base: float
    times: float = 2.0
    tolerance: float = 0.1

    @property
    def target(self) -> float:
        """What phi 1 should spend."""
        return self.times * self.base

    def admits(self, spent: ArrayLike) -> Bools:
        """Whether so much is within the tolerance, elementwise."""
        share = np.asarray(spent, np.float64) / self.target
        return np.asarray((share >= 1 - self.tolerance - 1e-9) & (share <= 1 + self.tolerance + 1e-9))

    def of(self, metrics: Metrics) -> float:
        """Return what a network spends of the resource."""
        return metrics.along(self.resource)[0]


def check_budget(resource: str, times: float, tolerance: float, objective: str) -> None:
    """Raise UsageError for the first setting that cannot be."""
    lookup(dict.fromkeys(RESOURCES), resource, "budget", "--budget")
    lookup(dict.fromkeys(OBJECTIVES), objective, "objective", "--objective")
    if not 1 < times < 1000:
        raise UsageError(f"--times: must be above 1 and below 1000: {times:g}")
    if not 0 < tolerance < 1:
        raise UsageError(f"--tolerance: must lie between 0 and 1: {tolerance:g}")


@dataclass(frozen=True)
class Budgeted:
    """An objective towards a budget: `ACC * (COST/T)^w` or the accuracy alone, of what is within its tolerance.

    What the objectives of a search call latency is the resource's cost here.
    """

    towards: SingleTargetObjective
    budget: Budget

    @property
    def target_ms(self) -> float:
        """The target, in units of the resource."""
        return self.budget.target

    @property
    def goals(self) -> tuple[Goal, ...]:
        """One goal."""
        return (Goal(self),)

    @property
    def axes(self) -> tuple[str, ...]:
        """No front: one number."""
        return ()

    @property
    def directions(self) -> tuple[str, ...]:
        """One value, maximised."""
        return ("maximize",)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the score."""
        return (self.score(metrics),)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Only what is within the budget's tolerance."""
        return self.budget.admits(latency_ms)

    def holds(self, metrics: Metrics) -> bool:
        """Whether a network is within the budget's tolerance."""
        return bool(self.budget.admits(self.budget.of(metrics)))

    def score(self, metrics: Metrics) -> float:
        """Return the score of the accuracy at what is spent."""
        return self.towards.score(replace(metrics, latency_ms=self.budget.of(metrics), latencies_ms=()))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""
        return self.towards.scores(accuracy, latency_ms)


def make_budgeted(name: str, budget: Budget, exponent: float | None) -> Objective:
    """Return the objective. The limit of `constrained` is the tolerance's upper end. Raises UsageError."""
    if exponent is not None and name != "soft":
        raise UsageError(f"--exponent: is of the objective 'soft', not of '{name}'")
    if exponent is not None and not -10 <= exponent <= 0:
        raise UsageError(f"--exponent: must lie in [-10, 0]: {exponent:g}")
    limit = budget.target * (1 + budget.tolerance) if name == "constrained" else budget.target
    w = SOFT if exponent is None else exponent
    made: Any = make_objective(name, limit, w, w) if name == "soft" else make_objective(name, limit)
    return Budgeted(made, budget)
