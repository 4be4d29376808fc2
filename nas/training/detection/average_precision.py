"""The COCO metric of object detection, computed by faster-coco-eval (Lin et al. 2014, cocoapi).

Boxes are corners x1, y1, x2, y2 in pixels of the original image, because the metric tells small boxes from large ones.
Classes are numbers from 0. The numbers agree with those of pycocotools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from nas.errors import DataError
from nas.networks.blocks.select_boxes import overlaps

SIZES = ("small", "medium", "large")
"""The sizes of boxes, as the metric names them."""
SIZE_LIMITS = (32**2, 96**2)
"""A box with fewer square pixels than the first is small, than the second medium. The metric counts a box with exactly
so many square pixels in both sizes."""
MOST_DETECTIONS = 100
"""Of each image, only so many detections with the highest scores count."""
RECALL_POINTS = np.linspace(0, 1, 101)
"""The recalls at which precision is known (101,)."""
SURE_SCORE = 0.3
"""Detections with at least this score find a box. The metric itself has no such limit."""
OVERLAP = 0.5
"""The intersection over union with a detection at which a box is found."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The ground truth of one image. Arrays are numpy arrays or tensors on the CPU.

    Attributes:
        corners: The boxes (N, 4): x1, y1, x2, y2 in pixels of the original image.
        classes: Their classes (N,), from 0.
        crowd: Whether a box is a region that holds many objects (N,). Detections inside are not counted.
        areas: The areas of the objects (N,) in square pixels, which decide their sizes.
        width: The width of the original image in pixels.
        height: Its height in pixels.
    """

    corners: Any
    classes: Any
    crowd: Any
    areas: Any
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Found:
    """The detections in one image. Arrays are numpy arrays or tensors on the CPU.

    Attributes:
        corners: The boxes (M, 4): x1, y1, x2, y2 in pixels of the original image.
        scores: Their scores (M,).
        classes: Their classes (M,), from 0.
    """

    corners: Any
    scores: Any
    classes: Any


@dataclass(frozen=True)
class Precision:
    """The COCO metric of a detector. Every value is in [0, 1].

    The values of a size are None if no box has this size. So are those of a class without boxes. Crowd regions are no
    boxes.

    Attributes:
        ap: The average precision: the mean over the IoUs 0.5, 0.55, ..., 0.95 and over the classes.
        ap50: The average precision at an IoU of 0.5.
        ap75: The average precision at an IoU of 0.75.
        ap_small: The average precision of boxes of less than 32 x 32 pixels.
        ap_medium: The average precision of boxes in between.
        ap_large: The average precision of boxes of more than 96 x 96 pixels.
        ar1: The average recall with one detection of each class per image.
        ar10: The average recall with 10 detections of each class per image.
        ar100: The average recall with all detections that count.
        ar_small: The average recall of small boxes.
        ar_medium: The average recall of medium boxes.
        ar_large: The average recall of large boxes.
        by_class: The average precision of each class.
        by_class_50: The average precision of each class at an IoU of 0.5.
        images: The number of images.
        boxes_by_class: The number of boxes of each class.
        boxes_by_size: The number of boxes of each of `SIZES`.
        found_by_size: How many of them were found: by a detection of the same class with a score of at least 0.3 and an
            IoU of at least 0.5. A detection finds one box.
        curve: The precision (101,) at `RECALL_POINTS` at an IoU of 0.5, as the mean of the classes with boxes.
        class_curves: The same for each class with boxes.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float
    ar10: float
    ar100: float
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    by_class: dict[str, float | None]
    by_class_50: dict[str, float | None]
    images: int
    boxes_by_class: dict[str, int]
    boxes_by_size: dict[str, int]
    found_by_size: dict[str, int]
    curve: Any = field(repr=False, compare=False)
    class_curves: dict[str, Any] = field(repr=False, compare=False)


def average_precision(truth: Sequence[Truth], found: Sequence[Found], classes: tuple[str, ...]) -> Precision:
    """Return the COCO metric of the detections in a set of images.

    Only the 100 detections of an image with the highest scores count. Detections that are not finite numbers do not
    count. An image without boxes is a negative: detections in it are wrong.

    Args:
        truth: The ground truth of each image.
        found: The detections in each image, in the same order.
        classes: The names of the classes.

    Raises:
        DataError: No image has a box that is not a crowd region.
    """
    truth = [_as_arrays(each) for each in truth]
    found = [_counted(each) for each in found]
    if all(each.crowd.all() for each in truth):
        raise DataError("the average precision needs at least one image with a box that is not a crowd region")
    precision, recall = _evaluated(truth, found, classes)
    valid = {name: curve for name, curve in zip(classes, precision[0, :, :, 0].T, strict=True) if curve[0] > -1}
    return Precision(
        by_class={name: _mean(precision[:, :, index, 0]) for index, name in enumerate(classes)},
        by_class_50={name: _mean(precision[0, :, index, 0]) for index, name in enumerate(classes)},
        images=len(truth),
        curve=np.mean(list(valid.values()), axis=0),
        class_curves=valid,
        **_means(precision, recall),
        **_counts(truth, found, classes),
    )


def size_of(area: float) -> str:
    """Return which of `SIZES` an area in square pixels is."""
    return SIZES[sum(area >= limit for limit in SIZE_LIMITS)]


def _as_arrays(truth: Truth) -> Truth:
    return replace(
        truth,
        corners=np.asarray(truth.corners, np.float64).reshape(-1, 4),
        classes=np.asarray(truth.classes, np.int64),
        crowd=np.asarray(truth.crowd, np.bool_),
        areas=np.asarray(truth.areas, np.float64),
    )


def _counted(found: Found) -> Found:
    """Return the detections that count as arrays, by falling score. Equal scores keep their order."""
    corners = np.asarray(found.corners, np.float64).reshape(-1, 4)
    scores, classes = np.asarray(found.scores, np.float64), np.asarray(found.classes, np.int64)
    finite = np.flatnonzero(np.isfinite(scores) & np.isfinite(corners).all(1))
    best = finite[np.argsort(-scores[finite], kind="stable")[:MOST_DETECTIONS]]
    return Found(corners[best], scores[best], classes[best])


def _evaluated(truth: Sequence[Truth], found: Sequence[Found], classes: tuple[str, ...]) -> tuple[Any, Any]:
    """Return precisions (IoUs, recalls, classes, sizes) and recalls (IoUs, classes, sizes, detections).

    The first size is all boxes. Values without ground truth are -1.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": number, "width": each.width, "height": each.height} for number, each in enumerate(truth, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    indices = []
    for rows in (_truth_annotations(truth), _found_annotations(found)):
        index = COCO(print_function=_say_nothing)
        index.dataset = {"images": images, "categories": categories, "annotations": rows}
        index.createIndex()
        indices.append(index)
    evaluation = COCOeval_faster(*indices, iouType="bbox", print_function=_say_nothing)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1], np.asarray(evaluation.eval["recall"])


def _truth_annotations(truth: Sequence[Truth]) -> list[dict[str, Any]]:
    """Return boxes in COCO's format. Their ids begin with 1, because cocoapi takes the id 0 for "not matched"."""
    ids = count(1)
    return [
        {"id": next(ids), "image_id": number, "category_id": label, "bbox": box, "iscrowd": crowd, "area": area}
        for number, each in enumerate(truth, 1)
        for label, box, crowd, area in zip(
            (each.classes + 1).tolist(),
            _boxes(each.corners),
            each.crowd.astype(int).tolist(),
            each.areas.tolist(),
            strict=True,
        )
    ]


def _found_annotations(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return detections in COCO's format."""
    ids = count(1)
    return [
        {
            "id": next(ids),
            "image_id": number,
            "category_id": label,
            "bbox": box,
            "score": score,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, each in enumerate(found, 1)
        for label, box, score in zip(
            (each.classes + 1).tolist(), _boxes(each.corners), each.scores.tolist(), strict=True
        )
    ]


def _boxes(corners: Any) -> list[list[float]]:
    """Return corners (N, 4) as lists of left edge, top edge, width and height."""
    boxes: list[list[float]] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
    return boxes


def _say_nothing(*_: object) -> None:
    """Take the place of print."""


def _means(precision: Any, recall: Any) -> dict[str, Any]:
    """Return the twelve numbers of COCO from the arrays of `_evaluated`."""
    parts = {
        "ap": precision[..., 0],
        "ap50": precision[0, ..., 0],
        "ap75": precision[5, ..., 0],
        **{f"ap_{size}": precision[..., index] for index, size in enumerate(SIZES, 1)},
        **{f"ar{most}": recall[:, :, 0, index] for index, most in enumerate((1, 10, MOST_DETECTIONS))},
        **{f"ar_{size}": recall[:, :, index, -1] for index, size in enumerate(SIZES, 1)},
    }
    return {name: _mean(values) for name, values in parts.items()}


def _mean(values: Any) -> float | None:
    """Return the mean of the values that exist; None if none does."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None


def _counts(truth: Sequence[Truth], found: Sequence[Found], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the counts of boxes, which are no crowd regions, by class and by size."""
    labels, boxes, hits = Counter[int](), Counter[str](), Counter[str]()
    for true, detections in zip(truth, found, strict=True):
        sizes = [size_of(area) for area in true.areas]
        is_box = ~true.crowd
        labels.update(true.classes[is_box].tolist())
        boxes.update(sizes[index] for index in np.flatnonzero(is_box))
        hits.update(sizes[index] for index in np.flatnonzero(_is_found(true, detections)))
    return {
        "boxes_by_class": {name: labels[index] for index, name in enumerate(classes)},
        "boxes_by_size": {size: boxes[size] for size in SIZES},
        "found_by_size": {size: hits[size] for size in SIZES},
    }


def _is_found(truth: Truth, found: Found) -> Any:
    """Return which boxes of an image are found, bool (N,). The detections choose in the order of their scores."""
    is_found = np.zeros(len(truth.classes), np.bool_)
    is_sure = found.scores >= SURE_SCORE
    corners = (torch.from_numpy(each)[None] for each in (truth.corners, found.corners[is_sure]))
    ious = overlaps(*corners)[0].numpy()
    ious[truth.crowd] = 0
    ious[truth.classes[:, None] != found.classes[is_sure]] = 0
    for column in np.flatnonzero((ious >= OVERLAP).any(0)):
        free = np.where(is_found, 0, ious[:, column])
        is_found[free.argmax()] |= free.max() >= OVERLAP
    return is_found
