"""Anchor-free head: quality-focal classes and distributions of distances (Generalized Focal Loss, Li et al. 2020).

It has the form of NanoDet-Plus and PicoDet (Yu et al. 2021, section 3.3): light convolutions of its own for each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nas.networks.blocks.anchors import Size, points
from nas.networks.blocks.layers import Activation
from nas.networks.blocks.light_pan import light_conv
from nas.networks.blocks.predictions import FIRST_LOGIT, rows
from nas.networks.blocks.select_boxes import Coding


class GFLHead(nn.Module):
    """Predicts, at each position, classes and the distances to the four sides of a box.

    A distance is a distribution over 0, 1, ..., `bins` strides of the level. A box (left, top, right, bottom) is the
    four means, in strides. Classes are logits of the quality of the box, the intersection over union with the object.
    """

    coding: Coding = "distances"
    depth_keywords = ("num_layers",)
    steps: Tensor

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        num_classes: int = 80,
        num_layers: int = 2,
        bins: int = 7,
        kernel_size: int = 5,
        activation: Activation = "hard_swish",
    ):
        super().__init__()
        if num_classes < 1 or bins < 1:
            raise ValueError(f"num_classes and bins must be at least 1: {num_classes}, {bins}")
        self.num_classes, self.bins = num_classes, bins
        self.towers = nn.ModuleList(
            nn.Sequential(*(light_conv(each, each, kernel_size, activation) for _ in range(num_layers)))
            for each in in_channels
        )
        self.predict = nn.ModuleList(nn.Conv2d(each, num_classes + 4 * (bins + 1), 1) for each in in_channels)
        self.register_buffer("steps", torch.arange(bins + 1.0), persistent=False)

    def distributions(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of distances (B, N, 4, bins + 1) and of classes (B, N, num_classes)."""
        found = [predict(tower(x)) for tower, predict, x in zip(self.towers, self.predict, maps, strict=True)]
        both = rows(found, self.num_classes + 4 * (self.bins + 1))
        classes, distances = both[..., : self.num_classes], both[..., self.num_classes :]
        return distances.reshape(both.shape[0], both.shape[1], 4, self.bins + 1), classes

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """[(B, C_i, H_i, W_i), ...] -> boxes (B, N, 4) in strides and classes (B, N, num_classes)."""
        distances, classes = self.distributions(maps)
        return (distances.softmax(3) * self.steps).sum(3), classes

    @torch.no_grad()
    def set_first_biases(self) -> None:
        """Let every class begin with a score of 0.01, see `FIRST_LOGIT`."""
        for predict in self.predict:
            cast(Tensor, predict.bias)[: self.num_classes].fill_(FIRST_LOGIT)

    def anchors(self, sizes: Sequence[Size], image: Size) -> Tensor:
        """Return the point (N, 4) of each row, given the height and width of each level, see `points`."""
        return points(sizes, image)
