"""Two-way dense layer of PeleeNet (Wang et al. 2018, section 2.1, figure 1)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import concat, conv_bn_act
from nas.networks.blocks.preactivation import halving


class TwoWayDense(nn.Module):
    """[2x2 average pool,] concat of the input and two branches (1x1, 3x3; 1x1, 3x3, 3x3), all with BN, ReLU.

    Each branch adds growth_rate / 2 channels. Its 1x1 has `bottleneck_width` times as many, rounded down to a
    multiple of 4, but at most half of the input's channels (the paper's dynamic bottleneck).
    """

    width_keywords = ("growth_rate",)

    def __init__(self, in_channels: int, *, growth_rate: int = 32, bottleneck_width: int = 4, stride: int = 1):
        super().__init__()
        if growth_rate < 2 or growth_rate % 2:
            raise ValueError(f"growth_rate must be even and at least 2: {growth_rate}")
        half = growth_rate // 2
        hidden = half * bottleneck_width // 4 * 4
        if hidden > in_channels / 2:
            hidden = in_channels // 8 * 4
        if hidden < 1:
            raise ValueError(
                f"bottleneck_width {bottleneck_width} leaves no channels: in_channels {in_channels}, "
                f"growth_rate {growth_rate}"
            )
        self.pool = halving(stride)
        self.near = nn.Sequential(conv_bn_act(in_channels, hidden), conv_bn_act(hidden, half, 3))
        self.far = nn.Sequential(
            conv_bn_act(in_channels, hidden), conv_bn_act(hidden, half, 3), conv_bn_act(half, half, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth_rate, H // stride, W // stride)."""
        x = self.pool(x)
        return concat([x, self.near(x), self.far(x)])
