"""Agreement of rankings, on numbers whose answer is known."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.evaluators.rank_check.rank_correlation import Agreement, agreement, ceiling, kendall, noise, spearman

RISING = [float(value) for value in range(12)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluators.rank_check.rank_correlation.RESAMPLES", 200)


def test_equal_and_opposite_rankings() -> None:
    found = agreement(RISING, [value**3 for value in RISING])
    assert found.networks == 12
    assert [found.kendall, found.spearman, *found.kendall_interval] == pytest.approx([1.0] * 4)
    assert agreement(RISING, RISING[::-1]).kendall == pytest.approx(-1)


def test_kendall_counts_pairs() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # 5 pairs agree, 1 does not
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)  # tau-b: one pair is tied on one side


def test_a_side_that_ranks_nothing_agrees_with_nothing() -> None:
    assert kendall([1, 1, 1], [1, 2, 3]) == spearman([1, 1, 1], [1, 2, 3]) == 0
    assert agreement([0.5] * 5, RISING[:5]).spearman_interval == (0, 0)


def test_an_interval_holds_the_figure_and_narrows_with_more_networks() -> None:
    rng = random.Random(0)

    def width(count: int) -> float:
        truth = [rng.gauss(0, 1) for _ in range(count)]
        found = agreement([value + rng.gauss(0, 0.7) for value in truth], truth)
        low, high = found.kendall_interval
        assert low <= found.kendall <= high
        return high - low

    assert width(200) < 0.5 * width(15)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12))
def test_figures_lie_in_their_range_and_survive_json(pairs: list[tuple[float, float]]) -> None:
    scores, truth = (list(side) for side in zip(*pairs, strict=True))
    assert -1 <= kendall(scores, truth) <= 1
    assert -1 <= spearman(scores, truth) <= 1
    found = Agreement(len(pairs), kendall(scores, truth), (-0.5, 0.5), spearman(scores, truth), (0.0, 1.0))
    assert Agreement.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_ceiling_falls_with_the_noise_that_it_is_told_of() -> None:
    rng = random.Random(0)

    def trainings(deviation: float, seeds: int) -> list[list[float]]:
        return [[0.5 + 0.01 * index + rng.gauss(0, deviation) for _ in range(seeds)] for index in range(40)]

    quiet, loud = trainings(0.005, 3), trainings(0.05, 3)
    assert ceiling(quiet).kendall > 0.9 > ceiling(loud).kendall
    assert noise(quiet) == pytest.approx(0.005, rel=0.3)
    assert noise(loud) == pytest.approx(0.05, rel=0.3)


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 networks"):
        agreement([1, 2], [1, 2])
    with pytest.raises(ValueError, match="at least 3 networks"):
        agreement([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="one seed"):
        ceiling([[0.1], [0.2], [0.3]])
