"""What a search maximises, as pure functions of the metrics of candidates. Latencies in ms, accuracy in [0, 1].

An objective has goals: a target on a device each, with a winner of its own. Accuracy does not depend on the device, so
all goals share every evaluation.
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
"""Doubling the latency is worth about 5 % more accuracy, relatively (MnasNet, section 3)."""
ROUNDING = 1e-9
"""Sums of the same layers in another order differ by less, relatively."""
AXES = ("accuracy", "latency", "params", "macs", "energy", "memory")
"""What a front can span. Accuracy is maximised, the others are minimised."""
DEFAULT_AXES = AXES[:2]


@dataclass(frozen=True)
class Metrics:
    """What is known of a candidate: accuracy in [0, 1], latency in ms, parameters and MACs.

    Where a search has several devices, `latencies_ms` are those on each, and `latency_ms` that on the first. Energy
    and peak memory of a call on the first are predicted where the search's axes ask for them; activations are counted
    where they are a budget.
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
        """Return the metrics that `to_dict` gave, before or after they were JSON."""
        return cls(**{**data, "latencies_ms": tuple(data.get("latencies_ms", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, without those that the search does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ()}

    def on(self, device: int) -> Metrics:
        """Return the metrics as that device sees them: with its latency alone."""
        return replace(self, latency_ms=self.latencies_ms[device], latencies_ms=()) if self.latencies_ms else self

    def along(self, axis: str) -> tuple[float, ...]:
        """Return the values of one of AXES: a latency for each device, one value of anything else."""
        if axis == "latency":
            return self.latencies_ms or (self.latency_ms,)
        name = {"energy": "energy_mj", "memory": "memory_bytes"}.get(axis, axis)
        return (float(getattr(self, name)),)


def within(latency_ms: ArrayLike, limit_ms: float) -> Bools:
    """Whether predicted latencies hold a limit, elementwise; the order in which layers are added up does not matter."""
    return np.asarray(np.less_equal(latency_ms, limit_ms * (1 + ROUNDING)))


class SingleTargetObjective(Protocol):
    """What an objective is to a single target on a single device."""

    @property
    def target_ms(self) -> float:
        """Return the target."""

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether candidates of these latencies are worth an evaluation, elementwise."""

    def holds(self, metrics: Metrics) -> bool:
        """Whether a candidate of these metrics is within the target."""

    def score(self, metrics: Metrics) -> float:
        """Return one number by which a winner is chosen; higher is better."""

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""


@dataclass(frozen=True)
class Goal:
    """A target on one of the search's devices; `name` tells it from the others, "" where it is the only one.

    Metrics may be those of all devices; arrays of latencies are those of its own device.
    """

    towards: SingleTargetObjective
    device: int = 0
    name: str = ""

    @property
    def target_ms(self) -> float:
        """The target, in ms."""
        return self.towards.target_ms

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether candidates of these latencies are worth an evaluation for this goal, elementwise."""
        return self.towards.admits(latency_ms)

    def holds(self, metrics: Metrics) -> bool:
        """Whether a candidate is within the goal's target, on its device."""
        return self.towards.holds(metrics.on(self.device))

    def score(self, metrics: Metrics) -> float:
        """Return one number by which the goal's winner is chosen; higher is better."""
        return self.towards.score(metrics.on(self.device))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""
        return self.towards.scores(accuracy, latency_ms)


class Objective(Protocol):
    """What a search maximises, for one goal or several. Latencies are (...), or (devices, ...) of several devices."""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Return what each has a winner of its own."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the axes of the front that is searched; none where there is one number for each goal."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Return "maximize" or "minimize" for each value."""

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values that the controller is told."""

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether candidates of these latencies are worth an evaluation, (...)."""

    def score(self, metrics: Metrics) -> float:
        """Return one number by which candidates compare; higher is better."""

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""


@dataclass(frozen=True)
class Reward:
    """`ACC * (LAT/T)^w`, w = alpha within the target and beta beyond it (MnasNet, section 3, equation 2)."""

    target_ms: float
    alpha: float = SOFT
    beta: float = SOFT

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
        """Return the reward."""
        return (self.score(metrics),)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Everything is worth an evaluation: the reward pays for latency."""
        return np.full(np.shape(latency_ms), True)

    def holds(self, metrics: Metrics) -> bool:
        """Whether the latency is within the target."""
        return bool(within(metrics.latency_ms, self.target_ms))

    def score(self, metrics: Metrics) -> float:
        """Return the reward."""
        ratio = metrics.latency_ms / self.target_ms
        return float(metrics.accuracy * ratio ** (self.alpha if ratio <= 1 else self.beta))

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the rewards, (N,)."""
        ratio = latency_ms / self.target_ms
        return np.asarray(accuracy * ratio ** np.where(ratio <= 1, self.alpha, self.beta), np.float64)


@dataclass(frozen=True)
class Constrained:
    """The accuracy, among candidates within the target; others are never evaluated."""

    target_ms: float

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
        """Return the accuracy."""
        return (metrics.accuracy,)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Only what holds the target."""
        return within(latency_ms, self.target_ms)

    def holds(self, metrics: Metrics) -> bool:
        """Whether the latency is within the target."""
        return bool(within(metrics.latency_ms, self.target_ms))

    def score(self, metrics: Metrics) -> float:
        """Return the accuracy within the target, below any accuracy beyond it."""
        held = within(metrics.latency_ms, self.target_ms)
        return metrics.accuracy if held else -metrics.latency_ms / self.target_ms

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the accuracies within the target, numbers below any accuracy beyond it, (N,)."""
        return np.where(within(latency_ms, self.target_ms), accuracy, -latency_ms / self.target_ms)


@dataclass(frozen=True)
class Pareto:
    """Each axis for itself: accuracy up, anything else down; the winner is the most accurate within the target.

    With several devices the axis latency has a value for each.
    """

    target_ms: float
    axes: tuple[str, ...] = DEFAULT_AXES
    devices: int = 1

    @property
    def goals(self) -> tuple[Goal, ...]:
        """One goal."""
        return (Goal(self),)

    @property
    def directions(self) -> tuple[str, ...]:
        """Accuracy maximised, anything else minimised."""
        return tuple(
            "maximize" if axis == "accuracy" else "minimize"
            for axis in self.axes
            for _ in range(self.devices if axis == "latency" else 1)
        )

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values along the axes."""
        return tuple(value for axis in self.axes for value in metrics.along(axis))

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Everything is worth an evaluation: the front spans all latencies."""
        return np.full(np.shape(latency_ms), True)

    def holds(self, metrics: Metrics) -> bool:
        """Whether the latency is within the target."""
        return bool(within(metrics.latency_ms, self.target_ms))

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
    """Return the objective called `name`; alpha and beta replace a reward's own. Raises UsageError."""
    objective: Any = lookup(OBJECTIVES, name, "objective", "--objective")(target_ms)
    if alpha is None and beta is None:
        return objective  # type: ignore[no-any-return]
    if not isinstance(objective, Reward):
        raise UsageError(f"--alpha, --beta: only a reward (soft, hard) has them, not '{name}'")
    given = {"alpha": objective.alpha if alpha is None else alpha, "beta": objective.beta if beta is None else beta}
    for key, value in given.items():
        if not -10 <= value <= 0:
            raise UsageError(f"--{key}: must lie in [-10, 0]: {value}")
    return Reward(target_ms, **given)


def preference(goal: Goal, metrics: Metrics) -> tuple[bool, float]:
    """Return a key that sorts winners first: what holds the target, by score; then the others, the fastest first."""
    latency_ms = metrics.on(goal.device).latency_ms
    over = not within(latency_ms, goal.target_ms)
    return over, latency_ms if over else -goal.score(metrics)
