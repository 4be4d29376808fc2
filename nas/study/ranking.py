"""Rankings of candidates: by the scores of an objective's goals, or along the axes of its front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.study.objectives import DEFAULT_AXES, Metrics, Objective
from nas.study.pareto import nondominated, own_volume

Floats = NDArray[np.float64]
ReferencePoint = Mapping[str, tuple[float, ...]]
"""The worst values of a front, by axis; for latency one value per device."""


def gains(metrics: Metrics, axes: Sequence[str], reference: ReferencePoint) -> Floats:
    """Return the relative gains of a candidate over the reference along the axes, (values,); 1 is a cost of 0.

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
    """Return the indices of the nondominated points along the axes, fastest first."""
    costs = [[-v if axis == "accuracy" else v for axis in axes for v in point.along(axis)] for point in points]
    kept = nondominated(-np.array(costs, np.float64)) if costs else []
    return sorted(kept, key=lambda index: (points[index].latency_ms, -points[index].accuracy))


def position(objective: Objective, points: Sequence[Metrics], index: int) -> int:
    """Return how many of `points` are better than the one at `index`; 0 for every point with a goal's highest score.

    With one value, points compare by score. With several goals, by the score of the goal that ranks the point highest.
    On a front, by the layer of nondominated points, and within a layer by the volume that only this point dominates
    (multi-objective successive halving: Schmucker et al. 2021, section 3). Higher accuracy never worsens a position.
    """
    ranks = []
    for goal in objective.goals:
        scores = [goal.score(point) for point in points]
        ranks.append(sum(score > scores[index] for score in scores))
    if min(ranks) == 0 or not objective.axes:
        return min(ranks)
    keys = _layer_keys(points, objective.axes)
    return sum(key > keys[index] for key in keys)


def _layer_keys(points: Sequence[Metrics], axes: Sequence[str]) -> list[tuple[int, float]]:
    """Return a key for each point, higher is better: minus its layer, and its own volume within the layer."""
    values = [tuple(value for axis in axes for value in point.along(axis)) for point in points]
    rises = [axis == "accuracy" for axis in axes for _ in points[0].along(axis)]
    # The reference is 1.1 times the highest cost, so it does not depend on the accuracies.
    worst = np.where(rises, 0.0, 1.1 * np.max(values, axis=0))
    left = list(dict.fromkeys(values))
    keys: dict[tuple[float, ...], tuple[int, float]] = {}
    layer = 0
    while left:
        places = np.where(rises, left, worst - left)
        peers = [left[index] for index in nondominated(places)]
        if rises == [True, False]:
            volumes = _own_areas(peers, worst[1])
        else:
            volumes = _own_volumes(np.where(rises, peers, worst - peers))
        keys |= {peer: (-layer, own) for peer, own in zip(peers, volumes, strict=True)}
        left = [value for value in left if value not in keys]
        layer += 1
    return [keys[value] for value in values]


def _own_areas(peers: Sequence[tuple[float, ...]], end: float) -> list[float]:
    """Return the area that only each (accuracy, cost) dominates on a front that ends at the cost `end`."""
    order = sorted(range(len(peers)), key=lambda index: peers[index][1])
    found = [0.0] * len(peers)
    floor = 0.0
    for rank, index in enumerate(order):
        accuracy, cost = peers[index]
        next_cost = peers[order[rank + 1]][1] if rank + 1 < len(order) else end
        found[index] = (accuracy - floor) * (next_cost - cost)
        floor = accuracy
    return found


def _own_volumes(places: Floats) -> list[float]:
    """Return the volume that only each point, (N, axes), dominates, rounded so that equal volumes compare equal."""
    box = np.prod(places.max(axis=0)) or 1.0
    return [
        round(own_volume(place, np.delete(places, index, axis=0)) / box, 12) * box for index, place in enumerate(places)
    ]
