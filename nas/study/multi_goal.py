"""Several goals in one search: targets on a device, or devices, that share every evaluation."""

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
    """A latency on one of the devices, and what the goal is called: "" where there is no other."""

    ms: float
    device: int = 0
    name: str = ""


def make_targets(latencies_ms: Sequence[float], tables: Sequence[str]) -> tuple[Target, ...]:
    """Return the goals' targets: each on the one device, one on every device, or as many as devices, pair by pair.

    `tables` names the devices' tables, none for the only one's own. Raises UsageError.
    """
    spelled = [f"{ms:g}ms" for ms in latencies_ms]
    for flag, given in (("--table", list(tables)), ("--target-latency", spelled if len(tables) < 2 else [])):
        if twice := [text for text in given if given.count(text) > 1]:
            raise UsageError(f"{flag}: given twice: '{twice[0]}'")
    if len(tables) < 2:
        names = spelled if len(spelled) > 1 else [""]
        return tuple(Target(ms, 0, name) for ms, name in zip(latencies_ms, names, strict=True))
    if len(latencies_ms) not in (1, len(tables)):
        raise UsageError(
            f"--target-latency: one for all tables or one for each: {len(latencies_ms)} for {len(tables)} tables"
        )
    each = list(latencies_ms) * (len(tables) if len(latencies_ms) == 1 else 1)
    stems = [Path(name).stem for name in tables]
    unique = [f"{stem}-{place}" if stems.count(stem) > 1 else stem for place, stem in enumerate(stems, start=1)]
    return tuple(Target(ms, device, name) for device, (ms, name) in enumerate(zip(each, unique, strict=True)))


def listed_ms(targets: Sequence[Target]) -> float | list[float]:
    """Return the targets in ms: of a single goal the number itself."""
    return targets[0].ms if len(targets) == 1 else [target.ms for target in targets]


@dataclass(frozen=True)
class Goals:
    """Several goals. With `front`, the values that a controller is told are those of its axes, else one for each goal.

    Latencies are (...) where all goals are of one device, else (devices, ...).
    """

    goals: tuple[Goal, ...]
    front: Pareto | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the front; none without one."""
        return self.front.axes if self.front else ()

    @property
    def directions(self) -> tuple[str, ...]:
        """Those of the front, or one value for each goal, maximised."""
        return self.front.directions if self.front else ("maximize",) * len(self.goals)

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Return the values along the front's axes, or each goal's score; 0 for a goal whose limit is not held."""
        if self.front:
            return self.front(metrics)
        return tuple(max(0.0, goal.score(metrics)) for goal in self.goals)

    def admits(self, latency_ms: ArrayLike) -> Bools:
        """Whether any goal finds candidates of these latencies worth an evaluation, (...)."""
        found = [goal.admits(self.of(goal, latency_ms)) for goal in self.goals]
        return np.asarray(np.any(found, axis=0))

    def score(self, metrics: Metrics) -> float:
        """Return the mean of the goals' scores. Winners are chosen by each goal's own."""
        return sum(goal.score(metrics) for goal in self.goals) / len(self.goals)

    def scores(self, accuracy: Floats, latency_ms: Floats) -> Floats:
        """Return what `score` gives for N candidates, (N,)."""
        found = [goal.scores(accuracy, self.of(goal, latency_ms)) for goal in self.goals]
        return np.asarray(np.mean(found, axis=0), np.float64)

    def of(self, goal: Goal, latency_ms: ArrayLike) -> Floats:
        """Return the latencies of a goal's device, (...)."""
        every = np.asarray(latency_ms, np.float64)
        return np.asarray(every[goal.device]) if any(other.device for other in self.goals) else every


def make_goals(
    name: str,
    targets: Sequence[Target],
    alpha: float | None = None,
    beta: float | None = None,
    axes: Sequence[str] = DEFAULT_AXES,
) -> Objective:
    """Return the objective called `name` towards each target: for a single one itself. Raises UsageError."""
    made: list[Any] = [make_objective(name, target.ms, alpha, beta) for target in targets]
    devices = 1 + max(target.device for target in targets)
    fronts = [replace(objective, axes=tuple(axes), devices=devices) for objective in made if is_front(objective)]
    if tuple(axes) != DEFAULT_AXES and not fronts:
        raise UsageError(f"--axes: only the objective 'pareto' has a front, not '{name}'")
    made = fronts or made
    if len(made) == 1:
        return made[0]  # type: ignore[no-any-return]
    goals = [Goal(objective, target.device, target.name) for objective, target in zip(made, targets, strict=True)]
    return Goals(tuple(goals), fronts[0] if fronts else None)


def is_front(objective: Objective) -> bool:
    """Whether an objective spans a front of axes that can be chosen."""
    return isinstance(objective, Pareto)


def parse_axes(text: str, where: str = "--axes") -> tuple[str, ...]:
    """Return the axes that "accuracy,latency,macs" names, in the order of AXES. Raises UsageError."""
    given = [part.strip() for part in text.split(",")]
    for axis in given:
        if axis not in AXES:
            raise UsageError(f"{where}: unknown axis '{axis}'{nearest(axis, AXES)}")
        if given.count(axis) > 1:
            raise UsageError(f"{where}: '{axis}' is named twice")
    if "accuracy" not in given or len(given) < 2:
        raise UsageError(f"{where}: a front needs accuracy and something that it costs: '{text}'")
    return tuple(axis for axis in AXES if axis in given)
