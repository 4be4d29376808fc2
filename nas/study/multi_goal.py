"""Several goals in one search: targets on one or more devices, which share every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import UsageError
from nas.study.objectives import AXES, DEFAULT_AXES, Bools, Floats, Goal, Metrics, Objective, Pareto, make_objective
from nas.utils.registry import nearest


@dataclass(frozen=True)
class Target:
    """A target latency.

    Attributes:
        ms: The latency in ms.
        device: The index of the device.
        name: The name of the goal; "" for the only one.
    """

    ms: float
    device: int = 0
    name: str = ""


def make_targets(latencies_ms: Sequence[float], tables: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets of the goals.

    Args:
        latencies_ms: The target latencies. With several tables: one for all, or one for each.
        tables: The names of the devices' latency tables; may be empty for a single device.

    Raises:
        UsageError: A latency or table is given twice, or their numbers do not match.
    """
    spelled = [f"{ms:g}ms" for ms in latencies_ms]
    for key, given in (("table", list(tables)), ("target_latency", spelled if len(tables) < 2 else [])):
        if twice := [text for text in given if given.count(text) > 1]:
            raise UsageError("given twice", key=key, value=twice[0])
    if len(tables) < 2:
        names = spelled if len(spelled) > 1 else [""]
        return tuple(Target(ms, 0, name) for ms, name in zip(latencies_ms, names, strict=True))
    if len(latencies_ms) not in (1, len(tables)):
        rule = f"needs one for all tables or one for each: {len(latencies_ms)} for {len(tables)} tables"
        raise UsageError(rule, key="target_latency")
    each = list(latencies_ms) * (len(tables) if len(latencies_ms) == 1 else 1)
    stems = [Path(name).stem for name in tables]
    unique = [f"{stem}-{place}" if stems.count(stem) > 1 else stem for place, stem in enumerate(stems, start=1)]
    return tuple(Target(ms, device, name) for device, (ms, name) in enumerate(zip(each, unique, strict=True)))


def listed_ms(targets: Sequence[Target]) -> float | list[float]:
    """Return the targets in ms as a list, or the number itself for a single target."""
    return targets[0].ms if len(targets) == 1 else [target.ms for target in targets]


@dataclass(frozen=True)
class Goals:
    """The objective with several goals.

    Arrays of latencies are (...) if all goals share one device, else (devices, ...).

    Attributes:
        goals: The goals.
        front: The front to search. Without one, the controller learns one value for each goal.
    """

    goals: tuple[Goal, ...]
    front: Pareto | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the front; empty without a front."""
        return self.front.axes if self.front else ()

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of the front, or one maximized value for each goal."""
        return self.front.directions if self.front else ("maximize",) * len(self.goals)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values along the front's axes, or each goal's score, with 0 instead of negative scores."""
        if self.front:
            return self.front(metrics)
        return tuple(max(0.0, goal.score(metrics)) for goal in self.goals)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether any goal admits candidates with these latencies, (...)."""
        found = [goal.admits(self.of(goal, latency_ms)) for goal in self.goals]
        return np.asarray(np.any(found, axis=0))

    def score(self, metrics: Metrics) -> float:
        """Return the mean of the goals' scores. Each winner is chosen by its own goal's score."""
        return sum(goal.score(metrics) for goal in self.goals) / len(self.goals)

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return the scores of N candidates, (N,)."""
        found = [goal.scores(accuracy, self.of(goal, latency_ms)) for goal in self.goals]
        return np.asarray(np.mean(found, axis=0), np.float64)

    def of(self, goal: Goal, latency_ms: ArrayLike) -> Floats:
        """Return the latencies on a goal's device, (...)."""
        latencies = np.asarray(latency_ms, np.float64)
        return np.asarray(latencies[goal.device]) if any(other.device for other in self.goals) else latencies


def make_goals(
    name: str,
    targets: Sequence[Target],
    alpha: float | None = None,
    beta: float | None = None,
    axes: Sequence[str] = DEFAULT_AXES,
) -> Objective:
    """Return the objective `name` for all targets.

    Args:
        name: The name of the objective for each target.
        targets: The targets. A single one gives the objective itself.
        alpha: Replaces a reward's exponent within the target.
        beta: Replaces a reward's exponent beyond the target.
        axes: The axes of the front, for the objective "pareto".

    Raises:
        UsageError: The name is unknown, or does not fit the other arguments.
    """
    made: list[Any] = [make_objective(name, target.ms, alpha, beta) for target in targets]
    devices = 1 + max(target.device for target in targets)
    fronts = [replace(objective, axes=tuple(axes), devices=devices) for objective in made if is_front(objective)]
    if tuple(axes) != DEFAULT_AXES and not fronts:
        raise UsageError("only the objective 'pareto' has a front, not this one", key="axes", value=name)
    made = fronts or made
    if len(made) == 1:
        return made[0]  # type: ignore[no-any-return]
    goals = [Goal(objective, target.device, target.name) for objective, target in zip(made, targets, strict=True)]
    return Goals(tuple(goals), fronts[0] if fronts else None)


def is_front(objective: Objective) -> bool:
    """Whether an objective searches a front whose axes can be chosen."""
    return isinstance(objective, Pareto)


def parse_axes(text: str, where: str = "--axes") -> tuple[str, ...]:
    """Return the axes of a text such as "accuracy,latency,macs", in the order of AXES.

    Raises UsageError, which begins with `where`, if an axis is unknown or repeated, or if the axes make no front.
    """
    given = [part.strip() for part in text.split(",")]
    for axis in given:
        if axis not in AXES:
            raise UsageError("unknown axis", where=where, value=axis, nearest=nearest(axis, AXES))
        if given.count(axis) > 1:
            raise UsageError("named twice", where=where, value=axis)
    if "accuracy" not in given or len(given) < 2:
        raise UsageError("a front needs accuracy and at least one cost", where=where, value=text)
    return tuple(axis for axis in AXES if axis in given)
