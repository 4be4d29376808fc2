"""Feature pyramid (Lin et al. 2017), in the form that EfficientDet compares with BiFPN (section 5.2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation
from nas.networks.blocks.pyramid import Fuse, Pyramid, enlarge


class TopDown(nn.Module):
    """Each level is the sum of its map and the next coarser level, after a separable convolution."""

    def __init__(self, channels: int, levels: int, activation: str):
        super().__init__()
        counts = [2] * (levels - 1) + [1]
        self.nodes = nn.ModuleList(Fuse(channels, count, "sum", activation) for count in counts)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """[(B, C, H_i, W_i), ...], the finest first -> the same shapes."""
        out = [self.nodes[len(levels) - 1]([1.0 * levels[-1]])]  # a copy: activations work in place
        for index in range(len(levels) - 2, -1, -1):
            out.insert(0, self.nodes[index]([levels[index], enlarge(out[0], levels[index])]))
        return out


class FPN(Pyramid):
    """A top-down path over the maps and the levels that are added to them."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        out_channels: int = 0,
        levels: int = 5,
        activation: Activation = "swish",
    ):
        super().__init__(in_channels, out_channels, levels)
        self.top_down = TopDown(self.channels, levels, activation)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...], the finest first -> [(B, C, H_i, W_i), ...] of every level."""
        out: list[Tensor] = self.top_down(self.start(maps))
        return out
