"""Bidirectional feature pyramid (EfficientDet, Tan et al. 2020, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation
from nas.networks.blocks.pyramid import Fuse, Pyramid, Weighting, enlarge, halve, projection


class BiFPN(Pyramid):
    """One cell: a top-down and a bottom-up path, which also reads the cell's inputs.

    It adds the levels that lack, and projects maps whose channels differ. A map that two nodes read has two
    projections, as in the authors' implementation. So a stage of depth 3 is a cell with projections and two without.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        *,
        out_channels: int = 0,
        levels: int = 5,
        fusion: Weighting = "fast",
        activation: Activation = "swish",
    ):
        super().__init__(in_channels, out_channels, levels)
        self.second = nn.ModuleList(projection(channels, self.channels) for channels in in_channels[1:])
        fused = [2] * (levels - 1), [3] * (levels - 2) + [2]
        self.top_down, self.bottom_up = (
            nn.ModuleList(Fuse(self.channels, count, fusion, activation) for count in counts) for counts in fused
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i), ...], the finest first -> [(B, C, H_i, W_i), ...] of every level."""
        levels = self.start(maps)
        second = [project(x) for project, x in zip(self.second, maps[1:], strict=True)] + levels[len(maps) :]
        down = list(levels)
        for index in range(len(levels) - 2, -1, -1):
            down[index] = self.top_down[index]([levels[index], enlarge(down[index + 1], levels[index])])
        out = [down[0]]
        for index, fuse in enumerate(self.bottom_up, 1):
            between = [down[index]] if index < len(levels) - 1 else []
            out.append(fuse([second[index - 1], *between, halve(out[-1])]))
        return out
