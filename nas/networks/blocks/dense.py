"""Dense layer of DenseNet-BC (Huang et al. 2017, sections 3 and 4.2) and of DSOD's backbone."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import concat
from nas.networks.blocks.preactivation import bn_relu_conv, bottleneck_channels, halving


class DenseLayer(nn.Module):
    """[2x2 average pool,] BN, ReLU, 1x1, BN, ReLU, 3x3, concat with the input: adds `growth_rate` channels.

    The 1x1 convolution has `bottleneck` times `growth_rate` output channels.
    """

    width_keywords = ("growth_rate",)

    def __init__(self, in_channels: int, *, growth_rate: int, bottleneck: int = 4, stride: int = 1):
        super().__init__()
        hidden = bottleneck_channels(growth_rate, bottleneck)
        self.pool = halving(stride)
        self.layers = nn.Sequential(
            *bn_relu_conv(in_channels, hidden), *bn_relu_conv(hidden, growth_rate, kernel_size=3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth_rate, H // stride, W // stride)."""
        x = self.pool(x)
        return concat([x, self.layers(x)])
