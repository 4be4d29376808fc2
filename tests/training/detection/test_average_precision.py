"""The COCO metric against pycocotools, and the cases in which implementations of it go wrong."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nas.errors import DataError
from nas.training.detection.average_precision import Found, Precision, Truth, average_precision

NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
SIZE = 400


def truth_of(corners: Any, classes: Any = None, crowd: Any = None, areas: Any = None) -> Truth:
    corners = np.asarray(corners, float).reshape(-1, 4)
    number = len(corners)
    return Truth(
        corners,
        np.zeros(number, int) if classes is None else np.asarray(classes, int),
        np.zeros(number, bool) if crowd is None else np.asarray(crowd, bool),
        (corners[:, 2:] - corners[:, :2]).prod(1) if areas is None else np.asarray(areas, float),
        SIZE,
        SIZE,
    )


def found_of(corners: Any, scores: Any = None, classes: Any = None) -> Found:
    corners = np.asarray(corners, float).reshape(-1, 4)
    number = len(corners)
    return Found(
        corners,
        np.full(number, 0.9) if scores is None else np.asarray(scores, float),
        np.zeros(number, int) if classes is None else np.asarray(classes, int),
    )


def perfect(truth: Truth) -> Found:
    return found_of(truth.corners[~truth.crowd], classes=truth.classes[~truth.crowd])


def random_corners(random: Any, count: int) -> Any:
    """Boxes from less than a pixel to larger than the image."""
    sides = np.exp(random.uniform(np.log(0.5), np.log(500), (count, 2)))
    corner = random.uniform(-20, SIZE - 20, (count, 2))
    return np.concatenate([corner, corner + sides], 1)


def random_images(seed: int, images: int = 40, classes: int = 5) -> tuple[list[Truth], list[Found]]:
    """Images with crowds, images without boxes, images without detections, many equal scores, and near misses."""
    random = np.random.default_rng(seed)
    truths, founds = [], []
    for _ in range(images):
        number = int(random.choice([0, 1, 3, 12]))
        corners, labels = random_corners(random, number), random.integers(0, classes - 1, number)
        areas = (corners[:, 2:] - corners[:, :2]).prod(1) * random.choice([1.0, 0.6], number)
        truths.append(truth_of(corners, labels, random.random(number) < 0.15, areas))
        near = np.repeat(corners, 2, 0) + random.normal(0, 4, (2 * number, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.1)
        wrong = int(random.choice([0, 2, 40]))
        boxes = np.concatenate([corners, near, random_corners(random, wrong)])
        picked = random.random(len(boxes)) < 0.7
        guessed = np.concatenate([labels, np.repeat(labels, 2), random.integers(0, classes, wrong)])
        scores = random.integers(0, 8, len(boxes)) / 8
        founds.append(found_of(boxes[picked], scores[picked], guessed[picked]))
    return truths, founds


def arbiter(truths: list[Truth], founds: list[Found], classes: int, first_id: int = 1) -> list[float]:
    """Return the twelve numbers of pycocotools; -1 for what does not exist."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    boxes: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (true, found) in enumerate(zip(truths, founds, strict=True), 1):
        for (x1, y1, x2, y2), label, crowd, area in rows(true, "corners", "classes", "crowd", "areas"):
            boxes.append({"id": len(boxes) + first_id, "image_id": number, "category_id": label + 1, "area": area,
                          "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(crowd)})  # fmt: skip
        for (x1, y1, x2, y2), score, label in rows(found, "corners", "scores", "classes"):
            results.append({"image_id": number, "category_id": label + 1, "score": score,
                            "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        index = coco.COCO()
        index.dataset = {
            "images": [{"id": number + 1, "width": SIZE, "height": SIZE} for number in range(len(truths))],
            "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
            "annotations": boxes,
        }
        index.createIndex()
        evaluator = evaluation.COCOeval(index, index.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats)


def rows(arrays: Truth | Found, *names: str) -> Any:
    return zip(*(getattr(arrays, name).tolist() for name in names), strict=True)


def numbers_of(precision: Precision) -> list[float]:
    values = [getattr(precision, name) for name in NUMBERS]
    return [-1 if value is None else value for value in values]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


@pytest.mark.parametrize("seed", range(8))
def test_the_twelve_numbers_are_those_of_pycocotools(seed: int) -> None:
    truths, founds = random_images(seed)
    assert max(len(found.scores) for found in founds) <= 100
    ours = numbers_of(average_precision(truths, founds, names(5)))
    assert ours == pytest.approx(arbiter(truths, founds, 5), abs=1e-6)
    assert 0.05 < ours[0] < 0.95


def test_one_size_and_one_class_agree_with_pycocotools() -> None:
    truths, founds = random_images(100, classes=2)
    small = [(true, found) for true, found in zip(truths, founds, strict=True) if (true.areas < 90**2).all()]
    truths, founds = [true for true, _ in small], [found for _, found in small]
    result = average_precision(truths, founds, names(2))
    assert numbers_of(result) == pytest.approx(arbiter(truths, founds, 2), abs=1e-6)
    assert result.ap_large is None and result.ar_large is None
    assert result.boxes_by_size["large"] == 0
    assert result.by_class["class 1"] is None and result.by_class_50["class 1"] is None
    assert result.boxes_by_class["class 1"] == 0
    assert result.by_class["class 0"] == pytest.approx(result.ap)
    assert set(result.class_curves) == {"class 0"}


def test_boxes_of_exactly_a_limit_of_size_agree_with_pycocotools() -> None:
    truths = [truth_of([[0, 0, 32, 32], [100, 100, 196, 196]])]
    founds = [found_of([[0, 0, 32, 30], [100, 100, 196, 196]])]
    result = average_precision(truths, founds, ("cell",))
    assert numbers_of(result) == pytest.approx(arbiter(truths, founds, 1), abs=1e-6)
    assert result.boxes_by_size == {"small": 0, "medium": 1, "large": 1}


def test_perfect_detections_have_a_precision_of_1() -> None:
    truths, _ = random_images(3)
    result = average_precision(truths, [perfect(truth) for truth in truths], names(5))
    assert (result.ap, result.ap50, result.ap75, result.ar100) == (1, 1, 1, 1)
    assert result.by_class == {**dict.fromkeys(names(4), 1.0), "class 4": None}
    assert result.curve.shape == (101,) and (result.curve == 1).all()
    assert result.found_by_size == result.boxes_by_size
    assert sum(result.boxes_by_class.values()) == sum(result.boxes_by_size.values())
    assert result.images == len(truths)


def test_the_first_box_counts() -> None:
    """With annotation ids from 0, pycocotools takes the first box for one that was not matched (cocoapi 507)."""
    truths = [truth_of([[10, 10, 60, 60], [100, 100, 180, 180]])]
    founds = [perfect(truths[0])]
    assert average_precision(truths, founds, ("cell",)).ap == 1
    assert arbiter(truths, founds, 1)[0] == pytest.approx(1)
    assert arbiter(truths, founds, 1, first_id=0)[0] < 0.9


def test_no_detections_have_a_precision_of_0() -> None:
    truths, _ = random_images(4)
    result = average_precision(truths, [found_of([])] * len(truths), names(5))
    assert numbers_of(result) == [0] * 12
    assert set(result.found_by_size.values()) == {0}
    assert not result.curve.any()
    empty = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert average_precision(truths, [empty] * len(truths), names(5)).ap == 0


@pytest.mark.parametrize("truths", [[], [truth_of([])], [truth_of([[0, 0, 9, 9]], crowd=[True]), truth_of([])]])
def test_no_ground_truth_is_an_error(truths: list[Truth]) -> None:
    with pytest.raises(DataError) as caught:
        average_precision(truths, [found_of([[0, 0, 9, 9]])] * len(truths), ("cell",))
    assert "box" in caught.value.rule


def test_false_positives_in_an_image_without_boxes_lower_the_precision() -> None:
    truth = truth_of([[10, 10, 60, 60], [100, 100, 180, 180]])
    sure, unsure = found_of([[0, 0, 50, 50]], [0.95]), found_of([[0, 0, 50, 50]], [0.1])
    alone = average_precision([truth], [perfect(truth)], ("cell",)).ap
    with_sure = average_precision([truth_of([]), truth], [sure, perfect(truth)], ("cell",)).ap
    with_unsure = average_precision([truth_of([]), truth], [unsure, perfect(truth)], ("cell",)).ap
    assert with_sure < with_unsure == alone == 1


def test_the_order_of_the_classes_decides_their_names_only() -> None:
    truths, founds = random_images(5)
    turn = np.array([3, 1, 4, 0, 2])
    turned = average_precision(
        [truth_of(each.corners, turn[each.classes], each.crowd, each.areas) for each in truths],
        [found_of(each.corners, each.scores, turn[each.classes]) for each in founds],
        ("d", "b", "e", "a", "c"),
    )
    plain = average_precision(truths, founds, ("a", "b", "c", "d", "e"))
    # The new class 0 was class 3. So the name of class 0 is that of the old class 3.
    expected = {name: plain.by_class[name] for name in "abcde"}
    assert turned.by_class == {name: pytest.approx(value) for name, value in expected.items()}
    assert turned.boxes_by_class == plain.boxes_by_class
    assert turned.ap == pytest.approx(plain.ap)


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    truth = truth_of([[10, 10, 60, 60], [100, 100, 300, 300]], crowd=[False, True])
    found = found_of([[110, 110, 150, 150], [200, 200, 260, 260], [10, 10, 60, 60]], [0.9, 0.8, 0.5])
    result = average_precision([truth], [found], ("cell",))
    assert result.ap == 1
    assert result.boxes_by_size == {"small": 0, "medium": 1, "large": 0}


def test_only_the_best_100_detections_of_an_image_count() -> None:
    truth = truth_of([[10, 10, 60, 60]])
    others = np.tile([200.0, 200, 220, 220], (100, 1))
    boxes = np.concatenate([others[:99], truth.corners, others])
    late = np.concatenate([np.full(99, 0.9), [0.5], np.full(100, 0.1)])
    assert average_precision([truth], [found_of(boxes, late)], ("cell",)).ar100 == 1
    early = np.concatenate([np.full(99, 0.9), [0.5], np.full(100, 0.6)])
    assert average_precision([truth], [found_of(boxes, early)], ("cell",)).ar100 == 0
    other_class = np.concatenate([np.ones(99), [0], np.ones(100)])
    assert average_precision([truth], [found_of(boxes, early, other_class)], names(2)).ar100 == 0


def test_detections_that_are_no_numbers_do_not_count() -> None:
    truth = truth_of([[10, 10, 60, 60]])
    boxes = [[10, 10, 60, 60], [np.nan, 0, 9, 9], [10, 10, np.inf, 60], [10, 10, 60, 60]]
    result = average_precision([truth], [found_of(boxes, [np.nan, 0.9, 0.9, 0.4])], ("cell",))
    assert result.ap == 1


def test_a_box_is_found_by_one_sure_detection_of_its_class() -> None:
    truth = truth_of([[0, 0, 20, 20], [50, 50, 100, 100], [52, 50, 102, 100], [200, 200, 399, 399]], [0, 1, 1, 0])
    boxes = [[0, 0, 20, 20], [51, 50, 101, 100], [200, 200, 399, 399]]
    sure = average_precision([truth], [found_of(boxes, [0.3, 0.9, 0.9], [0, 1, 1])], names(2))
    assert sure.boxes_by_size == {"small": 1, "medium": 2, "large": 1}
    assert sure.found_by_size == {"small": 1, "medium": 1, "large": 0}
    unsure = average_precision([truth], [found_of(boxes, [0.29, 0.9, 0.9], [0, 1, 0])], names(2))
    assert unsure.found_by_size == {"small": 0, "medium": 1, "large": 1}


def test_the_curve_is_the_mean_of_the_curves_of_the_classes() -> None:
    result = average_precision(*random_images(6), names(5))
    curves = np.stack(list(result.class_curves.values()))
    assert set(result.class_curves) == set(names(4))
    assert result.curve == pytest.approx(curves.mean(0))
    assert result.ap50 == pytest.approx(result.curve.mean())
    assert result.by_class_50["class 2"] == pytest.approx(result.class_curves["class 2"].mean())
    assert (np.diff(curves, axis=1) <= 0).all()


def test_tensors_give_the_same_as_arrays() -> None:
    truths, founds = random_images(7)

    def as_tensors(each: Any) -> Any:
        return replace(each, **{name: torch.as_tensor(value) for name, value in vars(each).items()})

    ours = average_precision([as_tensors(each) for each in truths], [as_tensors(each) for each in founds], names(5))
    assert ours == average_precision(truths, founds, names(5))


@pytest.mark.filterwarnings("error")
def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        average_precision(*random_images(8), names(5))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
