"""Pareto fronts in any number of axes: nondominated points, and the exact volume that points dominate.

A point consists of its gains over a reference point, (axes,); higher is better on each axis. It dominates the box
between the reference, which is 0 on every axis, and itself. A point that does not exceed the reference on every axis
dominates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def nondominated(points: ArrayLike) -> list[int]:
    """Return the indices of the nondominated points, (N, axes). Of equal points, only the first is nondominated."""
    gains = np.asarray(points, np.float64)
    kept: list[int] = []
    # In descending order of the axes, no later point dominates an earlier one.
    for index in np.lexsort((np.arange(len(gains)), *-gains.T[::-1])).tolist() if len(gains) else ():
        if not (gains[kept] >= gains[index]).all(axis=1).any():
            kept.append(index)
    return sorted(kept)


def volume(points: ArrayLike) -> float:
    """Return the volume that the points, (N, axes), dominate.

    This is the algorithm WFG (While, Bradstreet and Barone 2012). Each point adds the volume of its box, minus the
    volume that the later points dominate within that box. With two axes it is the area under a staircase.
    """
    gains = np.asarray(points, np.float64)
    if not len(gains):
        return 0.0
    gains = gains[(gains > 0).all(axis=1)]
    return _volume(gains)


def own_volume(point: ArrayLike, others: ArrayLike) -> float:
    """Return the volume that only `point`, (axes,), dominates, and none of `others`, (N, axes)."""
    gain, around = np.asarray(point, np.float64), np.asarray(others, np.float64)
    if not (gain > 0).all():
        return 0.0
    whole = float(np.prod(gain))
    return whole - volume(np.minimum(around, gain)) if len(around) else whole


class Front:
    """The front of points that are added one by one.

    Attributes:
        points: The nondominated points so far, (axes,) each.
        volume: The volume that they dominate.
    """

    def __init__(self) -> None:
        self.points: list[Floats] = []
        self.volume = 0.0

    def add(self, point: ArrayLike) -> None:
        """Add a point, (axes,)."""
        gain = np.asarray(point, np.float64)
        if self.points:
            around = np.array(self.points)
            if (around >= gain).all(axis=1).any():
                return
            self.volume += own_volume(gain, around)
            self.points = [other for other in self.points if not (gain >= other).all()]
        else:
            self.volume = own_volume(gain, ())
        self.points.append(gain)


def growth(points: Iterable[ArrayLike | None]) -> list[float]:
    """Return the dominated volume after each point, (axes,). None instead of a point adds nothing."""
    front, found = Front(), []
    for point in points:
        if point is not None:
            front.add(point)
        found.append(front.volume)
    return found


def _volume(gains: Floats) -> float:
    """Return the dominated volume of points, (N, axes), that all exceed the reference."""
    if len(gains) == 0:
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    gains = gains[np.argsort(-gains[:, 0], kind="stable")]
    if gains.shape[1] == 2:
        return _area(gains)
    kept = gains[nondominated(gains)]
    # Sorted by the last axis, every later point reaches this one there, so only the other axes remain.
    kept = kept[np.argsort(kept[:, -1], kind="stable")]
    total = 0.0
    for index, gain in enumerate(kept):
        others = kept[index + 1 :]
        total += float(gain[-1]) * (float(np.prod(gain[:-1])) - _volume(np.minimum(others[:, :-1], gain[:-1])))
    return total


def _area(gains: Floats) -> float:
    """Return the dominated area of points, (N, 2), in descending order of the first axis."""
    heights = np.maximum.accumulate(gains[:, 1])
    steps = np.diff(heights, prepend=0.0)
    return float((gains[:, 0] * steps).sum())
