"""Images with boxes: the ground truth of an image, the parts of a data set, and seeded splits that keep the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import DataError
from nas.training.tasks.splits import SPLIT_SEED, validation_share

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The ground truth of one image with N boxes.

    Attributes:
        corners: x1, y1, x2, y2 in pixels of the original, upright image, float32 (N, 4).
        classes: The number of each box's class, int64 (N,).
        crowd: Whether a box is ignored: a crowd of COCO, or a difficult object of VOC; bool (N,).
        areas: The area of each object in square pixels, as in the file, float32 (N,).
        ids: The ids of the annotations in the file, int64 (N,).
    """

    corners: Array
    classes: Array
    crowd: Array
    areas: Array
    ids: Array

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def of(cls, corners: Any, classes: Any, crowd: Any = None, areas: Any = None, ids: Any = None) -> Boxes:
        """Return boxes of array-likes. By default: no crowds, areas of the boxes, ids from 1."""
        corners = np.asarray(corners, np.float32).reshape(-1, 4)
        sides = corners[:, 2:] - corners[:, :2]
        return cls(
            corners,
            np.asarray(classes, np.int64).reshape(-1),
            np.zeros(len(corners), bool) if crowd is None else np.asarray(crowd, bool).reshape(-1),
            sides[:, 0] * sides[:, 1] if areas is None else np.asarray(areas, np.float32).reshape(-1),
            np.arange(1, len(corners) + 1) if ids is None else np.asarray(ids, np.int64).reshape(-1),
        )


@dataclass(frozen=True, eq=False)
class BoxSplit:
    """Images and their boxes.

    Attributes:
        images: File paths, or uint8 arrays (H, W) or (H, W, 3).
        boxes: The boxes of each image.
        sizes: Width and height of each image in pixels.
    """

    images: Sequence[Any]
    boxes: tuple[Boxes, ...]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, indices: Sequence[int]) -> BoxSplit:
        """Return the images at `indices`."""
        boxes, sizes = tuple(self.boxes[i] for i in indices), tuple(self.sizes[i] for i in indices)
        return BoxSplit([self.images[i] for i in indices], boxes, sizes)

    def part(self, count: int) -> BoxSplit:
        """Return a seeded part of `count` images, or the whole split if `count` is 0 or too large.

        The part has images of every class, if it is large enough, and about the class shares of the split.
        """
        return self.take(_drawn(self.boxes, count)) if 0 < count < len(self) else self

    def class_counts(self, classes: int) -> Array:
        """Return the number of boxes of each class, int64 (classes,). Crowds do not count."""
        _, labels = _labels(self.boxes)
        return np.bincount(labels, minlength=classes)

    @property
    def negatives(self) -> int:
        """The number of images without boxes. Crowds do not count."""
        return len(self) - len(np.unique(_labels(self.boxes)[0]))


@dataclass(frozen=True)
class BoxData:
    """A data set.

    Attributes:
        name: The name.
        classes: The names of the classes.
        category_ids: The sorted ids of the categories in the file. Class k has the id `category_ids[k]`.
        train: The training images.
        validation: The images that rank candidates.
        test: The images that are used only once, at the end.
        flip: Whether a horizontal flip keeps the class.
        folder: The image folder; None for a named data set.
        notes: What to say about the files and their boxes.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: BoxSplit
    validation: BoxSplit
    test: BoxSplit
    flip: bool = True
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def hold_out(split: BoxSplit, share: float, where: object = "--data") -> tuple[BoxSplit, BoxSplit]:
    """Return a seeded split by image: the rest, and a part with a share of the images of each class.

    A class with images for both parts is in both. A class with one image stays in the rest. Raises DataError, with the
    place `where`, for fewer than two images.
    """
    if len(split) < 2:
        raise DataError(f"{len(split)} image is too few to hold out validation or test images", where=where)
    part = _drawn(split.boxes, math.ceil(share * len(split) - 1e-9), keep=True)
    rest = np.setdiff1d(np.arange(len(split)), part)
    return split.take(rest.tolist()), split.take(part)


def hold_out_validation(split: BoxSplit, where: object = "--data") -> tuple[BoxSplit, BoxSplit]:
    """Hold out validation images: a fifth of a small data set, a tenth of one with 5,000 images or more."""
    return hold_out(split, validation_share(len(split)), where)


def describe_boxes(data: BoxData) -> str:
    """Return the number of classes, images and boxes, and the smallest and largest class, without test images."""
    counts = data.train.class_counts(len(data.classes)) + data.validation.class_counts(len(data.classes))
    small, large = int(counts.argmin()), int(counts.argmax())
    images, empty = len(data.train) + len(data.validation), data.train.negatives + data.validation.negatives
    spread = f"{counts[small]:,}"
    if counts[large] > counts[small]:
        spread += f" ('{data.classes[small]}') to {counts[large]:,} ('{data.classes[large]}')"
    kinds = "1 class" if len(data.classes) == 1 else f"{len(data.classes)} classes"
    without = f", {empty:,} of them without boxes" if empty else ""
    return f"{data.name}: {kinds}, {images:,} images{without}, {counts.sum():,} boxes: {spread} per class"


def _labels(boxes: Sequence[Boxes]) -> tuple[Array, Array]:
    """Return the image number and the class of every box that is no crowd, int64 (M,) each."""
    if not boxes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    images = np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
    plain = ~np.concatenate([each.crowd for each in boxes])
    return images[plain], np.concatenate([each.classes for each in boxes])[plain]


def _members(boxes: Sequence[Boxes], order: Array) -> list[Array]:
    """Return the images of each class that has any, in the order `order`, the rarest class first."""
    images, labels = _labels(boxes)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    pairs = np.unique(labels * len(boxes) + rank[images])
    starts = np.flatnonzero(np.diff(pairs // max(len(boxes), 1))) + 1
    groups = [order[group % len(boxes)] for group in np.split(pairs, starts) if len(group)]
    return sorted(groups, key=len)


def _drawn(boxes: Sequence[Boxes], count: int, keep: bool = False) -> list[int]:
    """Return the sorted indices of a seeded part of `count` images with about the class shares of all.

    This is one pass of iterative stratification (Sechidis et al. 2011): the images of the rarest class are dealt out
    first. With `keep`, the only image of a class stays out of the part, as long as others are left.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(boxes))
    groups, share = _members(boxes, order), count / len(boxes)
    is_negative, is_part, is_settled, is_kept = (np.zeros(len(boxes), bool) for _ in range(4))
    is_negative[:] = True
    for group in groups:
        is_negative[group] = False
        is_kept[group] |= keep and len(group) == 1
    for group in groups:  # one image of each class, as long as there is room
        if not is_part[group].any() and is_part.sum() < count:
            is_part[group[~is_kept[group]][:1]] = True
    negatives = order[is_negative[order]][: round(share * int(is_negative.sum()))]
    for group in groups:
        free = group[~(is_settled | is_part | is_kept)[group]]
        room = count - len(negatives) - int(is_part.sum())
        is_part[free[: max(0, min(room, round(share * len(group)) - int(is_part[group].sum())))]] = True
        is_settled[group] = True
    fill = np.concatenate([negatives, order[~is_kept[order]], order])
    _, firsts = np.unique(fill, return_index=True)
    fill = fill[np.sort(firsts)]
    is_part[fill[~is_part[fill]][: max(0, count - int(is_part.sum()))]] = True
    chosen: list[int] = np.flatnonzero(is_part).tolist()
    return chosen
