"""How well two rankings of the same networks agree, and how sure one can be of that. Pure functions of numbers."""

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
    """Kendall's tau-b and Spearman's rho in [-1, 1], each with a 95 % interval, over `networks` networks."""

    networks: int
    kendall: float
    kendall_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Agreement:
        """Return what `to_dict` gave, through JSON or not."""
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
    """Return Kendall's tau-b, 0 where one side is constant and nothing is ranked."""
    x, y = _orders(left), _orders(right)
    untied = math.sqrt(np.count_nonzero(x)), math.sqrt(np.count_nonzero(y))
    if 0 in untied:
        return 0.0
    return min(1.0, max(-1.0, int(x @ y) / untied[0] / untied[1]))


def spearman(left: Numbers, right: Numbers) -> float:
    """Return Spearman's rho, 0 where one side is constant and nothing is ranked."""
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
    """Return how `scores` rank what `truth` ranks; intervals are percentiles over resampled networks (bootstrap).

    Raises ValueError for fewer than 3 networks.
    """
    if len(scores) != len(truth) or len(truth) < 3:
        raise ValueError(f"at least 3 networks with a score and an accuracy each: {len(scores)}, {len(truth)}")
    pairs = np.array([scores, truth], dtype=float)
    return Agreement(
        len(truth),
        kendall(*pairs),
        _interval(kendall, pairs),
        spearman(*pairs),
        _interval(spearman, pairs),
    )


def ceiling(trainings: Sequence[Sequence[float]]) -> Agreement:
    """Return how well the reference agrees with itself: accuracies of each network, one for each seed (2 or more).

    The mean over all pairs of seeds; no evaluator that is judged by one training of each network can be expected to
    agree better. Intervals are those of the first pair, moved to the mean. Raises ValueError for a single seed.
    """
    columns = np.array(trainings, dtype=float).T
    if len(columns) < 2:
        raise ValueError("a reference of one seed cannot say how well it repeats itself")
    pairs = [agreement(list(left), list(right)) for left, right in itertools.combinations(columns, 2)]
    taus, rhos = (float(np.mean([getattr(pair, name) for pair in pairs])) for name in ("kendall", "spearman"))
    first = pairs[0]
    return Agreement(
        first.networks,
        taus,
        _moved(first.kendall_interval, taus - first.kendall),
        rhos,
        _moved(first.spearman_interval, rhos - first.spearman),
    )


def noise(trainings: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of one training of a network about the network's own mean, pooled."""
    table = np.array(trainings, dtype=float)
    return float(np.sqrt(table.var(axis=1, ddof=1).mean()))


def _interval(statistic: Callable[[Floats, Floats], float], pairs: Floats) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    count = pairs.shape[1]
    drawn = [statistic(*pairs[:, rng.integers(0, count, count)]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, INTERVAL)
    return float(low), float(high)


def _moved(interval: tuple[float, float], by: float) -> tuple[float, float]:
    return max(-1.0, interval[0] + by), min(1.0, interval[1] + by)


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
