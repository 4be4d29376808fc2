"""Path aggregation (PANet, Liu et al. 2018), in the form that EfficientDet compares with BiFPN (section 5.2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.fpn import TopDown
from nas.networks.blocks.layers import Activation
from nas.networks.blocks.pyramid import Fuse, Pyramid, halve


class PANet(Pyramid):
    """A top-down path, and a bottom-up path after it."""

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
        self.bottom_up = nn.ModuleList(Fuse(self.channels, 2, "sum", activation) for _ in range(levels - 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...], the finest first -> [(B, C, H_i, W_i), ...] of every level."""
        down = self.top_down(self.start(maps))
        out = [down[0]]
        for index, fuse in enumerate(self.bottom_up, 1):
            out.append(fuse([down[index], halve(out[-1])]))
        return out
