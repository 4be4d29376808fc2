"""Plain convolution: a stem, a downsampling layer, or a choice in MnasNet's space."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    Args,
    DropConnect,
    Skip,
    canonical_skip,
    conv_bn_act,
    skip_layer,
    squeeze_excite,
)


class Conv(nn.Module):
    """Convolution, BN, activation [, SE] [+ skip]."""

    repeats_alone = False

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `skip` where no skip is possible."""
        return canonical_skip(in_channels, args, "none")

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        groups: int = 1,
        activation: Activation = "relu",
        se_ratio: float = 0.0,
        skip: Skip = "none",
    ):
        super().__init__()
        self.conv = conv_bn_act(in_channels, out_channels, kernel_size, stride, groups=groups, activation=activation)
        self.se = squeeze_excite(out_channels, in_channels, se_ratio, activation)
        self.skip = skip_layer(skip, in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.se(self.conv(x))
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
