"""Head of EfficientDet and RetinaNet: convolutions shared by all levels (Tan et al. 2020, section 4.2)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.networks.blocks.anchors import Size, octave_anchors
from nas.networks.blocks.layers import Activation, activation_layer
from nas.networks.blocks.predictions import FIRST_LOGIT, rows
from nas.networks.blocks.pyramid import separable
from nas.networks.blocks.select_boxes import Coding


class Tower(nn.Module):
    """Separable convolutions that all levels share, each with a batch norm for each level, and a predictor.

    Args:
        channels: Channels of every level.
        outputs: Channels of the prediction.
        levels: The number of levels.
        num_layers: The number of convolutions before the predictor.
        activation: The activation after each of them.
    """

    def __init__(self, channels: int, outputs: int, levels: int, num_layers: int, activation: str):
        super().__init__()
        self.levels = levels
        self.convs = nn.ModuleList(separable(channels, channels) for _ in range(num_layers))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(levels)) for _ in range(num_layers)
        )
        self.activation = activation_layer(activation)
        self.predict = separable(channels, outputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C, H, W), ...] -> [(B, outputs, H, W), ...]."""
        found = []
        for level, x in enumerate(maps):
            y = x
            for conv, norms in self._layers():
                y = self.activation(norms[level](conv(y)))
            found.append(self.predict(y))
        return found

    def _layers(self) -> Iterator[tuple[nn.Sequential, nn.ModuleList]]:
        """Yield each convolution with the batch norms of all levels."""
        for conv, norms in zip(self.convs, self.norms, strict=True):
            yield cast(nn.Sequential, conv), cast(nn.ModuleList, norms)

    def deploy(self) -> nn.Module:
        """Return the tower with the batch norms of each level in a copy of the 1x1 convolutions."""
        return DeployedTower([self._level(level) for level in range(self.levels)], self.predict)

    def _level(self, level: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for conv, norms in self._layers():
            fused = fuse_conv_bn_eval(cast(nn.Conv2d, conv[1]), cast(nn.BatchNorm2d, norms[level]))
            layers += [copy.deepcopy(conv[0]), fused, copy.deepcopy(self.activation)]
        return nn.Sequential(*layers)


class DeployedTower(nn.Module):
    """A `Tower` for inference: one series of convolutions for each level."""

    def __init__(self, levels: list[nn.Sequential], predict: nn.Module):
        super().__init__()
        self.levels, self.predict = nn.ModuleList(levels), predict

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C, H, W), ...] -> [(B, outputs, H, W), ...]."""
        return [self.predict(layers(x)) for layers, x in zip(self.levels, maps, strict=True)]


class EfficientDetHead(nn.Module):
    """A tower for classes and one for boxes. A box is (dy, dx, dh, dw) relative to its anchor; classes are logits."""

    coding: Coding = "efficientdet"
    depth_keywords = ("num_layers",)

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        num_classes: int = 90,
        num_layers: int = 3,
        anchors: int = 9,
        activation: Activation = "swish",
    ):
        super().__init__()
        if len(set(in_channels)) > 1:
            raise ValueError(f"all levels must have the same channels: {in_channels}")
        if num_classes < 1 or anchors < 1:
            raise ValueError(f"num_classes and anchors must be at least 1: {num_classes}, {anchors}")
        self.num_classes, self.count = num_classes, anchors
        shape = len(in_channels), num_layers, activation
        self.classes = Tower(in_channels[0], anchors * num_classes, *shape)
        self.boxes = Tower(in_channels[0], anchors * 4, *shape)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """[(B, C, H, W), ...] -> boxes (B, N, 4) and classes (B, N, num_classes), level by level, row by row."""
        return rows(self.boxes(maps), 4), rows(self.classes(maps), self.num_classes)

    @torch.no_grad()
    def set_first_biases(self) -> None:
        """Let every class begin with a score of 0.01, see `FIRST_LOGIT`."""
        cast(Tensor, self.classes.predict[1].bias).fill_(FIRST_LOGIT)

    def anchors(self, sizes: Sequence[Size], image: Size) -> Tensor:
        """Return the anchor (N, 4) of each row, given the height and width of each level, see `octave_anchors`."""
        return octave_anchors(sizes, image, self.count)
