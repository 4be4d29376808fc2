"""The embedded data set: handwritten digits of several sizes on dark, noisy canvases. It needs no download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from nas.training.detection.boxes import Array, BoxData, Boxes, BoxSplit
from nas.training.tasks.splits import SPLIT_SEED, Split, split_validation, stratified

COUNTS = (600, 150, 150)
"""Canvases for training, validation and test."""
CANVAS_PX = (96, 128)
"""The smallest and the largest side of a canvas."""
DIGIT_PX = (12, 48)
"""The smallest and the largest side of a digit with its margin."""
MOST_DIGITS = 5
MOST_COVERED = 0.35
"""The largest share of the smaller of two boxes that the other covers. Their IoU is then below 0.22."""
NOISE, INK = 40, 48
"""Gray values: those of the background are below NOISE. A box is tight around the pixels of a digit from INK on."""
ATTEMPTS = 20
"""Places that are tried for a digit before it is left out."""


@lru_cache(maxsize=1)
def digit_canvases() -> BoxData:
    """Return 600 training, 150 validation and 150 test canvases of scikit-learn's digits.

    A canvas has 0 to 5 digits, which are the 10 classes. The parts have no digit image in common.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    whole = Split(list(digits.images / 16.0), tuple(int(label) for label in digits.target))
    rest, test = stratified(whole.labels, 0.2)
    train, validation = split_validation(whole.take(rest))
    train_set, validation_set, test_set = (
        _canvases(part.images, part.labels, count, seed)
        for seed, (part, count) in enumerate(zip((train, validation, whole.take(test)), COUNTS, strict=True))
    )
    names = tuple("0123456789")
    return BoxData("digit_canvases", names, tuple(range(10)), train_set, validation_set, test_set, flip=False)


def _canvases(digits: Any, labels: tuple[int, ...], count: int, seed: int) -> BoxSplit:
    """Return canvases of digits (8, 8) in [0, 1]."""
    generator = np.random.default_rng((SPLIT_SEED, seed))
    images, boxes, sizes, first_id = [], [], [], 1
    for _ in range(count):
        image, each = _canvas(digits, labels, generator, first_id)
        first_id += len(each)
        images.append(image)
        boxes.append(each)
        sizes.append((image.shape[1], image.shape[0]))
    return BoxSplit(images, tuple(boxes), tuple(sizes))


def _canvas(digits: Any, labels: tuple[int, ...], generator: np.random.Generator, first_id: int) -> tuple[Array, Boxes]:
    """Return a canvas, uint8 (H, W), and its boxes."""
    height, width = generator.integers(CANVAS_PX[0], CANVAS_PX[1] + 1, 2).tolist()
    canvas = generator.integers(0, generator.integers(1, NOISE + 1), (height, width), np.uint8)
    corners: list[list[int]] = []
    classes: list[int] = []
    for _ in range(int(generator.integers(0, MOST_DIGITS + 1))):
        index = int(generator.integers(len(labels)))
        ink = _scaled(digits[index], int(generator.integers(DIGIT_PX[0], DIGIT_PX[1] + 1)), generator)
        place = _place(ink, (height, width), corners, generator)
        if place is None:
            continue
        left, top = place
        below = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
        np.maximum(below, ink, out=below)
        corners.append([left, top, left + ink.shape[1], top + ink.shape[0]])
        classes.append(labels[index])
    ids = np.arange(first_id, first_id + len(classes))
    return canvas, Boxes.of(corners, classes, ids=ids)


def _scaled(digit: Any, side: int, generator: np.random.Generator) -> Array:
    """Return a digit (8, 8) in [0, 1] as gray values uint8 (h, w), cut to its ink. h and w are at most `side`."""
    from PIL import Image

    white = int(generator.integers(160, 256))
    picture = Image.fromarray(np.round(digit * white).astype(np.uint8))
    ink = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    rows, columns = (np.flatnonzero((ink >= INK).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    ink: Array, size: tuple[int, int], corners: list[list[int]], generator: np.random.Generator
) -> tuple[int, int] | None:
    """Return a place (left, top) where a digit covers no other one too much; None if no attempt finds one."""
    for _ in range(ATTEMPTS):
        top, left = (int(generator.integers(0, size[axis] - ink.shape[axis] + 1)) for axis in (0, 1))
        box = [left, top, left + ink.shape[1], top + ink.shape[0]]
        if all(_covered(box, other) <= MOST_COVERED for other in corners):
            return left, top
    return None


def _covered(one: list[int], other: list[int]) -> float:
    """Return the intersection of two boxes x1, y1, x2, y2 as a share of the smaller one."""
    wide, high = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0, wide) * max(0, high) / min(areas)
