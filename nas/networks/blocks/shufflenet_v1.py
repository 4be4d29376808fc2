"""Unit of ShuffleNetV1 (Zhang et al. 2018, figure 2 b and c)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, DropConnect, activation_layer, channel_shuffle, concat, conv_bn_act


class ShuffleNetV1Unit(nn.Module):
    """Group 1x1, BN, activation, shuffle, depthwise, BN, group 1x1, BN, + input, activation.

    The bottleneck has out_channels / 4 channels. A unit that changes the resolution or the channels concatenates
    instead of adding: input (3x3 average pooled if strided), branch of out_channels - in_channels, activation.
    In a network's first unit, the first 1x1 is "ungrouped" because its input has few channels (section 3.3).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        groups: int = 1,
        first: Literal["grouped", "ungrouped"] = "grouped",
        activation: Activation = "relu",
    ):
        super().__init__()
        if out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4: {out_channels}")
        if groups < 1:
            raise ValueError(f"groups must be at least 1: {groups}")
        self.adds = stride == 1 and in_channels == out_channels
        if not self.adds and in_channels >= out_channels:
            raise ValueError(
                f"out_channels must exceed in_channels where it concatenates: {in_channels} -> {out_channels}"
            )
        mid, branch = out_channels // 4, out_channels if self.adds else out_channels - in_channels
        self.groups = groups
        self.reduce = conv_bn_act(in_channels, mid, groups=groups if first == "grouped" else 1, activation=activation)
        self.depthwise = conv_bn_act(mid, mid, kernel_size, stride, mid, "none")
        self.expand = conv_bn_act(mid, branch, groups=groups, activation="none")
        self.shortcut = nn.Identity() if stride == 1 else nn.AvgPool2d(3, stride, padding=1)
        self.drop_connect = DropConnect()
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        kept = self.shortcut(x)
        out: Tensor = self.activation(self.drop_connect(y) + kept if self.adds else concat([kept, y]))
        return out
