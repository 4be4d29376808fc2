"""The paired test: intervals cover the difference that repeated draws of test images show."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch

from nas.searching.against.paired_test import paired_difference
from nas.training.detection.average_precision import Found, Truth, average_precision
from nas.training.detection.box_report import BoxReport
from nas.training.tasks.class_report import ClassReport

CLASSES = ("a", "b", "c")


def report(labels: torch.Tensor, predicted: torch.Tensor, metric: str = "accuracy") -> ClassReport:
    pairs = labels * len(CLASSES) + predicted
    counts = torch.bincount(pairs, minlength=9).reshape(3, 3)
    return ClassReport(metric, CLASSES, counts, pairs)


def drawn(images: int, shares: tuple[float, float], seed: int, metric: str = "accuracy") -> list[ClassReport]:
    """Return the tests of two networks that are right on these shares of the images, the same images for both."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=generator)
    hard = torch.rand(images, generator=generator)  # an image that one finds hard, the other tends to find hard too
    hits = [(hard + 0.2 * torch.rand(images, generator=generator) - 0.1) < share for share in shares]
    return [report(labels, torch.where(hit, labels, (labels + 1) % 3), metric) for hit in hits]


def test_the_difference_of_one_seed_is_a_paired_interval() -> None:
    labels = torch.zeros(100, dtype=torch.long)
    one, other = labels.clone(), labels.clone()
    one[:10], other[6:26] = 1, 1  # 16 images only the first one gets right, 6 only the other
    difference = paired_difference([report(labels, one)], [report(labels, other)])
    assert difference.mean == pytest.approx(0.10)
    better, worse, total = 16.5, 6.5, 102
    expected = 1.959964 * sqrt(better + worse - (better - worse) ** 2 / total) / total
    assert difference.plus_minus == pytest.approx(expected, rel=1e-6)
    assert "100 test images" in difference.basis
    assert "McNemar" in difference.basis


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_interval_covers_the_true_difference(metric: str) -> None:
    truth = paired_difference(*([each] for each in drawn(200_000, (0.8, 0.75), 99)))
    repeats = 100 if metric == "accuracy" else 20
    found = [paired_difference(*([each] for each in drawn(300, (0.8, 0.75), seed, metric))) for seed in range(repeats)]
    covered = [abs(each.mean - truth.mean) <= (each.plus_minus or 0) for each in found]
    assert sum(covered) >= 0.85 * repeats
    widths = [each.plus_minus or 0 for each in found]
    assert max(widths) < 0.06  # unpaired, it would be 0.066


def test_several_seeds_also_cover_their_deviation() -> None:
    tests = [drawn(300, (share, 0.7), seed=1) for share in (0.7, 0.8, 0.9)]
    winner, reference = ([test[place] for test in tests] for place in (0, 1))
    several = paired_difference(winner, reference)
    alone = paired_difference(winner[1:2], reference[1:2])
    assert several.mean == pytest.approx(
        sum(a.metric_value - b.metric_value for a, b in zip(winner, reference, strict=True)) / 3
    )
    assert several.plus_minus is not None
    assert alone.plus_minus is not None
    assert several.plus_minus > 4.3 * 0.09 / sqrt(3) > alone.plus_minus  # Student's t with two degrees of freedom
    assert "3 seeds" in several.basis


def test_equal_predictions_are_not_certain_and_unknown_ones_have_no_interval() -> None:
    one, _ = drawn(50, (0.8, 0.7), 0)
    same = paired_difference([one], [one])
    assert same.mean == 0
    assert 0 < (same.plus_minus or 0) < 0.1
    unknown = paired_difference([one], [ClassReport("accuracy", CLASSES, one.confusion)])
    assert unknown.plus_minus is None
    assert "not known" in unknown.basis


def detectors_on(images: int, jitters: tuple[float, float], seed: int) -> list[BoxReport]:
    """Return the tests of two detectors whose boxes are off by so many pixels, on the same images."""
    rng = np.random.default_rng(seed)
    truth, sides = [], rng.uniform(20, 40, (images, 3, 2))
    for number in range(images):
        corners = np.concatenate([starts := rng.uniform(0, 60, (3, 2)), starts + sides[number]], 1)
        truth.append(Truth(corners, np.arange(3) % 2, np.zeros(3, bool), sides[number].prod(1), 100, 100))
    hard = rng.uniform(0.5, 1.5, images)  # both find the same images hard
    reports = []
    for jitter in jitters:
        found = [
            Found(each.corners + rng.normal(0, jitter * factor, (3, 4)), rng.uniform(0.3, 1, 3), each.classes)
            for each, factor in zip(truth, hard, strict=True)
        ]
        precision = average_precision(truth, found, ("a", "b"))
        reports.append(BoxReport("AP", precision, (range(images), truth, found)))
    return reports


def test_the_interval_of_detectors_covers_the_difference() -> None:
    one, other = detectors_on(1500, (2.0, 2.6), 0)
    expected, covered, widths = one.metric_value - other.metric_value, 0, []
    for seed in range(1, 16):
        first, second = detectors_on(60, (2.0, 2.6), seed)
        difference = paired_difference([first], [second])
        assert difference.plus_minus is not None and "10 groups of the same 60 test images" in difference.basis
        covered += abs(difference.mean - expected) <= difference.plus_minus
        widths.append(difference.plus_minus)
    assert covered >= 12 and max(widths) < 0.2


def test_detectors_with_few_images_or_unknown_detections_have_no_interval() -> None:
    few = detectors_on(3, (2.0, 2.6), 0)
    assert paired_difference(few[:1], few[1:]).plus_minus is None
    unknown = [replace(each, examples=None) for each in detectors_on(20, (2.0, 2.6), 0)]
    assert "not known" in paired_difference(unknown[:1], unknown[1:]).basis
