"""Reliability of accuracies: how well they tell candidates apart.

The reliability is the share of the variance of single accuracies that lies between candidates, between^2 / (between^2 +
noise^2): the intraclass correlation ICC(1) of Shrout and Fleiss (1979), in the random-effects model of
`nas.study.evaluation_noise`. At 1, another seed changes nothing. At 0, candidates differ by no more than their seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np

from nas.study.evaluation_noise import NoiseModel, deviances, fit

RATIOS = np.logspace(-4, 6, 1001)
"""The grid of (between / noise)^2 for the interval."""
CONFIDENCE = 0.95
ENOUGH = 0.7
"""The reliability that a search asks of its evaluations, unless told otherwise."""
POOR = 0.5
"""Below this reliability, the ranking of candidates is mostly noise, and the search warns."""


@dataclass(frozen=True)
class Reliability:
    """How well single accuracies tell candidates apart.

    Attributes:
        reliability: The share of the variance that lies between candidates, in [0, 1].
        low: The lower end of the 95 % interval.
        high: The upper end of the 95 % interval.
        noise: The standard deviation between seeds.
        between: The standard deviation between candidates.
        mean: The mean accuracy.
        networks: How many candidates it was estimated from.
        evaluations: How many accuracies it was estimated from.
    """

    reliability: float
    low: float
    high: float
    noise: float
    between: float
    mean: float
    networks: int
    evaluations: int

    def __str__(self) -> str:
        return f"{self.reliability:.2f} ({self.low:.2f} to {self.high:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reliability:
        """Return the reliability of a mapping that contains its fields."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def times_for(self, wanted: float) -> int:
        """Return how many evaluations' mean has the reliability `wanted` (Spearman 1910, Brown 1910); at most 1000."""
        if self.reliability >= wanted:
            return 1
        if self.reliability <= 0:
            return 1000
        return min(1000, ceil(wanted * (1 - self.reliability) / (self.reliability * (1 - wanted)) - 1e-9))


def measure_reliability(groups: Sequence[Sequence[float]]) -> Reliability | None:
    """Return the reliability of the accuracies of candidates, by restricted maximum likelihood.

    The interval holds all ratios of the variances that a likelihood-ratio test at 5 % does not reject. If candidates
    do not differ at all, the reliability is 0, and the interval is everything.

    Args:
        groups: The accuracies of each candidate. They may differ in number.

    Returns:
        The reliability; None if there are fewer than three candidates, or if none was evaluated twice.
    """
    model = fit(groups)
    if model is None or len(groups) < 3:
        return None
    networks, evaluations = len(groups), sum(map(len, groups))
    facts = {"mean": model.mean, "networks": networks, "evaluations": evaluations}
    if model.noise == 0:
        value = 1.0 if model.between else 0.0
        return Reliability(value, value, 1.0, 0.0, model.between, **facts)  # type: ignore[arg-type]
    low, high = _interval(groups)
    ratio = (model.between / model.noise) ** 2
    value = ratio / (1 + ratio) if ratio > 0.0101 else 0.0  # 0.01 is the lowest ratio that `fit` knows
    return Reliability(value, min(low, value), max(high, value), model.noise, model.between, **facts)  # type: ignore[arg-type]


def _interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the ends of the likelihood-ratio interval of the reliability."""
    from scipy.stats import f

    found = deviances(groups, RATIOS)
    bound = f.ppf(
        CONFIDENCE, 1, found.free
    )  # chi-squared for many values; wider for few, which it would cover too rarely
    kept = RATIOS[found.deviance <= found.deviance.min() + bound]
    low, high = float(kept[0]), float(kept[-1])
    return (0.0 if low == RATIOS[0] else low / (1 + low)), (1.0 if high == RATIOS[-1] else high / (1 + high))


def rivals(model: NoiseModel, accuracies: Mapping[str, Sequence[float]], winner: str) -> list[str]:
    """Return the candidates that may be as accurate as the winner, given the noise; without the winner itself.

    A candidate counts if the probability that its true accuracy is at least the winner's is above 5 %.

    Args:
        model: The noise of the evaluations.
        accuracies: The accuracies of each candidate, by digest.
        winner: The digest of the winner.
    """
    from scipy.stats import norm

    def variance(count: int) -> float:
        if model.noise == 0:
            return 0.0
        return 1 / (1 / model.between**2 + count / model.noise**2) if model.between else 0.0

    best, bound = model.estimate(accuracies[winner]), float(norm.ppf(0.95))
    own = variance(len(accuracies[winner]))
    return [
        digest
        for digest, values in accuracies.items()
        if digest != winner and best - model.estimate(values) <= bound * sqrt(own + variance(len(values)))
    ]
