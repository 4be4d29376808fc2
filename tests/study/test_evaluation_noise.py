"""The statistics of repeats, on simulated candidates whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.study.evaluation_noise import NoiseModel, fit

Values = list[list[float]]


def simulated(
    rng: np.random.Generator, between: float, noise: float, trials: int = 12, finalists: int = 5, seeds: int = 2
) -> tuple[Values, np.ndarray]:
    """Return the accuracies of a search whose best few were evaluated again, and the truth."""
    truth = rng.normal(0.7, between, trials)
    groups = [[value] for value in rng.normal(truth, noise)]
    for index in sorted(range(trials), key=lambda i: -groups[i][0])[:finalists]:
        groups[index] += list(rng.normal(truth[index], noise, seeds))
    return groups, truth


def pooled(groups: Values) -> float:
    return float(np.mean([np.var(group, ddof=1) for group in groups if len(group) > 1]))


@pytest.mark.parametrize(("between", "noise"), [(0.05, 0.02), (0.03, 0.03), (0.02, 0.04)])
@pytest.mark.parametrize(("trials", "finalists", "seeds"), [(12, 5, 2), (12, 5, 1), (12, 2, 1), (40, 5, 1)])
def test_the_noise_is_found_from_few_repeats(
    between: float, noise: float, trials: int, finalists: int, seeds: int
) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        groups, _ = simulated(rng, between, noise, trials, finalists, seeds)
        spread = fit(groups)
        assert spread is not None
        assert spread.degrees == finalists * seeds
        found.append(spread.noise**2)
    assert np.sqrt(np.mean(found)) == pytest.approx(noise, rel=0.12)


@pytest.mark.parametrize(("between", "noise"), [(0.03, 0.03), (0.02, 0.04)])
def test_the_noise_is_found_where_the_pooled_deviation_of_the_chosen_is_too_large(between: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    found, naive = [], []
    for _ in range(400):
        groups, _ = simulated(rng, between, noise, 40, 5, 1)
        spread = fit(groups)
        assert spread is not None
        found.append(spread.noise**2)
        naive.append(pooled(groups))
    assert np.sqrt(np.mean(naive)) > 1.15 * noise
    assert np.sqrt(np.mean(found)) == pytest.approx(noise, rel=0.06)


def test_mean_and_spread_of_many_candidates_are_found() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0.8, 0.04, 2000)
    spread = fit([list(rng.normal(value, 0.02, 1 + index % 3)) for index, value in enumerate(truth)])
    assert spread is not None
    assert spread.mean == pytest.approx(0.8, abs=0.004)
    assert spread.between == pytest.approx(0.04, rel=0.06)
    assert spread.noise == pytest.approx(0.02, rel=0.06)


def test_estimates_are_nearer_to_the_truth_and_name_better_winners() -> None:
    rng = np.random.default_rng(2)
    raw_error, raw_bias, error, bias, raw_regret, regret = (list[float]() for _ in range(6))
    for _ in range(800):
        groups, truth = simulated(rng, 0.03, 0.03)
        spread = fit(groups)
        assert spread is not None
        first = np.array([group[0] for group in groups])
        means = np.array([spread.estimate(group) for group in groups])
        lucky, named = int(first.argmax()), int(means.argmax())
        raw_error.append(float(np.mean((first - truth) ** 2)))
        error.append(float(np.mean((means - truth) ** 2)))
        raw_bias.append(first[lucky] - truth[lucky])
        bias.append(means[named] - truth[named])
        raw_regret.append(truth.max() - truth[lucky])
        regret.append(truth.max() - truth[named])
    assert np.mean(error) < 0.6 * np.mean(raw_error)
    assert np.mean(raw_bias) > 0.02
    assert abs(float(np.mean(bias))) < 0.005
    assert np.mean(regret) < 0.7 * np.mean(raw_regret)


def test_equal_candidates_are_within_what_is_explained_in_19_of_20_cases() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(2000):
        known = rng.normal(0, 0.02, (6, 2))
        noise = float(np.sqrt(np.mean(np.var(known, axis=1, ddof=1))))
        one, other = rng.normal(0, 0.02, 2)
        inside.append(one - other <= NoiseModel(0.0, 0.0, noise, 6).explained())
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_a_rare_and_noisy_value_is_drawn_to_the_mean() -> None:
    spread = NoiseModel(mean=0.5, between=0.1, noise=0.1, degrees=3)
    assert spread.estimate([0.9]) == pytest.approx(0.7)
    assert spread.estimate([0.9, 0.9, 0.9]) == pytest.approx(0.8)
    assert NoiseModel(0.5, 0.1, 0.0, 3).estimate([0.9]) == 0.9
    assert NoiseModel(0.5, 0.0, 0.1, 3).estimate([0.9]) == 0.5


groups = st.lists(st.lists(st.integers(0, 50).map(lambda step: step / 50), min_size=1, max_size=4), min_size=1)


@given(groups)
def test_any_accuracies_give_finite_estimates_between_the_mean_and_the_values(values: list[list[float]]) -> None:
    spread = fit(values)
    if spread is None:
        assert all(len(group) == 1 for group in values)
        return
    assert spread.noise >= 0
    assert spread.between >= 0
    for group in values:
        low, high = sorted((spread.mean, float(np.mean(group))))
        assert low - 1e-9 <= spread.estimate(group) <= high + 1e-9


def test_without_repeats_nothing_is_known_and_equal_repeats_have_no_noise() -> None:
    assert fit([[0.1], [0.4]]) is None
    exact = fit([[0.1, 0.1], [0.4]])
    assert exact is not None
    assert exact.noise == 0
    assert exact.estimate([0.4]) == 0.4
