"""Rank correlation of two lists of scores for the same networks, with bootstrap confidence intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
INTERVAL = (2.5, 97.5)
Floats = NDArray[np.float64]
Numbers = Sequence[float] | Floats


@dataclass(frozen=True)
class Agreement:
    """The agreement of two rankings.

    Attributes:
        networks: The number of networks.
        kendall: Kendall's tau-b in [-1, 1].
        kendall_interval: Its 95 % confidence interval.
        spearman: Spearman's rho in [-1, 1].
        spearman_interval: Its 95 % confidence interval.
    """

    networks: int
    kendall: float
    kendall_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Agreement:
        """Return the inverse of `to_dict`. The dict may have passed through JSON."""
        kendall_low, kendall_high = data["kendall_interval"]
        spearman_low, spearman_high = data["spearman_interval"]
        return cls(
            int(data["networks"]),
            float(data["kendall"]),
            (float(kendall_low), float(kendall_high)),
            float(data["spearman"]),
            (float(spearman_low), float(spearman_high)),
        )

    def __str__(self) -> str:
        low, high = self.kendall_interval
        return f"Kendall {self.kendall:.2f} ({low:.2f} to {high:.2f}), Spearman {self.spearman:.2f}"


def kendall(left: Numbers, right: Numbers) -> float:
    """Return Kendall's tau-b, or 0 if all values of one side are equal."""
    x, y = _orders(left), _orders(right)
    untied = math.sqrt(np.count_nonzero(x)), math.sqrt(np.count_nonzero(y))
    if 0 in untied:
        return 0.0
    return min(1.0, max(-1.0, int(x @ y) / untied[0] / untied[1]))


def spearman(left: Numbers, right: Numbers) -> float:
    """Return Spearman's rho, or 0 if all values of one side are equal."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    from scipy.stats import spearmanr

    return _finite(spearmanr(left, right).statistic)


def _orders(values: Numbers) -> NDArray[np.int64]:
    """Return for each pair of values whether the first is above the second (1), below it (-1) or equal (0)."""
    column = np.asarray(values, dtype=float)[:, None]
    signs = (column > column.T).astype(np.int64) - (column < column.T)
    return signs[np.triu_indices(len(column), 1)]


def agreement(scores: Sequence[float], truth: Sequence[float]) -> Agreement:
    """Return how well two lists rank the same networks alike, with percentile bootstrap intervals.

    Args:
        scores: A value for each network, higher is better.
        truth: Its accuracy, in the same order.

    Raises:
        ValueError: There are fewer than 3 networks, or the lists differ in length.
    """
    if len(scores) != len(truth) or len(truth) < 3:
        raise ValueError(f"needs a score and an accuracy for at least 3 networks: {len(scores)}, {len(truth)}")
    pairs = np.array([scores, truth], dtype=float)
    return Agreement(
        len(truth),
        kendall(*pairs),
        _bootstrap_interval(kendall, pairs),
        spearman(*pairs),
        _bootstrap_interval(spearman, pairs),
    )


def ceiling(trainings: Sequence[Sequence[float]]) -> Agreement:
    """Return the agreement between seeds of the reference, averaged over all pairs of seeds.

    An evaluator that is compared with one training of each network is not expected to reach a higher agreement. The
    intervals are those of the first pair, shifted to the mean.

    Args:
        trainings: The accuracies, one row for each network and one column for each seed.

    Raises:
        ValueError: There is only one seed.
    """
    columns = np.array(trainings, dtype=float).T
    if len(columns) < 2:
        raise ValueError("the agreement between seeds needs at least two seeds, not one seed")
    pairs = [agreement(list(left), list(right)) for left, right in itertools.combinations(columns, 2)]
    taus, rhos = (float(np.mean([getattr(pair, name) for pair in pairs])) for name in ("kendall", "spearman"))
    first = pairs[0]
    return Agreement(
        first.networks,
        taus,
        _shifted(first.kendall_interval, taus - first.kendall),
        rhos,
        _shifted(first.spearman_interval, rhos - first.spearman),
    )


def noise(trainings: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of a training's accuracy around its network's mean, pooled over networks.

    Args:
        trainings: The accuracies, one row for each network and one column for each seed (at least 2).
    """
    table = np.array(trainings, dtype=float)
    return float(np.sqrt(table.var(axis=1, ddof=1).mean()))


def _bootstrap_interval(statistic: Callable[[Floats, Floats], float], pairs: Floats) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    count = pairs.shape[1]
    resampled = [statistic(*pairs[:, rng.integers(0, count, count)]) for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, INTERVAL)
    return float(low), float(high)


def _shifted(interval: tuple[float, float], by: float) -> tuple[float, float]:
    return max(-1.0, interval[0] + by), min(1.0, interval[1] + by)


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
