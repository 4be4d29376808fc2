"""Plain pooling, as in the stems of ShuffleNet and SqueezeNet."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Pool(nn.Module):
    """Max or average pooling. The number of channels stays the same."""

    repeatable = False

    def __init__(
        self,
        in_channels: int,
        *,
        stride: int = 2,
        kernel_size: int = 3,
        padding: int = 1,
        kind: Literal["max", "average"] = "max",
        ceil_mode: bool = False,
    ):
        super().__init__()
        layer = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
        self.pool = layer(kernel_size, stride, padding, ceil_mode=ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        y: Tensor = self.pool(x)
        return y
