"""Depthwise-separable convolution (MobileNetV1, Howard et al. 2017, section 3.1)."""

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
    skip_layer,
    squeeze_excite,
)


class Separable(nn.Module):
    """Depthwise convolution, BN, activation [, SE], 1x1 convolution, BN, activation [+ skip].

    For the two kinds of squeeze-and-excitation, see `squeeze_excite`.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible, and `se_from` without squeeze-and-excitation."""
        return canonical_skip_and_squeeze(in_channels, args, "none")

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        activation: Activation = "relu",
        se_ratio: float = 0.0,
        se_from: SqueezeFrom = "input",
        skip: Skip = "none",
    ):
        super().__init__()
        self.depthwise = conv_bn_act(in_channels, in_channels, kernel_size, stride, in_channels, activation)
        self.se = squeeze_excite(in_channels, in_channels, se_ratio, activation, se_from)
        self.pointwise = conv_bn_act(in_channels, out_channels, activation=activation)
        self.skip = skip_layer(skip, in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.pointwise(self.se(self.depthwise(x)))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
