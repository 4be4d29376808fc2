"""Dense prediction structure of DSOD (Shen et al. 2017, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.networks.blocks.preactivation import bn_relu_conv


class Halve(nn.Module):
    """Half of the output channels are learned, half are a max pooling and a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.learned = nn.Sequential(
            *bn_relu_conv(in_channels, channels), *bn_relu_conv(channels, channels, kernel_size=3, stride=2)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), *bn_relu_conv(in_channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 2 * channels, ceil(H / 2), ceil(W / 2))."""
        return torch.cat([self.learned(x), self.pooled(x)], 1)


class DSODNeck(nn.Module):
    """Keeps the finer of two maps, fuses the coarser one with it, and adds levels that halve the size.

    The fused map and the first added level have `out_channels` channels, the others half of them.
    """

    def __init__(self, in_channels: tuple[int, ...], *, out_channels: int = 512, levels: int = 6):
        super().__init__()
        if len(in_channels) != 2 or levels < 3:
            raise ValueError(f"needs two maps and at least three levels: {len(in_channels)} and {levels}")
        half = out_channels // 2
        self.pooled = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), *bn_relu_conv(in_channels[0], half))
        channels = in_channels[1] + half
        added = []
        for index in range(levels - 2):
            width = half if index == 0 else half // 2
            added.append(Halve(channels, width))
            channels = 2 * width
        self.added = nn.ModuleList(added)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_1, H, W), (B, C_2, ceil(H / 2), ceil(W / 2))] -> `levels` maps, the first one unchanged."""
        x = torch.cat([maps[1], self.pooled(maps[0])], 1)
        found = [maps[0], x]
        for halve in self.added:
            x = halve(x)
            found.append(x)
        return found
