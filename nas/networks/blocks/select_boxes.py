"""Post-processing of a detector, of fixed shape: the same operators, and so the same time, for every image.

Boxes are decoded, the most likely ones are selected, those that overlap a more likely one of their class are dropped
(Cluster-NMS, Zheng et al. 2021, section 4), and the best ones are returned.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Coding = Literal["efficientdet", "ssd", "distances"]
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
"""Factors of the offsets of SSD (Liu et al. 2016; its code calls them variances)."""
LARGEST_EXPONENT = 4.1
"""A box is at most exp(4.1) = 60 times as large as its anchor, as in torchvision, so that nothing overflows."""


class SelectBoxes(nn.Module):
    """The boxes of an image, the most likely first, of the boxes (B, N, 4) and the classes (B, N, C) of a head.

    Args:
        predictions: N, for each of the two.
        coding: What the numbers mean: offsets (dy, dx, dh, dw) from anchors and sigmoid classes ("efficientdet"),
            scaled offsets (dx, dy, dw, dh) and a softmax whose first class is the background ("ssd"), or the distances
            to the sides in strides and sigmoid classes ("distances").
        candidates: The boxes that are compared with each other.
        kept: The boxes that are returned, if there are so many.
        overlap: The intersection over union above which the less likely of two boxes of one class is dropped.
        steps: Iterations of Cluster-NMS. With as many as the longest chain of overlapping boxes, and in practice with
            less, the result is that of greedy suppression; with 1 it is that of Fast NMS.
        least_score: Boxes below this score do not count.
    """

    anchors: Tensor
    after: Tensor
    limit: Tensor

    def __init__(
        self,
        predictions: tuple[int, ...],
        *,
        coding: Coding,
        candidates: int = 300,
        kept: int = 100,
        overlap: float = 0.5,
        steps: int = 10,
        least_score: float = 0.01,
    ):
        super().__init__()
        if len(set(predictions)) != 1:
            raise ValueError(f"boxes and classes must have the same number of rows: {predictions}")
        if candidates < 1 or kept < 1 or steps < 1 or not 0 < overlap < 1:
            raise ValueError("candidates, kept and steps must be at least 1, and overlap between 0 and 1")
        self.coding, self.overlap, self.steps, self.least_score = coding, overlap, steps, least_score
        self.candidates = min(candidates, predictions[0])
        self.kept = min(kept, self.candidates)
        self.register_buffer("anchors", torch.ones(1, predictions[0], 4), persistent=False)
        self.register_buffer("after", torch.ones(self.candidates, self.candidates).tril(-1), persistent=False)
        self.register_buffer("limit", torch.ones(4), persistent=False)

    def place(self, anchors: Tensor, image: tuple[int, int]) -> None:
        """Set the anchors (N, 4), as center x, center y, width and height in pixels, and the image's height, width."""
        self.anchors.copy_(anchors[None])
        self.limit.copy_(torch.tensor([*image[::-1], *image[::-1]]))

    def forward(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[boxes, classes] -> corners (B, K, 4), scores (B, K), classes (B, K), and how many of them count (B,).

        Corners are (left, top, right, bottom) in pixels of the network's input.
        """
        boxes, classes = outputs
        scores, index = best_scores(classes, self.coding).topk(self.candidates, 1)
        if self.coding != "ssd":
            scores = scores.sigmoid()
        likely = classes.gather(1, index.unsqueeze(2).expand(-1, -1, classes.shape[2]))
        labels = (likely[:, :, 1:] if self.coding == "ssd" else likely).argmax(2)
        rows = index.unsqueeze(2).expand(-1, -1, 4)
        anchors = self.anchors.expand(boxes.shape[0], -1, -1)
        corners = decoded(boxes.gather(1, rows), anchors.gather(1, rows), self.coding)
        corners = torch.minimum(corners.clamp(min=0.0), self.limit)
        scores = scores * kept_boxes(corners, labels, self.after, self.overlap, self.steps)
        scores, index = scores.topk(self.kept, 1)
        corners = corners.gather(1, index.unsqueeze(2).expand(-1, -1, 4))
        return corners, scores, labels.gather(1, index), (scores >= self.least_score).sum(1)


def best_scores(classes: Tensor, coding: str) -> Tensor:
    """Return the score of the most likely class of each box (B, N); a logit where classes are sigmoids."""
    if coding == "ssd":
        return classes.softmax(2)[:, :, 1:].amax(2)
    return classes.amax(2)


def decoded(boxes: Tensor, anchors: Tensor, coding: str) -> Tensor:
    """Return the corners (..., 4) in pixels of boxes (..., 4), given the anchors (..., 4) of a head."""
    centers, sizes = anchors[..., :2], anchors[..., 2:]
    first, second = boxes[..., :2], boxes[..., 2:]
    if coding == "distances":
        return torch.cat([centers - first * sizes, centers + second * sizes], -1)
    if coding == "efficientdet":
        first, second = first.flip(-1), second.flip(-1)
    else:
        first, second = first * CENTER_VARIANCE, second * SIZE_VARIANCE
    middle = centers + first * sizes
    half = second.clamp(max=LARGEST_EXPONENT).exp() * sizes / 2
    return torch.cat([middle - half, middle + half], -1)


def kept_boxes(corners: Tensor, labels: Tensor, after: Tensor, overlap: float, steps: int) -> Tensor:
    """Return 1.0 for boxes that Cluster-NMS keeps, else 0.0, (B, K).

    Args:
        corners: Corners (B, K, 4), the most likely box first.
        labels: Classes (B, K).
        after: 1.0 where the row's box comes after the column's, else 0.0, (K, K).
        overlap: The largest intersection over union that two boxes of one class may have.
        steps: The number of iterations.
    """
    same = (labels.unsqueeze(2) == labels.unsqueeze(1)).to(corners.dtype)
    suppressed_by = (overlaps(corners, corners) > overlap).to(corners.dtype) * same * after
    keep = torch.ones_like(corners[:, :, :1])
    for _ in range(steps):
        keep = 1.0 - (suppressed_by @ keep).clamp(max=1.0)
    return keep.squeeze(2)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of each pair of corners (B, K, 4) and (B, M, 4): (B, K, M)."""
    common = intersections(first, second)
    return common / (areas(first).unsqueeze(2) + areas(second).unsqueeze(1) - common).clamp(min=1e-9)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """Return the common area of each pair of corners (B, K, 4) and (B, M, 4): (B, K, M)."""
    left, top, right, bottom = (first[:, :, side].unsqueeze(2) for side in range(4))
    others = [second[:, :, side].unsqueeze(1) for side in range(4)]
    width = (torch.minimum(right, others[2]) - torch.maximum(left, others[0])).clamp(min=0.0)
    height = (torch.minimum(bottom, others[3]) - torch.maximum(top, others[1])).clamp(min=0.0)
    return width * height


def areas(corners: Tensor) -> Tensor:
    """Return the areas (...) of corners (..., 4)."""
    return (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
