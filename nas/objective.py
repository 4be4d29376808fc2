"""What a search maximises, as pure functions of the metrics of one candidate. Latencies in ms, accuracy in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.registry import lookup

Floats = NDArray[np.float64]
SOFT = -0.07
"""Doubling the latency is worth about 5 % more accuracy, relatively (MnasNet, section 3)."""


@dataclass(frozen=True)
class Metrics:
    """What is known of a candidate: accuracy in [0, 1], latency in ms, parameters and MACs."""

    accuracy: float
    latency_ms: float
    params: int
    macs: int

    def to_dict(self) -> dict[str, float]:
        """Return the metrics by name."""
        return asdict(self)


class Objective(Protocol):
    """What an objective provides."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Return "maximize" or "minimize" for each value."""

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values that the controller is told."""

    def admits(self, latency_ms: float) -> bool:
        """Whether a candidate of this latency is worth an evaluation."""

    def score(self, metrics: Metrics) -> float:
        """Return one number by which a winner is chosen; higher is better."""

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""


@dataclass(frozen=True)
class Reward:
    """`ACC * (LAT/T)^w`, w = alpha within the target and beta beyond it (MnasNet, section 3, equation 2)."""

    target_ms: float
    alpha: float = SOFT
    beta: float = SOFT

    @property
    def directions(self) -> tuple[str, ...]:
        """One value, maximised."""
        return ("maximize",)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the reward."""
        return (self.score(metrics),)

    def admits(self, latency_ms: float) -> bool:
        """Everything is worth an evaluation: the reward pays for latency."""
        return True

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
    def directions(self) -> tuple[str, ...]:
        """One value, maximised."""
        return ("maximize",)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the accuracy."""
        return (metrics.accuracy,)

    def admits(self, latency_ms: float) -> bool:
        """Only what holds the target."""
        return latency_ms <= self.target_ms

    def score(self, metrics: Metrics) -> float:
        """Return the accuracy within the target, below any accuracy beyond it."""
        return metrics.accuracy if self.admits(metrics.latency_ms) else -metrics.latency_ms / self.target_ms

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the accuracies within the target, numbers below any accuracy beyond it, (N,)."""
        return np.where(latency_ms <= self.target_ms, accuracy, -latency_ms / self.target_ms)


@dataclass(frozen=True)
class Pareto:
    """Accuracy up and latency down together; the winner is the most accurate within the target."""

    target_ms: float

    @property
    def directions(self) -> tuple[str, ...]:
        """Accuracy maximised, latency minimised."""
        return ("maximize", "minimize")

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return (accuracy, latency in ms)."""
        return (metrics.accuracy, metrics.latency_ms)

    def admits(self, latency_ms: float) -> bool:
        """Everything is worth an evaluation: the front spans all latencies."""
        return True

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


def front(points: Sequence[Metrics]) -> list[int]:
    """Return the indices of the points that no other beats in accuracy and latency, fastest first."""
    order = sorted(range(len(points)), key=lambda i: (points[i].latency_ms, -points[i].accuracy))
    best, kept = -1.0, []
    for index in order:
        if points[index].accuracy > best:
            best = points[index].accuracy
            kept.append(index)
    return kept


def preference(objective: Objective, target_ms: float, metrics: Metrics) -> tuple[bool, float]:
    """Return a key that sorts winners first: what holds the target, by score; then the others, the fastest first."""
    over = metrics.latency_ms > target_ms
    return over, metrics.latency_ms if over else -objective.score(metrics)


def position(objective: Objective, points: Sequence[Metrics], index: int) -> int:
    """Return how many of `points` are better than the one at `index`; 0 for every point of the highest score.

    One value: by score. Several: by the layer of nondominated points it is in, and within a layer by the area that
    it alone dominates (multi-objective successive halving: Schmucker et al. 2021, section 3). A point that rises in
    accuracy never moves back.
    """
    scores = [objective.score(point) for point in points]
    if scores[index] >= max(scores):
        return 0
    if len(objective.directions) == 1:
        return sum(score > scores[index] for score in scores)
    keys = _layered(points)
    return sum(key > keys[index] for key in keys)


def _layered(points: Sequence[Metrics]) -> list[tuple[int, float]]:
    """Return a key for each point, higher is better: minus its layer, and the area that it adds to the layer."""
    left = {(point.accuracy, point.latency_ms): point for point in points}
    end_ms = 1.1 * max(point.latency_ms for point in points)  # of all points, so that no accuracy moves it
    keys: dict[tuple[float, float], tuple[int, float]] = {}
    layer = 0
    while left:
        peers = list(left.values())
        stairs = [peers[index] for index in front(peers)]
        below = [0.0, *(point.accuracy for point in stairs)]
        beyond = [*(point.latency_ms for point in stairs[1:]), end_ms]
        for point, floor, wall in zip(stairs, below, beyond, strict=False):
            place = (point.accuracy, point.latency_ms)
            keys[place] = (-layer, (point.accuracy - floor) * (wall - point.latency_ms))
            del left[place]
        layer += 1
    return [keys[point.accuracy, point.latency_ms] for point in points]


def hypervolume(points: Iterable[Metrics], reference_ms: float) -> float:
    """Return the area that the points dominate above accuracy 0 and below `reference_ms`, in ms."""
    inside = [point for point in points if point.latency_ms < reference_ms]
    kept = [inside[index] for index in front(inside)]
    limits = [*(point.latency_ms for point in kept), reference_ms][1:]
    return sum(point.accuracy * (limit - point.latency_ms) for point, limit in zip(kept, limits, strict=True))
