"""Paired test: the difference between two networks on the same test images, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from nas.training.detection.box_report import BoxReport
from nas.training.tasks.base import Report
from nas.training.tasks.class_report import ClassReport
from nas.training.tasks.metrics import METRICS

CONFIDENCE = 0.95
RESAMPLES = 500
"""Samples of the paired bootstrap."""
GROUPS, LEAST_GROUPS = 10, 4
"""Groups of the test images of detectors, and how many must have boxes."""


@dataclass(frozen=True)
class Difference:
    """The difference between two networks in a metric, from 0 to 1.

    Attributes:
        mean: The metric of the winner minus that of the reference, as a mean over the seeds.
        plus_minus: Half the width of the 95 % confidence interval; None if the predictions are not known.
        basis: What the interval covers, in words.
    """

    mean: float
    plus_minus: float | None
    basis: str


def paired_difference(winner: Sequence[Report], reference: Sequence[Report]) -> Difference:
    """Return the difference between two networks that were tested on the same images.

    The interval covers the choice of the test images, because both networks saw the same ones. For the accuracy of
    one seed it is the interval of Agresti and Min (2005) for paired proportions, on which McNemar's test is based. For
    other metrics the images are drawn again (paired bootstrap). The average precision of detectors is computed on
    random groups of the images, whose differences have a deviation (Wolter 2007, chapter 2): drawing images again
    would take minutes. With several seeds the interval also covers their deviation.

    Args:
        winner: The tests of the winner, one for each seed.
        reference: The tests of the reference with the same seeds.
    """
    from scipy.stats import norm

    values = [one.metric_value - other.metric_value for one, other in zip(winner, reference, strict=True)]
    mean, seeds = fmean(values), len(values)
    if all(isinstance(report, BoxReport) for report in (*winner, *reference)):
        return _of_detectors(winner, reference, values)
    pairs = [(_pairs(one), _pairs(other)) for one, other in zip(winner, reference, strict=True)]
    known = [(one, other) for one, other in pairs if one is not None and other is not None and len(one) == len(other)]
    if len(known) < seeds:
        return Difference(mean, None, "the predictions of the test images are not known")
    assert isinstance(winner[0], ClassReport)
    images, classes = len(known[0][0]), len(winner[0].classes)
    if winner[0].metric == "accuracy":
        deviation, method = _deviation_of_accuracy(known, classes), "paired test (McNemar)"
    else:
        deviation, method = _bootstrap_deviation(known, classes, winner[0].metric), "paired bootstrap"
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * deviation
    return _with_seeds(values, half, f"95% interval of a {method} on the same {images} test images")


def _with_seeds(values: Sequence[float], half: float, basis: str) -> Difference:
    """Return the difference as a mean over seeds. `half` is half the width of the interval over the images."""
    from scipy.stats import t

    mean, seeds = fmean(values), len(values)
    if seeds == 1:
        return Difference(mean, half, f"{basis}; one seed each, without the deviation between seeds")
    of_seeds = float(t.ppf(0.5 + CONFIDENCE / 2, seeds - 1)) * stdev(values) / sqrt(seeds)
    return Difference(mean, sqrt(half**2 + of_seeds**2), f"{basis} and of the deviation between {seeds} seeds")


def _of_detectors(winner: Sequence[Any], reference: Sequence[Any], values: Sequence[float]) -> Difference:
    """Return the difference of detectors; its interval is that of the differences in groups of the images."""
    from scipy.stats import t

    pairs = [(one.of_groups(GROUPS), other.of_groups(GROUPS)) for one, other in zip(winner, reference, strict=True)]
    if any(side is None for pair in pairs for side in pair):
        return Difference(fmean(values), None, "the detections in the test images are not known")
    each = [[one[group] - other[group] for one, other in pairs if one[group] is not None] for group in range(GROUPS)]
    differences = [fmean(group) for group in each if group]
    if len(differences) < LEAST_GROUPS:
        return Difference(fmean(values), None, "the test images are too few for an interval")
    count = len(differences)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * stdev(differences) / sqrt(count)
    images = winner[0].precision.images
    return _with_seeds(
        values, half, f"95% interval of the differences in {count} groups of the same {images} test images"
    )


def _pairs(report: Report) -> Tensor | None:
    """Return the true and the predicted class of each image; None if they are not known, or no classes were tested."""
    return report.pairs if isinstance(report, ClassReport) else None


def _deviation_of_accuracy(pairs: Sequence[tuple[Tensor, Tensor]], classes: int) -> float:
    """Return the standard deviation of the difference in accuracy over the choice of the images."""
    each = [_hits(one, classes) - _hits(other, classes) for one, other in pairs]
    differences = torch.stack(each).mean(0)
    images = len(differences)
    if len(pairs) > 1:
        return sqrt(float(differences.var(correction=0)) / images)
    better, worse = float((differences > 0).sum()) + 0.5, float((differences < 0).sum()) + 0.5
    total = images + 2
    return sqrt((better + worse) - (better - worse) ** 2 / total) / total


def _hits(pairs: Tensor, classes: int) -> Tensor:
    """Return 1 for each correctly classified image (N,), else 0."""
    return (pairs // classes == pairs % classes).double()


def _bootstrap_deviation(pairs: Sequence[tuple[Tensor, Tensor]], classes: int, metric: str) -> float:
    """Return the standard deviation of the difference in a metric when the images are drawn again."""
    generator = torch.Generator().manual_seed(0)
    images = len(pairs[0][0])

    def value(of: Tensor) -> float:
        return METRICS[metric](torch.bincount(of, minlength=classes**2).reshape(classes, classes))

    found = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(images, (images,), generator=generator)
        found.append(fmean(value(one[drawn]) - value(other[drawn]) for one, other in pairs))
    return stdev(found)
