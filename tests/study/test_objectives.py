from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.study.objectives import OBJECTIVES, Metrics, Reward, make_objective
from nas.study.pareto import volume
from nas.study.ranking import front

metrics = st.builds(Metrics, st.floats(0.01, 1), st.floats(0.1, 100), st.integers(1, 10**8), st.integers(1, 10**9))


def at(accuracy: float, latency_ms: float) -> Metrics:
    return Metrics(accuracy, latency_ms, 1, 1)


def test_the_soft_reward_pays_five_percent_for_half_the_latency() -> None:
    soft = make_objective("soft", 20)
    assert soft(at(0.5, 20)) == (0.5,)
    assert soft(at(0.5, 10))[0] / soft(at(0.5, 20))[0] == pytest.approx(2**0.07)
    assert soft(at(0.5, 40))[0] / soft(at(0.5, 20))[0] == pytest.approx(2**-0.07)


def test_the_hard_reward_is_flat_within_and_falls_beyond() -> None:
    hard = make_objective("hard", 20)
    assert hard(at(0.5, 1)) == hard(at(0.5, 20)) == (0.5,)
    assert hard(at(0.5, 40))[0] == pytest.approx(0.25)


def test_alpha_holds_at_the_target_itself() -> None:
    assert Reward(20, alpha=0.0, beta=-1.0)(at(0.5, 20)) == (0.5,)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(one=metrics, other=metrics)
def test_an_objective_prefers_what_is_better_in_both(name: str, one: Metrics, other: Metrics) -> None:
    objective = make_objective(name, 20)
    assert len(objective(one)) == len(objective.directions)
    if one.accuracy >= other.accuracy and one.latency_ms <= other.latency_ms:
        assert objective.score(one) >= objective.score(other) or one.accuracy == other.accuracy


def test_constrained_refuses_what_is_too_slow() -> None:
    constrained = make_objective("constrained", 20)
    assert constrained.admits(20)
    assert not constrained.admits(20.01)
    assert constrained.score(at(0.01, 20)) > constrained.score(at(0.99, 21))


def test_exponents_are_checked() -> None:
    assert make_objective("hard", 20, beta=-0.5) == Reward(20, 0.0, -0.5)
    with pytest.raises(UsageError, match="only a reward"):
        make_objective("pareto", 20, alpha=-1)
    with pytest.raises(UsageError, match="--beta"):
        make_objective("soft", 20, beta=0.5)
    with pytest.raises(UsageError, match="did you mean 'soft'"):
        make_objective("softt", 20)


@given(st.lists(metrics, max_size=20))
def test_nothing_on_the_front_is_beaten(points: list[Metrics]) -> None:
    kept = front(points)
    for index in kept:
        assert not any(p.accuracy >= points[index].accuracy and p.latency_ms < points[index].latency_ms for p in points)
    for point in points:
        assert any(points[i].accuracy >= point.accuracy and points[i].latency_ms <= point.latency_ms for i in kept)


def test_volume_is_the_area_of_the_stairs() -> None:
    assert volume([(0.5, 30 - 10), (0.8, 30 - 20), (0.4, 30 - 15)]) == pytest.approx(0.5 * 10 + 0.8 * 10)
    assert volume([(0.5, 30 - 40)]) == 0
