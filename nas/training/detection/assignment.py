"""Assignment: which predictions of a detector learn which boxes of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.networks.blocks.select_boxes import areas, decoded, intersections, overlaps
from nas.training.detection.dataset import Target

IGNORED = -2
"""A prediction that learns nothing."""
BACKGROUND = -1
MATCHED, UNMATCHED = 0.5, 0.4
"""An anchor learns the box that it overlaps most, if by MATCHED; the background, if by less than UNMATCHED."""
CLOSE = 0.8
"""A box that no anchor fits is learned by the anchors whose overlap is at least this share of its best one's."""
CROWDED = 0.5
"""A prediction learns nothing if so much of its anchor lies in a crowd region."""
CENTER_STRIDES = 2.5
"""Points within this many strides of a box's center are candidates (YOLOX, Ge et al. 2021, section 2.1)."""
CANDIDATES = 10
"""The sum of the so many best overlaps of a box is the number of predictions that learn it."""
OVERLAP_WEIGHT = 3.0
FAR = 1e8
TINY = 1e-6


@dataclass(frozen=True)
class Assigned:
    """What the N predictions of one image learn.

    Attributes:
        index: The number of the box in the target, BACKGROUND or IGNORED, (N,).
        quality: The target of the class score in [0, 1] (N,): 1, or the overlap of the predicted box.
    """

    index: Tensor
    quality: Tensor


def corners_of(anchors: Tensor) -> Tensor:
    """Return the corners (N, 4) of anchors (N, 4), which are centers and sizes."""
    half = anchors[:, 2:] / 2
    return torch.cat([anchors[:, :2] - half, anchors[:, :2] + half], 1)


def pairwise(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of each pair of corners (N, 4) and (M, 4): (N, M)."""
    return overlaps(first[None], second[None])[0]


@torch.no_grad()
def assign_by_overlap(anchors: Tensor, target: Target, unmatched: float = UNMATCHED) -> Assigned:
    """Return the assignment of RetinaNet and SSD: by the overlap of anchors and boxes.

    The best anchor of a box learns it whatever the overlap, so that no box is lost. One anchor alone is too little for
    a class of boxes that are smaller than every anchor: its neighbors would learn the background. So the overlaps with
    such a box are scaled until the anchors with `CLOSE` of its best overlap match it.

    Args:
        anchors: The anchors (N, 4).
        target: The boxes.
        unmatched: Anchors with less overlap learn the background; those between this and MATCHED learn nothing.
    """
    corners = corners_of(anchors)
    index = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    if len(target.corners):
        table = pairwise(corners, target.corners)
        enough = CLOSE * table.amax(0).clamp(min=TINY)
        table = table * (MATCHED / enough).clamp(min=1.0)
        best, box = table.max(1)
        index[best >= unmatched] = IGNORED
        index = torch.where(best >= MATCHED, box, index)
        index[table.argmax(0)] = torch.arange(len(target.corners), device=anchors.device)
    index = _without_crowds(index, corners, target)
    return Assigned(index, (index >= 0).to(anchors.dtype))


@torch.no_grad()
def assign_dynamically(anchors: Tensor, boxes: Tensor, classes: Tensor, target: Target) -> Assigned:
    """Return the assignment of SimOTA (YOLOX, Ge et al. 2021, section 2.1), which asks what the network predicts.

    A box is learned by the predictions that cost least: their class is likely, and their box overlaps it. Their number
    is the sum of the best overlaps.

    Args:
        anchors: The points (N, 4).
        boxes: Predicted distances (N, 4) in strides.
        classes: Predicted logits (N, C).
        target: The boxes.
    """
    index = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    quality = torch.zeros(len(anchors), device=anchors.device)
    corners = decoded(boxes, anchors, "distances")
    if len(target.corners):
        table = pairwise(corners, target.corners)
        cost = _costs(anchors, classes, table, target)
        matched = _cheapest(cost, table)
        chosen = torch.where(matched, cost, torch.full_like(cost, 2 * FAR)).min(1)
        index = torch.where(matched.any(1), chosen.indices, index)
        quality = table.gather(1, chosen.indices[:, None])[:, 0] * matched.any(1)
    return Assigned(_without_crowds(index, corners_of(anchors), target), quality)


def _costs(anchors: Tensor, classes: Tensor, table: Tensor, target: Target) -> Tensor:
    """Return what it costs that a prediction learns a box (N, M); about FAR where it is no candidate."""
    x, y = anchors[:, :1], anchors[:, 1:2]
    left, top, right, bottom = target.corners.unbind(1)
    is_inside = torch.stack([x - left, y - top, right - x, bottom - y]).amin(0) > 0
    middle = torch.stack([(left + right) / 2, (top + bottom) / 2], 1)
    distance = (anchors[:, None, :2] - middle[None]).abs() / anchors[:, None, 2:]
    is_central = distance.amax(2) < CENTER_STRIDES
    scores = classes.sigmoid()[:, target.classes]
    own = -(table * scores.clamp(min=1e-7).log() + (1 - table) * (1 - scores).clamp(min=1e-7).log())
    cost = own * (table - scores).abs() ** 2 - OVERLAP_WEIGHT * table.clamp(min=1e-7).log()
    return cost + FAR * ~(is_inside | is_central) + 1e5 * ~(is_inside & is_central)


def _cheapest(cost: Tensor, table: Tensor) -> Tensor:
    """Return which predictions learn which box (N, M)."""
    count = min(CANDIDATES, len(cost))
    best = torch.where(cost < FAR, table, torch.zeros_like(table)).topk(count, 0).values
    wanted = best.sum(0).int().clamp(min=1)
    order = cost.topk(count, 0, largest=False).indices
    chosen = torch.arange(count, device=cost.device)[:, None] < wanted[None]
    matched = torch.zeros_like(cost, dtype=torch.bool).scatter(0, order, chosen)
    return matched & (cost < FAR)


def _without_crowds(index: Tensor, corners: Tensor, target: Target) -> Tensor:
    """Return an assignment in which predictions of the background inside a crowd region learn nothing."""
    if not len(target.crowd):
        return index
    common = intersections(corners[None], target.crowd[None])[0]
    share = common.amax(1) / areas(corners).clamp(min=1e-9)
    return torch.where((share > CROWDED) & (index == BACKGROUND), torch.full_like(index, IGNORED), index)
