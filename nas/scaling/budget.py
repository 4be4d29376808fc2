"""Budgets of a coefficient search: latency, MACs or activations relative to the base, and objectives towards them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import UsageError
from nas.study.objectives import SOFT, Bools, Floats, Goal, Metrics, Objective, SingleTargetObjective, make_objective
from nas.utils.registry import lookup

RESOURCES = ("latency", "macs", "activations")
BUDGET_OBJECTIVES = ("soft", "hard", "constrained")


@dataclass(frozen=True)
class Budget:
    """The cost that a network of phi 1 should have.

    EfficientNet budgets twice the MACs, Dollar et al. (2021) consider activations, and latency-aware scaling budgets
    the latency of the device.

    Attributes:
        resource: The budgeted cost: "latency" in ms, "macs" or "activations".
        base: The cost of the base.
        times: The target, relative to the base.
        tolerance: The relative deviation from the target that a grid point may have.
    """

    resource: str
    base: float
    times: float = 2.0
    tolerance: float = 0.1

    @property
    def target(self) -> float:
        """The cost of a network of phi 1."""
        return self.times * self.base

    def admits(self, cost: ArrayLike) -> Bools:
        """Whether costs are within the tolerance, elementwise."""
        share = np.asarray(cost, np.float64) / self.target
        return np.asarray((share >= 1 - self.tolerance - 1e-9) & (share <= 1 + self.tolerance + 1e-9))

    def cost(self, metrics: Metrics) -> float:
        """Return a network's cost in the budgeted resource."""
        return metrics.along(self.resource)[0]


def check_budget(resource: str, times: float, tolerance: float, objective: str) -> None:
    """Raise UsageError for the first invalid setting."""
    lookup(dict.fromkeys(RESOURCES), resource, "budget", "--budget")
    lookup(dict.fromkeys(BUDGET_OBJECTIVES), objective, "objective", "--objective")
    if not 1 < times < 1000:
        raise UsageError("must be above 1 and below 1000", key="times", value=times)
    if not 0 < tolerance < 1:
        raise UsageError("must be between 0 and 1", key="tolerance", value=tolerance)


@dataclass(frozen=True)
class BudgetObjective:
    """An objective towards a budget: `ACC * (COST/T)^w` or the accuracy alone, for networks within the tolerance.

    It implements `nas.study.objectives.Objective`. Where that protocol says latency, this class takes the cost in the
    budgeted resource.

    Attributes:
        by_cost: The objective of a search, applied to the cost.
        budget: The budget.
    """

    by_cost: SingleTargetObjective
    budget: Budget

    @property
    def target_ms(self) -> float:
        """The target, in units of the resource."""
        return self.budget.target

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The one goal."""
        return (Goal(self),)

    @property
    def axes(self) -> tuple[str, ...]:
        """No axes: the objective is scalar."""
        return ()

    @property
    def directions(self) -> tuple[str, ...]:
        """The one value is maximized."""
        return ("maximize",)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the score as the only value."""
        return (self.score(metrics),)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether costs are within the budget's tolerance, elementwise."""
        return self.budget.admits(latency_ms)

    def holds(self, metrics: Metrics) -> bool:
        """Whether a network is within the budget's tolerance."""
        return bool(self.budget.admits(self.budget.cost(metrics)))

    def score(self, metrics: Metrics) -> float:
        """Return the score of a network's accuracy and cost; higher is better."""
        return self.by_cost.score(replace(metrics, latency_ms=self.budget.cost(metrics), latencies_ms=()))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of N candidates from their accuracies (N,) and costs (N,)."""
        return self.by_cost.scores(accuracy, latency_ms)


def make_budget_objective(name: str, budget: Budget, exponent: float | None) -> Objective:
    """Return the objective `name` for a budget. The limit of "constrained" is the upper end of the tolerance.

    Raises:
        UsageError: If `exponent` is outside [-10, 0], or is given for another objective than "soft".
    """
    if exponent is not None and name != "soft":
        raise UsageError(f"applies only to the objective 'soft', not to '{name}'", key="exponent", value=exponent)
    if exponent is not None and not -10 <= exponent <= 0:
        raise UsageError("must be in [-10, 0]", key="exponent", value=exponent)
    limit = budget.target * (1 + budget.tolerance) if name == "constrained" else budget.target
    w = SOFT if exponent is None else exponent
    by_cost: Any = make_objective(name, limit, w, w) if name == "soft" else make_objective(name, limit)
    return BudgetObjective(by_cost, budget)
