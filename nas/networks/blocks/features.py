"""Empty head, for backbones."""

from __future__ import annotations

from torch import Tensor, nn


class Features(nn.Module):
    """Return the last feature map unchanged."""

    def __init__(self, in_channels: tuple[int, ...]):
        super().__init__()
        self.channels = in_channels[-1]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, C, H, W) of the last."""
        return maps[-1]
