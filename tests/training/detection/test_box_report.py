"""The report of a test of a detector: its numbers, its warnings and its plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.training.detection.average_precision import Found, Precision, Truth, average_precision
from nas.training.detection.box_report import BoxReport
from nas.training.tasks.base import Report
from nas.utils.reporting import Reporter


def precision_of(boxes: list[tuple[int, int, float]], classes: tuple[str, ...]) -> Precision:
    """Return the metric of images with one box each: its class, its side in pixels, and the score of its detection.

    A detection with a score of 0 does not exist.
    """
    truths, founds = [], []
    for label, side, score in boxes:
        corners, labels = np.array([[5, 5, 5 + side, 5 + side]], float), np.array([label])
        truths.append(Truth(corners, labels, np.zeros(1, bool), np.array([float(side * side)]), 300, 300))
        count = 1 if score else 0
        founds.append(Found(corners[:count], np.array([score])[:count], labels[:count]))
    return average_precision(truths, founds, classes)


ONE_MISSED = precision_of([(0, 20, 0.9)] * 10 + [(1, 50, 0.9)] * 2 + [(1, 50, 0)] * 10, ("cell", "rare"))


def warnings_of(precision: Precision, capsys: pytest.CaptureFixture[str]) -> list[str]:
    BoxReport("AP", precision).warn(Reporter())
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("metric", ["AP", "AP50"])
def test_the_report_holds_its_metric(metric: str) -> None:
    report: Report = BoxReport(metric, ONE_MISSED)
    result = json.loads(json.dumps(report.to_dict()))
    assert result["metric"] == report.metric == metric
    assert result[f"test_{metric}"] == report.metric_value
    assert 0 < report.metric_value < 1
    assert report.accuracy is None


def test_the_report_holds_classes_and_sizes() -> None:
    result = BoxReport("AP", ONE_MISSED).to_dict()
    assert result["test_images"] == 22
    assert result["test_AP_small"] == 1
    assert result["test_AP_large"] is None
    assert result["by_class"]["cell"] == {"AP": 1, "AP50": 1, "boxes": 10}
    assert result["by_class"]["rare"]["AP"] == pytest.approx(17 / 101)
    assert result["by_size"] == {
        "small": {"boxes": 10, "found": 10},
        "medium": {"boxes": 12, "found": 2},
        "large": {"boxes": 0, "found": 0},
    }


def test_classes_far_below_the_mean_and_missed_sizes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    classes, sizes = warnings_of(ONE_MISSED, capsys)
    assert "the AP of 58.4% hides classes that are hardly detected: 'rare' (16.8%, 12 boxes)" in classes
    assert "missed: medium (2 of 12 found, 32 x 32 to 96 x 96 pixels)" in sizes


def test_many_bad_classes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [(label, 50, 0.9 if label < 6 else 0) for label in range(10) for _ in range(5)]
    (line,) = warnings_of(precision_of(boxes, tuple("abcdefghij")), capsys)
    assert "'g' (0.0%, 5 boxes), 'h' (0.0%, 5 boxes), 'i' (0.0%, 5 boxes) and 1 more" in line


def test_few_boxes_and_good_detectors_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert not warnings_of(precision_of([(0, 20, 0.9)] * 10 + [(1, 50, 0)] * 4, ("cell", "rare")), capsys)
    assert not warnings_of(precision_of([(0, 20, 0.9)] * 10, ("cell", "none")), capsys)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [1, 2, 10, 30])
def test_the_plot_is_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    boxes: list[tuple[int, int, Any]] = [(label, 50, 0.9 - label / 50) for label in range(classes)]
    names = ("$_$", *(f"\u65e5 {number}" for number in range(classes)))  # one more class than there are boxes
    BoxReport("AP", precision_of(boxes, names)).draw("net on $_$", tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as image:
        assert min(image.size) > 400


@pytest.mark.filterwarnings("error")
def test_a_detector_without_detections_is_drawn(tmp_path: Path) -> None:
    BoxReport("AP", precision_of([(0, 50, 0)], ("cell",))).draw("net", tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 1000
