"""Unit of ShuffleNetV2 (Ma et al. 2018, figure 3 c and d)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, channel_shuffle, concat, conv_bn_act


class ShuffleNetV2Unit(nn.Module):
    """Split, [1x1, BN, activation, depthwise, BN, 1x1, BN, activation] on one half, concat, shuffle.

    A unit that changes the resolution or the channels has no split. Its second branch is depthwise, BN, 1x1, BN,
    activation. In the authors' code this branch keeps the input's channels; in torchvision each branch has half
    of the output channels. Therefore torchvision's numbers differ from the paper's.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        activation: Activation = "relu",
        variant: Literal["authors", "torchvision"] = "authors",
    ):
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels must be even: {out_channels}")
        mid = out_channels // 2
        self.split = stride == 1 and in_channels == out_channels
        kept = mid if self.split or variant == "torchvision" else in_channels
        if kept >= out_channels:
            raise ValueError(f"out_channels must exceed in_channels without a split: {in_channels} -> {out_channels}")
        main_in = mid if self.split else in_channels
        self.main = nn.Sequential(
            conv_bn_act(main_in, mid, activation=activation),
            conv_bn_act(mid, mid, kernel_size, stride, mid, "none"),
            conv_bn_act(mid, out_channels - kept, activation=activation),
        )
        self.branch: nn.Module = nn.Identity()
        if not self.split:
            self.branch = nn.Sequential(
                conv_bn_act(in_channels, in_channels, kernel_size, stride, in_channels, "none"),
                conv_bn_act(in_channels, kept, activation=activation),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        kept = worked = x
        if self.split:
            kept, worked = x.chunk(2, dim=1)
        return channel_shuffle(concat([self.branch(kept), self.main(worked)]), groups=2)
