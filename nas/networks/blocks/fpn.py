"""Feature pyramid (Lin et al. 2017), in the form that EfficientDet compares with BiFPN (section 5.2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation
from nas.networks.blocks.pyramid import Fuse, Pyramid, enlarge


class FPN(Pyramid):
    """A top-down path: each level is the sum of its map and the next coarser level, after a separable convolution."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        out_channels: int = 0,
        levels: int = 5,
        activation: Activation = "swish",
    ):
        super().__init__(in_channels, out_channels, levels)
        counts = [2] * (levels - 1) + [1]
        self.top_down = nn.ModuleList(Fuse(self.channels, count, "sum", activation) for count in counts)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...], the finest first -> [(B, C, H_i, W_i), ...] of every level."""
        levels = self.start(maps)
        out = [self.top_down[len(levels) - 1]([1.0 * levels[-1]])]
        for index in range(len(levels) - 2, -1, -1):
            out.insert(0, self.top_down[index]([levels[index], enlarge(out[0], levels[index])]))
        return out
