"""Residual blocks of ResNet (He et al. 2016, figure 5) and RegNet (Radosavovic et al. 2020, figure 4)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    DropConnect,
    activation_layer,
    conv_bn_act,
    make_divisible,
    squeeze_excite,
)


class Residual(nn.Module):
    """Convolutions, [SE,] BN, + shortcut, activation. The shortcut is a 1x1 convolution where the shape changes.

    "bottleneck" is 1x1, k x k, 1x1, with the stride in the k x k convolution, as torchvision has it. Its middle has
    `out_channels * mid_ratio` channels: a quarter in ResNet, all in RegNet. "basic" is two k x k convolutions, the
    first with the stride and `out_channels * mid_ratio` channels. Squeeze-and-excitation follows the k x k convolution
    of a bottleneck, or the second one of a basic block.

    `group_width` is the number of channels of a group of the k x k convolution of a bottleneck, 0 for one group. If it
    does not divide the middle's channels, these are rounded to a multiple of it, as in RegNet (section 3.3).

    Raises ValueError for a mid_ratio that is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        form: Literal["basic", "bottleneck"] = "basic",
        mid_ratio: float = 1.0,
        group_width: int = 0,
        se_ratio: float = 0.0,
        activation: Activation = "relu",
    ):
        super().__init__()
        if mid_ratio <= 0:
            raise ValueError(f"mid_ratio must be greater than 0: {mid_ratio}")
        mid = max(1, round(out_channels * mid_ratio))
        if form == "bottleneck":
            width = min(group_width, mid) or mid
            mid = make_divisible(mid, width)
            layers = [
                conv_bn_act(in_channels, mid, activation=activation),
                conv_bn_act(mid, mid, kernel_size, stride, mid // width, activation),
                squeeze_excite(mid, in_channels, se_ratio, activation),
                conv_bn_act(mid, out_channels, activation="none"),
            ]
        else:
            layers = [
                conv_bn_act(in_channels, mid, kernel_size, stride, activation=activation),
                conv_bn_act(mid, out_channels, kernel_size, activation="none"),
                squeeze_excite(out_channels, in_channels, se_ratio, activation),
            ]
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_bn_act(in_channels, out_channels, 1, stride, activation="none")
        self.activation = activation_layer(activation)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.activation(self.drop_connect(self.body(x)) + self.shortcut(x))
        return y
