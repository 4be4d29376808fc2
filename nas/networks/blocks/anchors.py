"""Anchors: the boxes, or points, that the rows of a detector's predictions are relative to.

An anchor is its center x, center y, width and height in pixels. Anchors come level by level, row by row, position by
position, as the rows of `nas.networks.blocks.predictions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]
"""Height and width, of a feature map or, in pixels, of an image."""
ANCHOR_SCALE = 4.0
"""EfficientDet's smallest anchor, in strides of its level."""
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height of EfficientDet's anchors, relative to their scale."""
SSD_SCALES = 0.2, 0.95
"""Scales of the first and the last map as shares of the image (SSDLite in torchvision)."""
SSD_FINE_SCALE = 0.1
"""Scale of the first map if its stride is at most 8: it sees smaller objects (SSD, section 3.1: a half of 0.2)."""


def grid(sizes: Sequence[Size], image: Size, shapes: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """Return the anchors (N, 4) of all levels.

    Args:
        sizes: Height and width of each level.
        image: The size of the image.
        shapes: Width and height in pixels of the anchors at each position of each level.
    """
    found = []
    for (height, width), at_position in zip(sizes, shapes, strict=True):
        y, x = ((torch.arange(count) + 0.5) * side / count for side, count in zip(image, (height, width), strict=True))
        centers = torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)
        boxes = torch.tensor(list(at_position))
        found.append(torch.cat([centers.repeat_interleave(len(boxes), 0), boxes.repeat(len(centers), 1)], 1))
    return torch.cat(found)


def points(sizes: Sequence[Size], image: Size) -> Tensor:
    """Return the center of each position, with the stride of the level as width and height."""
    return grid(sizes, image, [[(image[1] / width, image[0] / height)] for height, width in sizes])


def octave_anchors(sizes: Sequence[Size], image: Size, count: int) -> Tensor:
    """Return the anchors of RetinaNet and EfficientDet: `count` / 3 scales within an octave, and three aspect ratios.

    A count that three does not divide gives as many square anchors.
    """
    aspects = ASPECTS if count % 3 == 0 else ASPECTS[:1]
    scales = [ANCHOR_SCALE * 2 ** (step * len(aspects) / count) for step in range(count // len(aspects))]
    shapes = [
        [(scale * w * image[1] / width, scale * h * image[0] / height) for scale in scales for w, h in aspects]
        for height, width in sizes
    ]
    return grid(sizes, image, shapes)


def default_boxes(sizes: Sequence[Size], image: Size, counts: Sequence[int]) -> Tensor:
    """Return SSD's default boxes: one scale for each map, and aspect ratios of 1, 2 and 3 (SSD, section 2.2).

    In an image that is no square, scales are shares of the side of a square of the same area.

    Args:
        sizes: Height and width of each map.
        image: The size of the image.
        counts: The boxes at each position of each map. The first ones are the square, the larger square towards the
            next scale, and the pairs of ratio 2 and 3. With three there is no larger square, and the square has half
            the scale (TF's SSD, lowest map); above six, the first half has half the scale (Pelee, section 3).
    """
    scales, side = ssd_scales(sizes, image), math.sqrt(image[0] * image[1])
    shapes = []
    for count, scale, following in zip(counts, scales, [*scales[1:], 1.0], strict=True):
        if count == 3:
            found = [(scale / 2, scale / 2), *_pair(scale, 2.0)]
        elif count > 6:
            half = count // 2
            found = _shapes(half, scale / 2, scale) + _shapes(count - half, scale, following)
        else:
            found = _shapes(count, scale, following)
        shapes.append([(min(w, 1.0) * side, min(h, 1.0) * side) for w, h in found])
    return grid(sizes, image, shapes)


def ssd_scales(sizes: Sequence[Size], image: Size) -> list[float]:
    """Return the scale of each map as a share of the image."""
    first, last = SSD_SCALES
    is_fine = 8 * sizes[0][1] >= image[1]
    steps = len(sizes) - (2 if is_fine else 1)
    spread = [first + (last - first) * number / max(1, steps) for number in range(steps + 1)]
    return [SSD_FINE_SCALE, *spread][: len(sizes)] if is_fine else spread


def _shapes(count: int, scale: float, following: float) -> list[tuple[float, float]]:
    """Return the first `count` of the square, the larger square and the pairs of ratio 2, 3, 4, ..."""
    larger = math.sqrt(scale * following)
    found = [(scale, scale), (larger, larger)]
    for number in range(count):
        found += _pair(scale, number + 2.0)
    return found[:count]


def _pair(scale: float, ratio: float) -> list[tuple[float, float]]:
    """Return the wide and the tall box of an aspect ratio."""
    root = math.sqrt(ratio)
    return [(scale * root, scale / root), (scale / root, scale * root)]
