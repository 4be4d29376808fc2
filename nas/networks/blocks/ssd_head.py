"""Head of SSD (Liu et al. 2016, section 2.1) and of SSDLite (MobileNetV2, Sandler et al. 2018, section 6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.networks.blocks.anchors import Size, default_boxes
from nas.networks.blocks.layers import Activation, conv_bn_act
from nas.networks.blocks.predictions import rows
from nas.networks.blocks.select_boxes import Coding

FIRST_SCALE = 20.0
"""First scale of a normalized map (SSD, section 3.1)."""


class L2Norm(nn.Module):
    """Divides the channels of each position by their L2 norm and scales them (ParseNet, Liu et al. 2015)."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), FIRST_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.normalize(x, dim=1) * self.scale


class SSDHead(nn.Module):
    """A predictor of boxes and one of classes for each map.

    A box is (dx, dy, dw, dh) relative to its anchor. Classes are logits; the first one is the background, which this
    head adds to `num_classes`. With `form: normalized`, as in DSOD, each map is normalized first, and the predictors
    have batch norms.

    Raises ValueError unless `first_anchors` and `last_anchors`, the anchors at each position of the first and of the
    last two maps (0: as many as of the others), fit.
    """

    coding: Coding = "ssd"

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        num_classes: int = 80,
        anchors: int = 6,
        first_anchors: int = 0,
        last_anchors: int = 0,
        kernel_size: int = 3,
        form: Literal["plain", "normalized", "separable"] = "plain",
        activation: Activation = "relu6",
    ):
        super().__init__()
        if num_classes < 1 or anchors < 1:
            raise ValueError(f"num_classes and anchors must be at least 1: {num_classes}, {anchors}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd: {kernel_size}")
        self.num_classes = num_classes + 1
        counts = [anchors] * len(in_channels)
        counts[0] = first_anchors or anchors
        if last_anchors and len(in_channels) > 2:
            counts[-2:] = [last_anchors] * 2
        self.counts, pairs = counts, list(zip(in_channels, counts, strict=True))
        scaled = form == "normalized"
        self.norms = nn.ModuleList(L2Norm(channels) if scaled else nn.Identity() for channels in in_channels)
        self.boxes, self.classes = (
            nn.ModuleList(
                predictor(channels, count * width, kernel_size, form, activation) for channels, count in pairs
            )
            for width in (4, self.num_classes)
        )

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """[(B, C_i, H_i, W_i), ...] -> boxes (B, N, 4) and classes (B, N, num_classes + 1)."""
        levels = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        boxes = [predict(x) for predict, x in zip(self.boxes, levels, strict=True)]
        classes = [predict(x) for predict, x in zip(self.classes, levels, strict=True)]
        return rows(boxes, 4), rows(classes, self.num_classes)

    def anchors(self, sizes: Sequence[Size], image: Size) -> Tensor:
        """Return the anchor (N, 4) of each row, given the height and width of each map, see `default_boxes`."""
        return default_boxes(sizes, image, self.counts)


def predictor(in_channels: int, outputs: int, kernel_size: int, form: str, activation: str) -> nn.Module:
    """Return a convolution to the outputs: with a bias, with a batch norm ("normalized"), or separable."""
    padding = kernel_size // 2
    if form == "plain":
        return nn.Conv2d(in_channels, outputs, kernel_size, padding=padding)
    if form == "normalized":
        conv = nn.Conv2d(in_channels, outputs, kernel_size, padding=padding, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))
    depthwise = conv_bn_act(in_channels, in_channels, kernel_size, groups=in_channels, activation=activation)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, outputs, 1))
