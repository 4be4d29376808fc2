"""Fronts in any number of axes: which points nothing beats, and how large a volume they dominate, exactly.

A point is its gains over a reference point, (axes,), higher is better in each. It dominates the box between the
reference, which is 0 in every axis, and itself: a point that does not exceed the reference in every axis dominates
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def nondominated(points: ArrayLike) -> list[int]:
    """Return the indices of the points, (N, axes), that no other reaches in all axes; of equal ones the first."""
    gains = np.asarray(points, np.float64)
    kept: list[int] = []
    # From the highest first axis on (then the second, ...) nothing later can beat what is kept.
    for index in np.lexsort((np.arange(len(gains)), *-gains.T[::-1])).tolist() if len(gains) else ():
        if not (gains[kept] >= gains[index]).all(axis=1).any():
            kept.append(index)
    return sorted(kept)


def volume(points: ArrayLike) -> float:
    """Return the volume that the points, (N, axes), dominate.

    Each point adds what it dominates alone among those after it: its box, less the volume of the others cut to that
    box (the algorithm WFG: While, Bradstreet and Barone 2012). In two axes it is the area of the stairs.
    """
    gains = np.asarray(points, np.float64)
    if not len(gains):
        return 0.0
    gains = gains[(gains > 0).all(axis=1)]
    return _volume(gains)


def own_volume(point: ArrayLike, others: ArrayLike) -> float:
    """Return the volume that `point`, (axes,), dominates and none of `others`, (N, axes), does."""
    gain, around = np.asarray(point, np.float64), np.asarray(others, np.float64)
    if not (gain > 0).all():
        return 0.0
    whole = float(np.prod(gain))
    return whole - volume(np.minimum(around, gain)) if len(around) else whole


class Front:
    """Points that come one after the other: those that nothing beats so far, and the volume that they dominate."""

    def __init__(self) -> None:
        self.points: list[Floats] = []
        self.volume = 0.0

    def add(self, point: ArrayLike) -> None:
        """Take in a point, (axes,)."""
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
    """Return the volume after each point, (axes,); None in its place adds nothing."""
    front, found = Front(), []
    for point in points:
        if point is not None:
            front.add(point)
        found.append(front.volume)
    return found


def _volume(gains: Floats) -> float:
    """Return the volume of points, (N, axes), that all exceed the reference."""
    if len(gains) == 0:
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    gains = gains[np.argsort(-gains[:, 0], kind="stable")]
    if gains.shape[1] == 2:
        return _area(gains)
    kept = gains[nondominated(gains)]
    # The last axis is cut away for those before it: in order of it, each limits what follows the most.
    kept = kept[np.argsort(kept[:, -1], kind="stable")]
    total = 0.0
    for index, gain in enumerate(kept):
        others = kept[index + 1 :]
        # All that follow reach this point in the last axis: their cut boxes differ in the others alone.
        total += float(gain[-1]) * (float(np.prod(gain[:-1])) - _volume(np.minimum(others[:, :-1], gain[:-1])))
    return total


def _area(gains: Floats) -> float:
    """Return the area of points, (N, 2), the highest first gain first."""
    heights = np.maximum.accumulate(gains[:, 1])
    steps = np.diff(heights, prepend=0.0)
    return float((gains[:, 0] * steps).sum())
