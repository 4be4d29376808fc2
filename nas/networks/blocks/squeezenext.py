"""Block of SqueezeNext (Gholami et al. 2018, section 2, figure 1), as in the authors' prototxts."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Args, keeps_shape


def _unit(
    channels: tuple[int, int],
    kernel_size: tuple[int, int] = (1, 1),
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    conv = nn.Conv2d(*channels, kernel_size, stride, padding, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(channels[1]), nn.ReLU(inplace=True))


class SqueezeNext(nn.Module):
    """1x1 to c/2, 1x1 to c/4, 3x1, 1x3 (or 1x3, 3x1) to c/2, 1x1 to c, all with BN, ReLU; + shortcut; ReLU.

    The first 1x1 and the projection (1x1, BN, ReLU) have the stride. A block that changes the resolution or the
    channels always has the projection. `groups` applies to the first 1x1, the 3x1 and the 1x3.
    """

    alternating_keywords = ("order",)

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `shortcut` where only a projection is possible."""
        return {} if keeps_shape(in_channels, args) else {"shortcut": "identity"}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        groups: int = 1,
        order: Literal["vertical", "horizontal"] = "vertical",
        shortcut: Literal["identity", "projection"] = "identity",
        bias: bool = False,
    ):
        super().__init__()
        if out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4: {out_channels}")
        half, quarter = out_channels // 2, out_channels // 4
        if groups < 1 or in_channels % groups or quarter % groups:
            raise ValueError(f"groups must divide {in_channels} and a quarter of {out_channels}: {groups}")
        first, second = ((3, 1), (1, 3)) if order == "vertical" else ((1, 3), (3, 1))
        self.main = nn.Sequential(
            _unit((in_channels, half), stride=stride, groups=groups, bias=bias),
            _unit((half, quarter), bias=bias),
            _unit((quarter, half), first, groups=groups, bias=bias),
            _unit((half, half), second, groups=groups, bias=bias),
            _unit((half, out_channels), bias=bias),
        )
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "projection" or in_channels != out_channels or stride != 1:
            self.shortcut = _unit((in_channels, out_channels), stride=stride, bias=bias)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.relu(self.shortcut(x) + self.main(x))
        return y
