"""Light path aggregation: depthwise separable convolutions on concatenated maps (PicoDet, Yu et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, conv_bn_act
from nas.networks.blocks.pyramid import enlarge


def light_conv(
    in_channels: int, out_channels: int, kernel_size: int, activation: str, stride: int = 1
) -> nn.Sequential:
    """Return a depthwise and a 1x1 convolution, each with batch norm and activation."""
    return nn.Sequential(
        *conv_bn_act(in_channels, in_channels, kernel_size, stride, in_channels, activation),
        *conv_bn_act(in_channels, out_channels, activation=activation),
    )


class LightPAN(nn.Module):
    """A top-down and a bottom-up path; every node concatenates two maps.

    The added level is the sum of a strided convolution of the coarsest input and one of the coarsest output.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        out_channels: int = 96,
        added_levels: int = 1,
        kernel_size: int = 5,
        activation: Activation = "hard_swish",
    ):
        super().__init__()
        count = len(in_channels)
        if count < 2 or added_levels > 1:
            raise ValueError(f"needs two maps or more, and adds at most one level: {count} and {added_levels}")
        shape = kernel_size, activation
        self.lateral = nn.ModuleList(conv_bn_act(each, out_channels, activation=activation) for each in in_channels)
        self.top_down, self.bottom_up = (
            nn.ModuleList(light_conv(2 * out_channels, out_channels, *shape) for _ in range(count - 1)) for _ in "ab"
        )
        self.halve = nn.ModuleList(light_conv(out_channels, out_channels, *shape, stride=2) for _ in range(count - 1))
        self.added = nn.ModuleList(
            light_conv(out_channels, out_channels, *shape, stride=2) for _ in range(2 * added_levels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...], the finest first -> [(B, out_channels, H_i, W_i), ...] of every level."""
        inner = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        coarsest = inner[-1]
        for index in range(len(inner) - 2, -1, -1):
            above = enlarge(inner[index + 1], inner[index])
            inner[index] = self.top_down[index](torch.cat([above, inner[index]], 1))
        out = [inner[0]]
        for index, (halve, fuse) in enumerate(zip(self.halve, self.bottom_up, strict=True), 1):
            out.append(fuse(torch.cat([halve(out[-1]), inner[index]], 1)))
        if len(self.added):
            out.append(self.added[0](coarsest) + self.added[1](out[-1]))
        return out
