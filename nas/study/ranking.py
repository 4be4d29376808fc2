"""Who is ahead: candidates by the scores of an objective's goals, or along the axes of its front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.study.objectives import DEFAULT_AXES, Metrics, Objective
from nas.study.pareto import nondominated, own_volume, volume

Floats = NDArray[np.float64]
ReferencePoint = Mapping[str, tuple[float, ...]]
"""The worst that a front is held against, by axis; of latency for each device."""


def gains(metrics: Metrics, axes: Sequence[str], reference: ReferencePoint) -> Floats:
    """Return what a candidate gains over the reference along each axis, (values,), in shares of it; 1 is perfect.

    The reference of accuracy is 0, so that its gain is the accuracy itself.
    """
    found = []
    for axis in axes:
        if axis == "accuracy":
            found.append(metrics.accuracy)
        else:
            found += [1 - value / worst for value, worst in zip(metrics.along(axis), reference[axis], strict=True)]
    return np.array(found)


def front(points: Sequence[Metrics], axes: Sequence[str] = DEFAULT_AXES) -> list[int]:
    """Return the indices of the points that no other reaches along all axes, fastest first."""
    costs = [[-v if axis == "accuracy" else v for axis in axes for v in point.along(axis)] for point in points]
    kept = nondominated(-np.array(costs, np.float64)) if costs else []
    return sorted(kept, key=lambda index: (points[index].latency_ms, -points[index].accuracy))


def position(objective: Objective, points: Sequence[Metrics], index: int) -> int:
    """Return how many of `points` are better than the one at `index`; 0 for every point of a goal's highest score.

    One value: by score. Several goals: by that goal's score which ranks it highest. A front: by the layer of
    nondominated points it is in, and within a layer by the volume that it alone dominates (multi-objective successive
    halving: Schmucker et al. 2021, section 3). A point that rises in accuracy never moves back.
    """
    places = []
    for goal in objective.goals:
        scores = [goal.score(point) for point in points]
        places.append(sum(score > scores[index] for score in scores))
    if min(places) == 0 or not objective.axes:
        return min(places)
    keys = _layered(points, objective.axes)
    return sum(key > keys[index] for key in keys)


def _layered(points: Sequence[Metrics], axes: Sequence[str]) -> list[tuple[int, float]]:
    """Return a key for each point, higher is better: minus its layer, and the volume that it adds to the layer."""
    values = [tuple(value for axis in axes for value in point.along(axis)) for point in points]
    rises = [axis == "accuracy" for axis in axes for _ in points[0].along(axis)]
    # The reference is 1.1 times the highest cost of all points, so that no accuracy moves it.
    worst = np.where(rises, 0.0, 1.1 * np.max(values, axis=0))
    left = list(dict.fromkeys(values))
    keys: dict[tuple[float, ...], tuple[int, float]] = {}
    layer = 0
    while left:
        places = np.where(rises, left, worst - left)
        peers = [left[index] for index in nondominated(places)]
        own = _steps(peers, worst[1]) if rises == [True, False] else _own(np.where(rises, peers, worst - peers))
        keys |= {peer: (-layer, volume_of_it) for peer, volume_of_it in zip(peers, own, strict=True)}
        left = [value for value in left if value not in keys]
        layer += 1
    return [keys[value] for value in values]


def _steps(peers: Sequence[tuple[float, ...]], end: float) -> list[float]:
    """Return the area that each of some (accuracy, cost) adds to their front, which ends at the cost `end`."""
    order = sorted(range(len(peers)), key=lambda index: peers[index][1])
    found = [0.0] * len(peers)
    floor = 0.0
    for place, index in enumerate(order):
        accuracy, cost = peers[index]
        wall = peers[order[place + 1]][1] if place + 1 < len(order) else end
        found[index] = (accuracy - floor) * (wall - cost)
        floor = accuracy
    return found


def _own(places: Floats) -> list[float]:
    """Return the volume that each point, (N, axes), adds to the others; differences by rounding alone are none."""
    box = np.prod(places.max(axis=0)) or 1.0
    return [
        round(own_volume(place, np.delete(places, index, axis=0)) / box, 12) * box for index, place in enumerate(places)
    ]


def hypervolume(points: Iterable[Metrics], reference_ms: float) -> float:
    """Return the area that the points dominate above accuracy 0 and below `reference_ms`, in ms."""
    return volume([(point.accuracy, reference_ms - point.latency_ms) for point in points])
