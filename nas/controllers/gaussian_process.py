"""A Gaussian process over mixed columns, fitted by maximum a posteriori: few points, many dimensions, noisy values.

The kernel is `s^2 * exp(-sum_g w_g * distance_g)` with one weight for each group of columns. A group is a choice in
one-hot columns (distance 0 or 1) or one number (its squared difference). Small weights make the process nearly
additive; large ones let choices interact. The weights have log-normal priors whose median falls with the number of
choices, so that dozens of choices do not overfit ten points (Hvarfner et al. 2024, section 4, for numbers).
scikit-learn's regressor supports neither priors nor one weight for several columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.spaces.encoding import Floats

SPREAD = 1.0
"""The prior standard deviation of a log weight."""
NOISE, NOISE_SPREAD = 1e-3, 1.5
"""The prior of the noise variance for values of variance 1: its median and the standard deviation of its logarithm."""
ITERATIONS = 20
JITTER = 1e-8


@dataclass(frozen=True)
class Columns:
    """The groups of the columns.

    Attributes:
        group: The group of each column, (columns,).
        weight: The prior median of each group's weight, (groups,).
    """

    group: NDArray[np.intp]
    weight: Floats


@dataclass(frozen=True)
class Kernel:
    """The fitted parameters.

    Attributes:
        weights: The weight of each group, (groups,).
        signal: The variance of the signal, for values of variance 1.
        noise: The variance of the noise, for values of variance 1.
    """

    weights: Floats
    signal: float
    noise: float


@dataclass(frozen=True)
class Posterior:
    """The process conditioned on N points.

    Attributes:
        columns: The groups of the columns.
        kernel: The fitted parameters.
        points: The points, (N, columns).
        factor: The lower Cholesky factor of their covariance, (N, N).
        solved: The inverse covariance times the standardized values, (N,).
        mean: The mean of the values.
        scale: The standard deviation of the values.
    """

    columns: Columns
    kernel: Kernel
    points: Floats
    factor: Floats
    solved: Floats
    mean: float
    scale: float

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Return the means and standard deviations, (M,) each, of the noiseless values at `points`, (M, columns)."""
        from scipy.linalg import solve_triangular

        cross = self.kernel.signal * np.exp(-_distances(points, self.points, self.columns, self.kernel.weights))
        half = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(self.kernel.signal - np.einsum("nm,nm->m", half, half), 1e-12)
        return cross @ self.solved * self.scale + self.mean, np.sqrt(variance) * self.scale


def condition(columns: Columns, kernel: Kernel, points: Floats, values: Floats) -> Posterior:
    """Return the posterior after `values`, (N,), at `points`, (N, columns)."""
    from scipy.linalg import cho_solve

    mean, scale = float(values.mean()), float(values.std()) or 1.0
    matrix = kernel.signal * np.exp(-_distances(points, points, columns, kernel.weights))
    matrix[np.diag_indices(len(points))] += kernel.noise + JITTER
    factor = np.linalg.cholesky(matrix)
    solved = cho_solve((factor, True), (values - mean) / scale, check_finite=False)
    return Posterior(columns, kernel, points, factor, solved, mean, scale)


def fit(columns: Columns, points: Floats, values: Floats) -> Kernel:
    """Return the kernel with the highest posterior density of `values`, (N,), at `points`, (N, columns).

    The optimization starts at the prior medians, so the result depends only on the arguments.
    """
    from scipy.optimize import minimize

    groups = len(columns.weight)
    distances = np.stack([_distances(points, points, columns, np.eye(groups)[group]) for group in range(groups)])
    values = (values - values.mean()) / (values.std() or 1.0)
    prior = np.concatenate([np.log(columns.weight), [0.0, np.log(NOISE)]])
    spread = np.concatenate([np.full(groups, SPREAD), [1.0, NOISE_SPREAD]])

    def loss(logs: Floats) -> tuple[float, Floats]:
        value, slope = _negative_log_likelihood(logs, distances, values)
        away = (logs - prior) / spread
        return value + 0.5 * float(away @ away), slope + away / spread

    bounds = [(-12.0, 4.0)] * groups + [(-6.0, 6.0), (-12.0, 2.0)]
    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}).x
    return Kernel(np.exp(found[:groups]), float(np.exp(found[-2])), float(np.exp(found[-1])))


def _negative_log_likelihood(logs: Floats, distances: Floats, values: Floats) -> tuple[float, Floats]:
    """Return the value and its gradient with respect to log weights, log signal and log noise.

    `distances` is (groups, N, N).
    """
    from scipy.linalg import cho_solve

    *weights, signal, noise = np.exp(logs)
    flat = distances.reshape(len(distances), -1)
    covariance = signal * np.exp(-(np.array(weights) @ flat)).reshape(distances.shape[1:])
    matrix = covariance.copy()
    matrix[np.diag_indices(len(values))] += noise + JITTER
    try:
        factor = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(logs)
    inverse = cho_solve((factor, True), np.eye(len(values)), check_finite=False)
    solved = inverse @ values
    slope = 0.5 * (inverse - np.outer(solved, solved))
    through = (slope * covariance).reshape(-1)
    gradient = [*(-(flat @ through) * weights), through.sum(), np.trace(slope) * noise]
    return float(0.5 * values @ solved + np.log(np.diag(factor)).sum()), np.array(gradient)


def _distances(left: Floats, right: Floats, columns: Columns, weights: Floats) -> Any:
    """Return the weighted sum of the groups' distances between N and M points, (N, M)."""
    scale = np.sqrt(weights[columns.group])
    used = scale > 0
    left, right = left[:, used] * scale[used], right[:, used] * scale[used]
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None]
    return np.maximum(squares - 2 * left @ right.T, 0.0)
