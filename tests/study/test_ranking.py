"""Who is ahead along more than two axes; two axes and single values are tested with the rungs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.searching.early_stopping import make_rungs
from nas.study.multi_goal import make_goals, make_targets
from nas.study.objectives import AXES, Metrics, Objective
from nas.study.pareto import volume
from nas.study.ranking import front, gains, position
from tests.helpers.trials import running_trial

THREE = ("accuracy", "latency", "macs")
points_of = st.lists(
    st.builds(
        Metrics, st.integers(0, 10).map(lambda n: n / 10), st.integers(1, 9).map(float), st.integers(1, 9),
        st.integers(1, 9),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


def pareto(axes: tuple[str, ...] = THREE, tables: int = 1) -> Objective:
    return make_goals("pareto", make_targets([100.0], ["a", "b"][:tables] if tables > 1 else []), axes=axes)


def same(one: Metrics, other: Metrics) -> bool:
    return all(one.along(axis) == other.along(axis) for axis in THREE)


@given(points_of)
def test_a_front_of_three_axes_holds_what_nothing_beats(points: list[Metrics]) -> None:
    kept = front(points, THREE)
    for index, point in enumerate(points):
        beaten = any(
            p.accuracy >= point.accuracy and p.latency_ms <= point.latency_ms and p.macs <= point.macs
            for place in kept
            if place != index
            for p in [points[place]]
        )
        assert beaten == (index not in kept)
    assert [points[index].latency_ms for index in kept] == sorted(points[index].latency_ms for index in kept)


@given(points=points_of, data=st.data())
def test_who_rises_in_accuracy_never_moves_back(points: list[Metrics], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(points) - 1))
    higher = replace(points[index], accuracy=data.draw(st.sampled_from([points[index].accuracy, 0.95, 1.0])))
    if higher.accuracy < points[index].accuracy:
        return
    risen = [*points[:index], higher, *points[index + 1 :]]
    assert position(pareto(), risen, index) <= position(pareto(), points, index)


@given(points_of)
def test_the_first_layer_is_ahead_of_all_others(points: list[Metrics]) -> None:
    objective = pareto()
    kept = front(points, THREE)
    first = [i for i, point in enumerate(points) if any(same(point, points[k]) for k in kept)]
    places = [position(objective, points, index) for index in range(len(points))]
    assert min(places) == 0
    best = max(point.accuracy for point in points)
    for index, place in enumerate(places):
        if index not in first and points[index].accuracy < best:
            assert place >= len(kept)


def test_a_rung_compares_along_all_axes() -> None:
    rungs, objective = make_rungs("halving", 2, 1, 4), pareto()
    done = [running_trial(0, (0.9,), Metrics(0.0, 10.0, 1, 100)), running_trial(1, (0.5,), Metrics(0.0, 5.0, 1, 100))]
    small = running_trial(2, (0.4,), Metrics(0.0, 12.0, 1, 10))
    beaten = running_trial(2, (0.4,), Metrics(0.0, 12.0, 1, 200))
    assert not rungs.stops(small, done, pareto(("accuracy", "macs")))
    assert rungs.stops(beaten, done, objective)


def test_gains_are_shares_of_the_reference_for_each_device() -> None:
    metrics = Metrics(0.8, 5.0, 10, 20, (5.0, 30.0), 0.5, 100.0)
    reference = {
        "accuracy": (0.0,), "latency": (10.0, 40.0), "params": (10.0,), "macs": (80.0,), "energy": (2.0,),
        "memory": (400.0,),
    }  # fmt: skip
    found = gains(metrics, AXES, reference)
    assert found.tolist() == pytest.approx([0.8, 0.5, 0.25, 0.0, 0.75, 0.75, 0.75])
    assert volume([np.delete(found, 3)]) == pytest.approx(0.8 * 0.5 * 0.25 * 0.75**3)
    assert pareto(AXES, 2)(metrics) == (0.8, 5.0, 30.0, 10.0, 20.0, 0.5, 100.0)
    assert len(pareto(AXES, 2).directions) == 7
