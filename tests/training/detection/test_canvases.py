"""The embedded canvases: deterministic, with tight boxes, and with no digit in two parts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nas.training.detection.boxes import BoxData, BoxSplit
from nas.training.detection.canvases import CANVAS_PX, DIGIT_PX, INK, MOST_COVERED, digit_canvases


@pytest.fixture(scope="module")
def data() -> BoxData:
    return digit_canvases()


def parts(data: BoxData) -> tuple[BoxSplit, ...]:
    return data.train, data.validation, data.test


def digest(data: BoxData) -> str:
    result = hashlib.sha256()
    for split in parts(data):
        for image, boxes in zip(split.images, split.boxes, strict=True):
            result.update(image.tobytes() + boxes.corners.tobytes() + boxes.classes.tobytes())
    return result.hexdigest()


def test_sizes_and_classes(data: BoxData) -> None:
    assert [len(split) for split in parts(data)] == [600, 150, 150]
    assert data.classes == tuple("0123456789")
    assert data.category_ids == tuple(range(10))
    assert not data.flip
    for split in parts(data):
        assert (split.class_counts(10) > 15).all()
        assert 0.1 < split.negatives / len(split) < 0.25
        assert max(map(len, split.boxes)) == 5


def test_images_are_gray_and_boxes_lie_in_them(data: BoxData) -> None:
    for split in parts(data):
        for image, boxes, size in zip(split.images, split.boxes, split.sizes, strict=True):
            assert image.dtype == np.uint8
            assert image.shape == size[::-1]
            assert all(CANVAS_PX[0] <= side <= CANVAS_PX[1] for side in size)
            assert (boxes.corners >= 0).all()
            assert (boxes.corners[:, 2:] <= size).all()
            sides = boxes.corners[:, 2:] - boxes.corners[:, :2]
            assert (sides >= 2).all()
            assert (sides <= DIGIT_PX[1]).all()


def test_boxes_are_tight_around_the_ink(data: BoxData) -> None:
    alone = [index for index, boxes in enumerate(data.train.boxes) if len(boxes) == 1]
    assert len(alone) > 50
    for index in alone:
        rows, columns = np.nonzero(data.train.images[index] >= INK)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert data.train.boxes[index].corners.tolist() == [corners]


def test_overlaps_are_moderate(data: BoxData) -> None:
    largest = 0.0
    for boxes in data.train.boxes:
        for first in range(len(boxes)):
            one, others = boxes.corners[first], boxes.corners[first + 1 :]
            sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
            both = np.prod(np.clip(sides, 0, None), axis=1)
            smaller = np.minimum(boxes.areas[first], boxes.areas[first + 1 :])
            largest = max(largest, *(both / smaller), 0.0)
    assert 0.3 < largest <= MOST_COVERED + 1e-6


def test_the_canvases_are_always_the_same(data: BoxData) -> None:
    np.random.seed(3)
    digit_canvases.cache_clear()
    assert digest(digit_canvases()) == digest(data)


def test_ids_are_unique(data: BoxData) -> None:
    for split in parts(data):
        ids = np.concatenate([boxes.ids for boxes in split.boxes])
        assert ids.tolist() == list(range(1, len(ids) + 1))
