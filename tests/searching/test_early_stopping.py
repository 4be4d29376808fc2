from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.searching.early_stopping import Rungs, make_rungs, spent
from nas.study.objectives import OBJECTIVES, Metrics, make_objective
from nas.study.ranking import position
from nas.study.trials import Trial
from tests.helpers.trials import running_trial

accuracies = st.integers(0, 20).map(lambda step: step / 20)
settings = st.tuples(
    st.sampled_from(["halving", "hyperband"]), st.integers(2, 4), st.integers(1, 3), st.integers(4, 12)
)
names = st.sampled_from(sorted(OBJECTIVES))


@st.composite
def races(draw: st.DrawFn, epochs: int) -> list[tuple[tuple[float, ...], float]]:
    """Full learning curves with latencies in ms, in the order in which a search meets them."""
    curve = st.lists(accuracies, min_size=epochs, max_size=epochs).map(tuple)
    latency = st.integers(1, 12).map(float)
    return draw(st.lists(st.tuples(curve, latency), min_size=1, max_size=25))


def run(rungs: Rungs, race: Sequence[tuple[tuple[float, ...], float]], name: str) -> list[Trial]:
    """Return what a search records: each curve as far as the rungs let it."""
    objective, recorded = make_objective(name, 10.0), list[Trial]()
    for number, (curve, latency_ms) in enumerate(race):
        for length in range(1, len(curve) + 1):
            entry = running_trial(number, curve[:length], Metrics(0.0, latency_ms, 1, 1))
            if rungs.stops(entry, recorded, objective):
                break
        recorded.append(entry)
    return recorded


@given(data=st.data(), setting=settings, name=names)
def test_the_best_so_far_is_never_stopped_and_something_finishes(
    data: st.DataObject, setting: tuple[str, int, int, int], name: str
) -> None:
    rungs = make_rungs(*setting)
    recorded = run(rungs, data.draw(races(setting[-1])), name)
    objective = make_objective(name, 10.0)
    assert any(len(entry.curve) == rungs.epochs for entry in recorded)
    for entry in recorded:
        reached = len(entry.curve)
        if reached == rungs.epochs:
            continue
        assert reached in rungs.of(entry.number)
        before = [
            other.metrics_after(reached)
            for other in recorded[: entry.number]
            if len(other.curve) >= reached and rungs.of(other.number) == rungs.of(entry.number)
        ]
        assert max(map(objective.score, before)) > objective.score(entry.metrics_after(reached))


@given(data=st.data(), setting=settings, name=names)
def test_a_higher_accuracy_at_a_rung_never_stops_who_went_on(
    data: st.DataObject, setting: tuple[str, int, int, int], name: str
) -> None:
    rungs = make_rungs(*setting)
    *others, last = run(rungs, data.draw(races(setting[-1])), name)
    reached = data.draw(st.sampled_from([*rungs.of(last.number), 1]))
    low, high = sorted(data.draw(st.tuples(accuracies, accuracies)))
    objective = make_objective(name, 10.0)

    def stops(accuracy: float) -> bool:
        return rungs.stops(running_trial(last.number, (accuracy,) * reached, last.metrics), others, objective)

    assert stops(low) or not stops(high)


@given(data=st.data(), setting=settings, name=names)
def test_what_is_decided_depends_on_what_came_before_alone(
    data: st.DataObject, setting: tuple[str, int, int, int], name: str
) -> None:
    rungs, race = make_rungs(*setting), data.draw(races(setting[-1]))
    cut = data.draw(st.integers(0, len(race)))
    assert run(rungs, race[:cut], name) == run(rungs, race, name)[:cut]


@given(setting=settings, count=st.integers(1, 40))
def test_candidates_that_come_best_first_cost_one_training_and_the_first_rung(
    setting: tuple[str, int, int, int], count: int
) -> None:
    rungs = make_rungs("halving", *setting[1:])
    race = [((1 - number / 50,) * rungs.epochs, 10.0) for number in range(count)]
    curves = [entry.curve for entry in run(rungs, race, "constrained")]
    assert spent(curves) == rungs.epochs + (count - 1) * rungs.of(0)[0]


def test_in_random_order_the_share_that_goes_on_is_the_share_of_the_rule() -> None:
    rungs, rng = make_rungs("halving", 3, 1, 9), random.Random(0)
    went_on, count, orders = 0, 30, 400
    for _ in range(orders):
        race = [((rng.random(),) * 9, 1.0) for _ in range(count)]
        went_on += sum(len(entry.curve) > 1 for entry in run(rungs, race, "constrained"))
    expected = sum(max(1, reached // 3) / reached for reached in range(1, count + 1))
    assert went_on / orders == pytest.approx(expected, rel=0.03)


def test_hyperbands_brackets_share_a_cycle_and_compete_among_themselves() -> None:
    rungs = make_rungs("hyperband", 3, 1, 9)
    sizes = {levels: rungs.cycle.count(levels) for levels in set(rungs.cycle)}
    assert sizes == {(1, 3): 9, (3,): 5, (): 3}
    assert all(later != () or earlier != () for earlier, later in pairwise(rungs.cycle))
    objective = make_objective("constrained", 10.0)
    number = rungs.cycle.index((3,))
    poor = running_trial(number, (0.1, 0.1, 0.1), Metrics(0.0, 1.0, 1, 1))
    good = [running_trial(other, (0.9,) * 9, Metrics(0.9, 1.0, 1, 1)) for other in range(len(rungs.cycle))]
    assert not rungs.stops(poor, [entry for entry in good if rungs.of(entry.number) != (3,)], objective)
    assert rungs.stops(poor, good[number + 1 :], objective)


def test_the_rungs_end_below_a_full_training() -> None:
    assert make_rungs("halving", 3, 1, 9).cycle == ((1, 3),)
    assert make_rungs("halving", 3, 1, 10).cycle == ((1, 3, 9),)
    assert make_rungs("halving", 2, 3, 20).cycle == ((3, 6, 12),)
    assert make_rungs("full", 3, 1, 9).cycle == ((),)
    with pytest.raises(UsageError, match="--min-epochs: must be below the 4 epochs of a full training: 4"):
        make_rungs("halving", 3, 4, 4)


def test_on_the_pareto_front_of_a_rung_slow_and_accurate_and_fast_and_poor_both_go_on() -> None:
    rungs, pareto = make_rungs("halving", 3, 1, 9), make_objective("pareto", 100.0)
    others = [
        running_trial(n, (0.5 - n / 100,), Metrics(0.0, 20.0 + n, 1, 1)) for n in range(6)
    ]  # one layer after the other

    def stops(accuracy: float, latency_ms: float) -> bool:
        return rungs.stops(running_trial(6, (accuracy,), Metrics(0.0, latency_ms, 1, 1)), others, pareto)

    assert not stops(0.9, 90.0)
    assert not stops(0.2, 1.0)
    assert stops(0.47, 24.0)
    assert stops(0.2, 90.0)


def test_positions_on_a_front_follow_the_area_that_each_adds() -> None:
    pareto = make_objective("pareto", 100.0)
    points = [Metrics(*place, 1, 1) for place in [(0.2, 10.0), (0.21, 11.0), (0.6, 30.0), (0.1, 40.0), (0.6, 30.0)]]
    assert [position(pareto, points, index) for index in range(5)] == [2, 3, 0, 4, 0]  # 0.2 * 1 ms, 0.01 * 19 ms
