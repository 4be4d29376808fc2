"""Stem of PeleeNet (Wang et al. 2018, section 2.1, figure 2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import concat, conv_bn_act


class PeleeStem(nn.Module):
    """3x3/2, concat of two branches (2x2/2 max-pool; 1x1 to half the channels, 3x3/2), 1x1; all with BN, ReLU."""

    repeatable = False

    def __init__(self, in_channels: int, *, out_channels: int = 32):
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels must be even: {out_channels}")
        half = out_channels // 2
        self.first = conv_bn_act(in_channels, out_channels, 3, stride=2)
        self.narrow = nn.Sequential(conv_bn_act(out_channels, half), conv_bn_act(half, out_channels, 3, stride=2))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.last = conv_bn_act(2 * out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 4, W / 4), each halving rounded up."""
        x = self.first(x)
        y: Tensor = self.last(concat([self.pool(x), self.narrow(x)]))
        return y
