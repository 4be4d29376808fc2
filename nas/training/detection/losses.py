"""Losses of detectors, one for each coding of boxes. Each is a mean over the boxes that are learned, at least 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.networks.blocks.select_boxes import CENTER_VARIANCE, SIZE_VARIANCE, decoded
from nas.training.detection.assignment import (
    BACKGROUND,
    IGNORED,
    MATCHED,
    assign_by_overlap,
    assign_dynamically,
    corners_of,
    pairwise,
)
from nas.training.detection.average_precision import SIZES, size_of
from nas.training.detection.dataset import Target

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 1.5
"""EfficientDet's focal loss (Tan et al. 2020, section 5.1)."""
BOX_WEIGHT, HUBER_DELTA = 50.0, 0.1
"""Weight of the loss of boxes, and where its Huber loss becomes linear (google/automl)."""
NEGATIVES = 3
"""For each anchor that learns a box, so many of the hardest others learn the background (SSD, section 2.2)."""
QUALITY_BETA = 2.0
"""The exponent of the quality focal loss (Li et al. 2020, section 3)."""
OVERLAP_WEIGHT = 2.0
"""Weight of the overlap loss of boxes that are distances (Li et al. 2020, section 4)."""


def efficientdet_loss(boxes: Tensor, classes: Tensor, anchors: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return the focal loss of classes and the Huber loss of offsets (EfficientDet, section 5.1).

    Args:
        boxes: Offsets (B, N, 4).
        classes: Logits (B, N, C).
        anchors: The anchors (N, 4).
        targets: The boxes of each image.
    """
    from torchvision.ops import sigmoid_focal_loss

    found = [assign_by_overlap(anchors, target) for target in targets]
    index = torch.stack([each.index for each in found])
    labels = _one_hot(index, targets, classes)
    focal = sigmoid_focal_loss(classes, labels, FOCAL_ALPHA, FOCAL_GAMMA, reduction="none")
    positives = _count(index)
    loss = (focal * (index != IGNORED).unsqueeze(2)).sum() / positives
    wanted, picked = _offsets(index, anchors, targets, "efficientdet"), boxes[index >= 0]
    huber = F.huber_loss(picked, wanted, reduction="sum", delta=HUBER_DELTA)
    total: Tensor = loss + BOX_WEIGHT * huber / (4 * positives)
    return total


def ssd_loss(boxes: Tensor, classes: Tensor, anchors: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return the cross-entropy of classes with the hardest negatives, and the smooth L1 loss of offsets (SSD, 2.2)."""
    found = [assign_by_overlap(anchors, target, MATCHED) for target in targets]
    index = torch.stack([each.index for each in found])
    labels = torch.zeros_like(index)  # the background
    labels[index >= 0] = _labels(index, targets) + 1
    entropy = F.cross_entropy(classes.transpose(1, 2), labels, reduction="none")
    positive, positives = index >= 0, _count(index)
    hardest = torch.where(index == BACKGROUND, entropy.detach(), torch.full_like(entropy, -1.0))
    rank = hardest.argsort(1, descending=True).argsort(1)
    is_hard = (rank < (NEGATIVES * positive.sum(1, keepdim=True)).clamp(min=NEGATIVES)) & (index == BACKGROUND)
    loss = (entropy * (positive | is_hard)).sum() / positives
    wanted = _offsets(index, anchors, targets, "ssd")
    return loss + F.smooth_l1_loss(boxes[positive], wanted, reduction="sum") / positives


def distance_loss(boxes: Tensor, classes: Tensor, anchors: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return the quality focal loss of classes and the overlap loss of boxes (Li et al. 2020, section 3)."""
    from torchvision.ops import generalized_box_iou_loss

    found = [
        assign_dynamically(anchors, box, own, target)
        for box, own, target in zip(boxes.detach(), classes.detach(), targets, strict=True)
    ]
    index = torch.stack([each.index for each in found])
    quality = torch.stack([each.quality for each in found])
    labels = _one_hot(index, targets, classes) * quality.unsqueeze(2)
    entropy = F.binary_cross_entropy_with_logits(classes, labels, reduction="none")
    scale = (classes.sigmoid() - labels).abs() ** QUALITY_BETA
    weight = quality[index >= 0]
    positives = weight.sum().clamp(min=1.0)
    loss = (entropy * scale * (index != IGNORED).unsqueeze(2)).sum() / positives
    corners = decoded(boxes, anchors[None], "distances")[index >= 0]
    wanted = _boxes(index, targets)
    overlap = generalized_box_iou_loss(corners, wanted, reduction="none")
    total: Tensor = loss + OVERLAP_WEIGHT * (overlap * weight).sum() / positives
    return total


Loss = Callable[[Tensor, Tensor, Tensor, Sequence[Target]], Tensor]
LOSSES: dict[str, Loss] = {"efficientdet": efficientdet_loss, "ssd": ssd_loss, "distances": distance_loss}
"""The loss of each coding of boxes."""


def encoded(corners: Tensor, anchors: Tensor, coding: str) -> Tensor:
    """Return the offsets (M, 4) that `decoded` turns into corners (M, 4), given an anchor (M, 4) for each."""
    sizes = (corners[:, 2:] - corners[:, :2]).clamp(min=1e-3)
    shift = ((corners[:, :2] + corners[:, 2:]) / 2 - anchors[:, :2]) / anchors[:, 2:]
    growth = (sizes / anchors[:, 2:]).log()
    if coding == "efficientdet":
        return torch.cat([shift.flip(1), growth.flip(1)], 1)
    return torch.cat([shift / CENTER_VARIANCE, growth / SIZE_VARIANCE], 1)


def matched_by_size(anchors: Tensor, targets: Sequence[Target]) -> dict[str, tuple[int, int]]:
    """Return, for each of `SIZES`, how many boxes there are and how many an anchor overlaps by MATCHED.

    Args:
        anchors: The anchors (N, 4).
        targets: The boxes, whose sizes are those in the network's input.
    """
    corners, boxes, matched = corners_of(anchors), Counter[str](), Counter[str]()
    for target in targets:
        if not len(target.corners):
            continue
        best = pairwise(corners, target.corners).amax(0)
        areas = (target.corners[:, 2:] - target.corners[:, :2]).prod(1)
        sizes = [size_of(area) for area in areas.tolist()]
        boxes.update(sizes)
        matched.update(size for size, overlap in zip(sizes, best.tolist(), strict=True) if overlap >= MATCHED)
    return {size: (boxes[size], matched[size]) for size in SIZES}


def _count(index: Tensor) -> Tensor:
    return (index >= 0).sum().clamp(min=1)


def _learned(index: Tensor, values: Iterable[Tensor]) -> Tensor:
    """Return the value of the box that each prediction with one learns (P, ...), image by image.

    `values` has those of the boxes of each image.
    """
    return torch.cat([each[own[own >= 0]] for own, each in zip(index, values, strict=True)])


def _labels(index: Tensor, targets: Sequence[Target]) -> Tensor:
    return _learned(index, [target.classes for target in targets])


def _boxes(index: Tensor, targets: Sequence[Target]) -> Tensor:
    return _learned(index, [target.corners for target in targets])


def _offsets(index: Tensor, anchors: Tensor, targets: Sequence[Target], coding: str) -> Tensor:
    """Return the offsets of the box that each prediction with one learns (P, 4), image by image."""
    return encoded(_boxes(index, targets), anchors.expand(len(index), -1, -1)[index >= 0], coding)


def _one_hot(index: Tensor, targets: Sequence[Target], classes: Tensor) -> Tensor:
    """Return 1.0 at the class of the box that a prediction learns, else 0.0, (B, N, C)."""
    labels = torch.zeros_like(classes)
    image, row = (index >= 0).nonzero(as_tuple=True)
    labels[image, row, _labels(index, targets)] = 1.0
    return labels
