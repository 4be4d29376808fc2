"""Fronts and their volume against counting cells of a grid, which is exact where points lie on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.study.pareto import Front, growth, nondominated, own_volume, volume

SIDE = 4


@st.composite
def grids(draw: st.DrawFn) -> list[tuple[float, ...]]:
    """Points whose gains are quarters, from below the reference to 1, in one to four axes."""
    axes = draw(st.integers(1, 4))
    one = st.tuples(*[st.integers(-1, SIDE).map(lambda step: step / SIDE)] * axes)
    return draw(st.lists(one, min_size=1, max_size=9))


def counted(points: list[tuple[float, ...]]) -> float:
    """Return the share of a unit cube's cells that lie within a point's box."""
    gains = np.array(points)
    cells = (np.indices((SIDE,) * gains.shape[1]).reshape(gains.shape[1], -1).T + 1) / SIDE
    inside: NDArray[np.bool_] = np.all(cells[:, None] <= gains[None], axis=2)
    return float(np.any(inside, axis=1).mean())


@given(grids())
def test_the_volume_is_that_of_the_cells(points: list[tuple[float, ...]]) -> None:
    assert volume(points) == pytest.approx(counted(points))


@given(grids())
def test_what_a_point_adds_is_what_the_volume_grows_by(points: list[tuple[float, ...]]) -> None:
    *others, last = points
    assert own_volume(last, others) == pytest.approx(volume(points) - volume(others), abs=1e-12)
    grown = growth(points)
    assert grown == pytest.approx([volume(points[: end + 1]) for end in range(len(points))])
    assert growth([None, *points, None])[::-1][:2] == [grown[-1]] * 2


@given(grids())
def test_nothing_on_the_front_is_reached_by_another_and_everything_else_is(points: list[tuple[float, ...]]) -> None:
    kept = nondominated(points)
    gains = np.array(points)
    for index in range(len(points)):
        reached = [other for other in kept if other != index and (gains[other] >= gains[index]).all()]
        assert bool(reached) == (index not in kept)
    front = Front()
    for point in points:
        front.add(point)
    assert sorted(map(tuple, front.points)) == sorted(points[index] for index in kept)
    assert front.volume == pytest.approx(volume(points))


def test_no_points_dominate_nothing() -> None:
    assert volume([]) == 0
    assert nondominated([]) == []
    assert volume([(0.0, 1.0), (-1.0, 2.0)]) == 0


def test_a_front_in_six_axes_is_exact() -> None:
    """Boxes along one axis each: the volume by inclusion and exclusion of their common corner."""
    points = np.full((6, 6), 0.5) + 0.5 * np.eye(6)
    assert volume(points) == pytest.approx(0.5**6 + 6 * 0.5**6)
