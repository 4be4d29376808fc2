"""Parts of feature pyramids: projections, added levels, and nodes that fuse maps (EfficientDet, section 3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.networks.blocks.layers import activation_layer

Weighting = Literal["fast", "softmax", "unbounded", "sum"]
FAST_EPSILON = 1e-4
"""Keeps the weights of the fast normalized fusion finite (EfficientDet, section 3.3)."""


def projection(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 1x1 convolution with bias and a batch norm, or the identity if the channels are equal."""
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


def separable(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Return a depthwise convolution without bias and a 1x1 convolution with bias."""
    padding = kernel_size // 2
    depthwise = nn.Conv2d(in_channels, in_channels, kernel_size, padding=padding, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1))


def halve(x: Tensor) -> Tensor:
    """3x3 max pooling with stride 2: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
    return F.max_pool2d(x, 3, 2, 1)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbor: (B, C, H, W) -> (B, C, H', W'), the size of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Fuse(nn.Module):
    """The weighted sum of maps of one shape (EfficientDet, section 3.3), activation, separable convolution, batch norm.

    Args:
        channels: Channels of every map.
        inputs: The number of maps.
        fusion: How the weights are normalized: "fast" divides ReLU(w) by their sum, "softmax" exponentiates them,
            "unbounded" takes them as they are, and "sum" has none.
        activation: The activation before the convolution.
    """

    def __init__(self, channels: int, inputs: int, fusion: str, activation: str):
        super().__init__()
        self.fusion = fusion
        if fusion != "sum":
            self.weights = nn.Parameter(torch.ones(inputs))
        self.activation = activation_layer(activation)
        self.conv = nn.Sequential(*separable(channels, channels), nn.BatchNorm2d(channels))

    def shares(self) -> Tensor:
        """Return the weight of each map (inputs,)."""
        if self.fusion == "softmax":
            return self.weights.softmax(0)
        if self.fusion == "fast":
            positive = self.weights.relu()
            return positive / (positive.sum() + FAST_EPSILON)
        return self.weights

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, C, H, W)."""
        if self.fusion == "sum":
            total = maps[0]
            for x in maps[1:]:
                total = total + x
        else:
            shares = self.shares()
            total = maps[0] * shares[0]
            for index, x in enumerate(maps[1:], 1):
                total = total + x * shares[index]
        y: Tensor = self.conv(self.activation(total))
        return y

    def deploy(self) -> nn.Module:
        """Return the same node with constant weights."""
        return FixedFuse(self.shares().tolist() if self.fusion != "sum" else [], self.activation, self.conv)


class FixedFuse(nn.Module):
    """A `Fuse` for inference: its weights are numbers."""

    def __init__(self, shares: list[float], activation: nn.Module, conv: nn.Module):
        super().__init__()
        self.shares, self.activation, self.conv = shares, activation, conv

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, C, H, W)."""
        parts = [x * share for x, share in zip(maps, self.shares, strict=True)] if self.shares else maps
        total = parts[0]
        for x in parts[1:]:
            total = total + x
        y: Tensor = self.conv(self.activation(total))
        return y


class Pyramid(nn.Module):
    """The start of a pyramid: projects maps whose channels differ and adds coarser levels.

    The first added level is a 1x1 convolution and a max pooling of the coarsest map, each further one a max pooling.

    Args:
        in_channels: Channels of each map, the finest first.
        out_channels: Channels of every level; 0: those of the maps, which must be equal.
        levels: The number of levels, at least that of the maps.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int, levels: int):
        super().__init__()
        if levels < max(2, len(in_channels)):
            raise ValueError(f"levels must be at least 2 and at least the number of maps, {len(in_channels)}: {levels}")
        if not out_channels and len(set(in_channels)) > 1:
            raise ValueError(f"out_channels must be given for maps of different channels: {in_channels}")
        self.channels, self.added = out_channels or in_channels[0], levels - len(in_channels)
        self.lateral = nn.ModuleList(projection(channels, self.channels) for channels in in_channels)
        self.extra = projection(in_channels[-1], self.channels) if self.added else nn.Identity()

    def start(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...] -> the map of each level, (B, C, H_i, W_i)."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        return levels + self.coarser(maps[-1])

    def coarser(self, x: Tensor) -> list[Tensor]:
        """Return the added levels, given the coarsest map."""
        found: list[Tensor] = []
        x = self.extra(x)
        for _ in range(self.added):
            x = halve(x)
            found.append(x)
        return found
