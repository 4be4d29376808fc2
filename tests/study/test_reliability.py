"""The reliability of accuracies: exact cases, and the coverage of its interval in simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.study.evaluation_noise import fit
from nas.study.reliability import Reliability, measure_reliability, rivals


def simulated(rng: np.random.Generator, networks: int, seeds: int, reliability: float) -> list[list[float]]:
    truth = rng.normal(0.5, np.sqrt(reliability) / 20, (networks, 1))
    values: list[list[float]] = (truth + rng.normal(0, np.sqrt(1 - reliability) / 20, (networks, seeds))).tolist()
    return values


def test_it_is_the_intraclass_correlation_of_balanced_groups() -> None:
    groups = simulated(np.random.default_rng(3), 30, 2, 0.8)
    values = np.array(groups)
    between = 2 * values.mean(1).var(ddof=1)
    within = float(((values[:, 0] - values[:, 1]) ** 2).sum() / 2 / 30)
    found = measure_reliability(groups)
    assert found is not None
    assert found.reliability == pytest.approx((between - within) / (between + within), abs=0.01)
    assert found.noise == pytest.approx(within**0.5, rel=0.02)
    assert (found.networks, found.evaluations) == (30, 60)
    assert 0 < found.low < found.reliability < found.high < 1


@pytest.mark.parametrize("reliability", [0.0, 0.5, 0.7, 0.9])
def test_the_interval_holds_the_truth_in_19_of_20_simulations(reliability: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = measure_reliability(simulated(rng, 6, 2, reliability))
        assert found is not None
        held += found.low <= reliability <= found.high
    assert held >= 0.91 * 200


def test_candidates_that_never_differ_cannot_be_told_apart() -> None:
    found = measure_reliability([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    assert found is not None
    assert (found.reliability, found.low, found.high) == (0.0, 0.0, 1.0)
    exact = measure_reliability([[0.5, 0.5], [0.6, 0.6], [0.4, 0.4]])
    assert exact is not None
    assert (exact.reliability, exact.noise) == (1.0, 0.0)


@pytest.mark.parametrize("groups", [[[0.5, 0.6], [0.4, 0.5]], [[0.5], [0.6], [0.7]], []])
def test_too_few_values_tell_nothing(groups: list[list[float]]) -> None:
    assert measure_reliability(groups) is None


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=3, max_size=8))
def test_it_lies_within_its_interval(groups: list[list[float]]) -> None:
    found = measure_reliability(groups)
    if found is not None:
        assert 0 <= found.low <= found.reliability <= found.high <= 1


def certified(reliability: float) -> Reliability:
    return Reliability(reliability, 0.0, 1.0, 0.03, 0.02, 0.5, 6, 12)


@pytest.mark.parametrize(
    ("reliability", "times"), [(0.8, 1), (0.7, 1), (0.5, 3), (0.25, 7), (0.0, 1000), (0.001, 1000)]
)
def test_more_evaluations_are_more_reliable_by_spearman_and_brown(reliability: float, times: int) -> None:
    assert certified(reliability).times_for(0.7) == times
    assert Reliability.from_dict(certified(reliability).to_dict()) == certified(reliability)


def test_rivals_are_the_candidates_within_the_noise() -> None:
    accuracies = {"best": [0.80, 0.82], "close": [0.79, 0.80], "once": [0.77], "far": [0.50, 0.51], "bad": [0.30, 0.32]}
    model = fit(list(accuracies.values()))
    assert model is not None
    assert rivals(model, accuracies, "best") == ["close"] or set(rivals(model, accuracies, "best")) == {"close", "once"}
    assert "far" not in rivals(model, accuracies, "best")
    noisy = {name: [values[0], values[0] - 0.4] for name, values in accuracies.items()}
    noisy_model = fit(list(noisy.values()))
    assert noisy_model is not None
    assert set(rivals(noisy_model, noisy, "best")) >= {"close", "once", "far"}
