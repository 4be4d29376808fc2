"""CondenseNet's dense layer at test time: its groups read fixed inputs (Huang et al. 2018, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.networks.blocks.layers import channel_shuffle, concat
from nas.networks.blocks.preactivation import bn_relu_conv, bottleneck_channels, check_groups, halving


class IndexedGroupConv(nn.Module):
    """Gather the channels `index`, BN, ReLU, 1x1 group convolution, BN, ReLU, shuffle.

    Group g reads the g-th part of `index`. Several parts may contain the same input.
    """

    def __init__(self, index: Tensor, out_channels: int, groups: int):
        super().__init__()
        self.groups = groups
        self.index: Tensor  # torch.jit.script cannot read an annotation in the class
        self.register_buffer("index", index)
        self.layers = nn.Sequential(
            *bn_relu_conv(len(index), out_channels, groups=groups),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        return channel_shuffle(self.layers(x.index_select(1, self.index)), self.groups)


class Condensed(nn.Module):
    """[2x2 average pool,] index, BN, ReLU, 1x1 groups, BN, ReLU, shuffle, 3x3 groups, concat with the input.

    Each group of the 1x1 convolution reads 1 / `condense_factor` of the input. A trained `condense` block decides
    which channels; without one it is every `condense_factor`-th channel.
    """

    width_keywords = ("growth_rate",)

    def __init__(
        self,
        in_channels: int,
        *,
        growth_rate: int,
        bottleneck: int = 4,
        groups: int = 4,
        condense_factor: int = 4,
        stride: int = 1,
    ):
        super().__init__()
        if condense_factor < 1 or in_channels % condense_factor:
            raise ValueError(f"condense_factor must divide the channels: {in_channels}, {condense_factor}")
        hidden = bottleneck_channels(growth_rate, bottleneck)
        check_groups(hidden, growth_rate, groups)
        spread = torch.arange(in_channels // condense_factor) * condense_factor
        index = torch.cat([spread + group % condense_factor for group in range(groups)])
        self.pool = halving(stride)
        self.squeeze = IndexedGroupConv(index, hidden, groups)
        self.expand = nn.Conv2d(hidden, growth_rate, 3, padding=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth_rate, H // stride, W // stride)."""
        x = self.pool(x)
        return concat([x, self.expand(self.squeeze(x))])
