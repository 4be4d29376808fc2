"""Objectives: what a search maximizes, as pure functions of metrics. Latencies are in ms, accuracies in [0, 1].

An objective has one goal or several. A goal is a target on one device, with its own winner. Accuracy does not depend on
the device, so all goals share every evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import UsageError
from nas.utils.registry import lookup

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SOFT = -0.07
"""Twice the latency must bring about 5 % more accuracy, relatively (MnasNet, section 3)."""
ROUNDING = 1e-9
"""The relative tolerance for sums of the same latencies in another order."""
AXES = ("accuracy", "latency", "params", "macs", "energy", "memory")
"""The axes that a front can have. Accuracy is maximized, the others are minimized."""
DEFAULT_AXES = AXES[:2]


@dataclass(frozen=True)
class Metrics:
    """The metrics of a candidate.

    Attributes:
        accuracy: The accuracy, in [0, 1].
        latency_ms: The latency on the first device.
        params: The number of parameters.
        macs: The number of multiply-accumulates.
        latencies_ms: The latency on each device; empty if the search has only one.
        energy_mj: The predicted energy of a call on the first device; None if it is not an axis of the search.
        memory_bytes: The predicted peak memory of a call on the first device; None if it is not an axis of the search.
        activations: The number of activations; None if they are not a budget.
    """

    accuracy: float
    latency_ms: float
    params: int
    macs: int
    latencies_ms: tuple[float, ...] = ()
    energy_mj: float | None = None
    memory_bytes: float | None = None
    activations: int | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """Return the metrics of a mapping from `to_dict`, also after a round trip through JSON."""
        return cls(**{**data, "latencies_ms": tuple(data.get("latencies_ms", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, without absent ones."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ()}

    def on(self, device: int) -> Metrics:
        """Return the metrics with the latency on one device only."""
        return replace(self, latency_ms=self.latencies_ms[device], latencies_ms=()) if self.latencies_ms else self

    def along(self, axis: str) -> tuple[float, ...]:
        """Return the values along one of AXES: one latency per device, or one other value."""
        if axis == "latency":
            return self.latencies_ms or (self.latency_ms,)
        name = {"energy": "energy_mj", "memory": "memory_bytes"}.get(axis, axis)
        return (float(getattr(self, name)),)


def within(latency_ms: ArrayLike, limit_ms: float) -> Bools:
    """Whether predicted latencies are within a limit, elementwise and up to rounding."""
    return np.asarray(np.less_equal(latency_ms, limit_ms * (1 + ROUNDING)))


class SingleTargetObjective(Protocol):
    """An objective for one target on one device."""

    @property
    def target_ms(self) -> float:
        """The target in ms."""

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether candidates with these latencies may be evaluated, elementwise."""

    def holds(self, metrics: Metrics) -> bool:
        """Whether a candidate is within the target."""

    def score(self, metrics: Metrics) -> float:
        """Return the number by which the winner is chosen; higher is better."""

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of N candidates, (N,)."""


@dataclass(frozen=True)
class Goal:
    """A target on one of the search's devices. Each goal has its own winner.

    Metrics may contain the latencies on all devices; arrays of latencies are those on the goal's device.

    Attributes:
        towards: The objective for the target.
        device: The index of the device.
        name: The name of the goal; "" for the only one.
    """

    towards: SingleTargetObjective
    device: int = 0
    name: str = ""

    @property
    def target_ms(self) -> float:
        """The target in ms."""
        return self.towards.target_ms

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether this goal lets candidates with these latencies be evaluated, elementwise."""
        return self.towards.admits(latency_ms)

    def holds(self, metrics: Metrics) -> bool:
        """Whether a candidate is within the target on the goal's device."""
        return self.towards.holds(metrics.on(self.device))

    def score(self, metrics: Metrics) -> float:
        """Return the number by which the goal's winner is chosen; higher is better."""
        return self.towards.score(metrics.on(self.device))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of N candidates, (N,)."""
        return self.towards.scores(accuracy, latency_ms)


class Objective(Protocol):
    """What a search maximizes, for one goal or several.

    Arrays of latencies are (...), or (devices, ...) if the search has several devices.
    """

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals, each with its own winner."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the front to search; empty if each goal has one number instead."""

    @property
    def directions(self) -> tuple[str, ...]:
        """The direction of each value: "maximize" or "minimize"."""

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values that the controller learns."""

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether candidates with these latencies may be evaluated, (...)."""

    def score(self, metrics: Metrics) -> float:
        """Return one number to compare candidates by; higher is better."""

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of N candidates, (N,)."""


class _OneGoal:
    """The common part of the objectives for one target: one goal, and one value to maximize."""

    target_ms: float
    axes: tuple[str, ...] = ()

    @property
    def goals(self: SingleTargetObjective) -> tuple[Goal, ...]:
        """The only goal."""
        return (Goal(self),)

    @property
    def directions(self) -> tuple[str, ...]:
        """One value, maximized."""
        return ("maximize",)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Admit all candidates."""
        return np.full(np.shape(latency_ms), True)

    def holds(self, metrics: Metrics) -> bool:
        """Whether the latency is within the target."""
        return bool(within(metrics.latency_ms, self.target_ms))


@dataclass(frozen=True)
class Reward(_OneGoal):
    """`ACC * (LAT/T)^w`, with w = alpha within the target and beta beyond it (MnasNet, section 3, equation 2).

    Attributes:
        target_ms: The target T in ms.
        alpha: The exponent within the target.
        beta: The exponent beyond the target.
    """

    target_ms: float
    alpha: float = SOFT
    beta: float = SOFT

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the reward."""
        return (self.score(metrics),)

    def score(self, metrics: Metrics) -> float:
        """Return the reward."""
        ratio = metrics.latency_ms / self.target_ms
        return float(metrics.accuracy * ratio ** (self.alpha if ratio <= 1 else self.beta))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the rewards, (N,)."""
        ratio = latency_ms / self.target_ms
        return np.asarray(accuracy * ratio ** np.where(ratio <= 1, self.alpha, self.beta), np.float64)


@dataclass(frozen=True)
class Constrained(_OneGoal):
    """The accuracy of candidates within the target. Other candidates are never evaluated.

    Attributes:
        target_ms: The target in ms.
    """

    target_ms: float

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the accuracy."""
        return (metrics.accuracy,)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Admit candidates within the target."""
        return within(latency_ms, self.target_ms)

    def score(self, metrics: Metrics) -> float:
        """Return the accuracy within the target, and a negative number beyond it."""
        return metrics.accuracy if self.holds(metrics) else -metrics.latency_ms / self.target_ms

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the accuracies within the target, and negative numbers beyond it, (N,)."""
        return np.where(within(latency_ms, self.target_ms), accuracy, -latency_ms / self.target_ms)


@dataclass(frozen=True)
class Pareto(_OneGoal):
    """Each axis separately: accuracy is maximized, all others minimized. The most accurate within the target wins.

    Attributes:
        target_ms: The target in ms.
        axes: The axes of the front, from AXES.
        devices: The number of devices. The axis "latency" has one value for each.
    """

    target_ms: float
    axes: tuple[str, ...] = DEFAULT_AXES
    devices: int = 1

    @property
    def directions(self) -> tuple[str, ...]:
        """Accuracy is maximized, all other values are minimized."""
        return tuple(
            "maximize" if axis == "accuracy" else "minimize"
            for axis in self.axes
            for _ in range(self.devices if axis == "latency" else 1)
        )

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values along the axes."""
        return tuple(value for axis in self.axes for value in metrics.along(axis))

    def score(self, metrics: Metrics) -> float:
        """Return the score of `Constrained`."""
        return Constrained(self.target_ms).score(metrics)

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of `Constrained`, (N,)."""
        return Constrained(self.target_ms).scores(accuracy, latency_ms)


OBJECTIVES: dict[str, Callable[[float], Objective]] = {
    "soft": lambda target_ms: Reward(target_ms, SOFT, SOFT),
    "hard": lambda target_ms: Reward(target_ms, 0.0, -1.0),
    "constrained": Constrained,
    "pareto": Pareto,
}


def make_objective(name: str, target_ms: float, alpha: float | None = None, beta: float | None = None) -> Objective:
    """Return an objective.

    Args:
        name: A key of OBJECTIVES, or the name of an installed one.
        target_ms: The target in ms.
        alpha: Replaces a reward's exponent within the target.
        beta: Replaces a reward's exponent beyond the target.

    Raises:
        UsageError: The name is unknown, or an exponent is invalid.
    """
    objective: Any = lookup(OBJECTIVES, name, "objective", "--objective")(target_ms)
    if alpha is None and beta is None:
        return objective  # type: ignore[no-any-return]
    if not isinstance(objective, Reward):
        key = "alpha" if alpha is not None else "beta"
        raise UsageError("only a reward (soft, hard) has an exponent, not this objective", key=key, value=name)
    given = {"alpha": objective.alpha if alpha is None else alpha, "beta": objective.beta if beta is None else beta}
    for key, value in given.items():
        if not -10 <= value <= 0:
            raise UsageError("must be in [-10, 0]", key=key, value=value)
    return Reward(target_ms, **given)


def preference(goal: Goal, metrics: Metrics) -> tuple[bool, float]:
    """Return a sort key: candidates within the target first, by score; then the others, the fastest first."""
    latency_ms = metrics.on(goal.device).latency_ms
    over = not within(latency_ms, goal.target_ms)
    return over, latency_ms if over else -goal.score(metrics)
