"""Fused inverted bottleneck (EfficientNet-EdgeTPU 2019; EfficientNetV2, Tan and Le 2021, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    Args,
    DropConnect,
    Skip,
    SqueezeFrom,
    canonical_skip_and_squeeze,
    conv_bn_act,
    expanded,
    skip_layer,
    squeeze_excite,
)


class FusedMBConv(nn.Module):
    """k x k expand, BN, activation [, SE], 1x1 project, BN [+ skip].

    One dense convolution replaces MBConv's expansion and depthwise convolution. If the expansion does not change
    the number of channels, there is no projection: k x k, BN, activation [, SE] [+ skip]. SE is as in MBConv. The k x k
    convolution has `groups` groups (CPUBone, Nottebaum et al. 2026, with 2 groups and a kernel of 2 x 2).
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible, and `se_from` without squeeze-and-excitation."""
        return canonical_skip_and_squeeze(in_channels, args, "identity")

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        expand_ratio: float = 4.0,
        groups: int = 1,
        se_ratio: float = 0.0,
        se_from: SqueezeFrom = "input",
        activation: Activation = "swish",
        skip: Skip = "identity",
    ):
        super().__init__()
        hidden = round(expanded(in_channels, expand_ratio))
        projects = hidden != in_channels
        width = hidden if projects else out_channels
        self.expand = conv_bn_act(in_channels, width, kernel_size, stride, groups=groups, activation=activation)
        self.se = squeeze_excite(width, in_channels, se_ratio, activation, se_from)
        self.project = conv_bn_act(width, out_channels, activation="none") if projects else nn.Identity()
        self.skip = skip_layer(skip, in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.project(self.se(self.expand(x)))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
