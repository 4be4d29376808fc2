"""Empty head, for backbones."""

from __future__ import annotations

from torch import Tensor, nn


class Features(nn.Module):
    """Return the feature maps unchanged; the last one of a network without taps."""

    def __init__(self, in_channels: tuple[int, ...]):
        super().__init__()
        self.channels = in_channels[-1]

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        """[(B, C, H, W), ...] -> the same, or (B, C, H, W) if there is one."""
        return maps if len(maps) > 1 else maps[0]
