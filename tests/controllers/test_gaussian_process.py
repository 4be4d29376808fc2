"""The Gaussian process: its gradient, what it believes at and between points, and what it learns of the columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.controllers.gaussian_process import Columns, Kernel, _distances, _negative_log_likelihood, condition, fit

COLUMNS = Columns(np.array([0, 0, 0, 1, 1, 2]), np.array([0.5, 0.5, 0.3]))


def points(count: int, seed: int) -> np.ndarray:
    """Return two choices in one-hot columns, of three and of two values, and a number: (count, 6)."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 3, count), rng.integers(0, 2, count)
    hot = [first[:, None] == np.arange(3), second[:, None] == np.arange(2)]
    return np.concatenate([np.concatenate(hot, axis=1) * np.sqrt(0.5), rng.normal(size=(count, 1))], axis=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_the_gradient_is_that_of_the_value(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = np.stack([_distances(points(count, seed), points(count, seed), COLUMNS, row) for row in np.eye(3)])
    values, logs = rng.normal(size=count), rng.normal(size=5) * 0.5
    logs[-1] -= 3
    _, gradient = _negative_log_likelihood(logs, known, values)
    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-5
        above, _ = _negative_log_likelihood(logs + step, known, values)
        below, _ = _negative_log_likelihood(logs - step, known, values)
        assert np.isclose(gradient[place], (above - below) / 2e-5, rtol=1e-3, atol=1e-4)


def test_a_choice_is_a_distance_of_its_weight_and_a_number_of_its_square() -> None:
    one, other = points(1, 0), points(1, 0)
    other[0, 5] += 2.0
    assert np.isclose(_distances(one, other, COLUMNS, np.array([7.0, 5.0, 0.25]))[0, 0], 1.0)
    other[0, :3] = np.roll(one[0, :3], 1)
    assert np.isclose(_distances(one, other, COLUMNS, np.array([7.0, 5.0, 0.25]))[0, 0], 8.0)


def test_it_is_sure_at_what_it_was_told_and_not_far_from_it() -> None:
    given = points(20, 1)
    values = given[:, 0] - given[:, 3] + 0.5 * given[:, 5]
    belief = condition(COLUMNS, Kernel(np.array([0.5, 0.5, 0.3]), 1.0, 1e-6), given, values)
    mean, deviation = belief.predict(given)
    assert np.allclose(mean, values, atol=1e-2)
    assert deviation.max() < 0.05 * values.std()
    far = given[:1].copy()
    far[0, 5] += 50.0
    mean, deviation = belief.predict(far)
    assert np.isclose(mean[0], values.mean(), atol=1e-3)
    assert np.isclose(deviation[0], values.std(), rtol=1e-3)


def test_what_does_not_matter_gets_a_small_weight_and_the_fit_predicts() -> None:
    given, unseen = points(60, 2), points(200, 3)

    def truth(rows: np.ndarray) -> np.ndarray:
        return np.asarray(2.0 * rows[:, 0] + np.sin(rows[:, 5]))

    noise = 0.05 * np.random.default_rng(4).normal(size=60)
    kernel = fit(COLUMNS, given, truth(given) + noise)
    assert kernel.weights[1] < 0.2 * kernel.weights[0]
    mean, _ = condition(COLUMNS, kernel, given, truth(given) + noise).predict(unseen)
    assert np.corrcoef(mean, truth(unseen))[0, 1] > 0.98
    assert 1e-4 < kernel.noise < 0.1


def test_equal_values_are_no_mistake() -> None:
    given = points(8, 5)
    kernel = fit(COLUMNS, given, np.full(8, 0.7))
    mean, deviation = condition(COLUMNS, kernel, given, np.full(8, 0.7)).predict(points(5, 6))
    assert np.allclose(mean, 0.7)
    assert np.isfinite(deviation).all()
