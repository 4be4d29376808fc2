"""Residual prediction block of the Pelee detector (Wang et al. 2018, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, activation_layer, conv_bn_act


class ResidualPrediction(nn.Module):
    """1x1, 3x3 and 1x1 convolution with half the channels inside, plus a 1x1 convolution, then an activation."""

    def __init__(self, in_channels: int, *, out_channels: int = 256, activation: Activation = "relu"):
        super().__init__()
        inner = out_channels // 2
        if not inner:
            raise ValueError(f"out_channels must be at least 2: {out_channels}")
        self.branch = nn.Sequential(
            conv_bn_act(in_channels, inner, activation=activation),
            conv_bn_act(inner, inner, 3, activation=activation),
            conv_bn_act(inner, out_channels, activation="none"),
        )
        self.shortcut = conv_bn_act(in_channels, out_channels, activation="none")
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        y: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return y
