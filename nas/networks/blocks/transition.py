"""Transition layer between two dense blocks (DenseNet, Huang et al. 2017, section 3; DSOD, Shen et al. 2017)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Args
from nas.networks.blocks.preactivation import bn_relu_conv


class Transition(nn.Module):
    """BN, ReLU, 1x1 convolution [, 2x2 pool with stride 2].

    The output has `out_channels` channels or, if that is 0, the fraction `compression` of the input's. The average
    pool drops an odd last row, as in DenseNet; the max pool keeps it, as in DSOD.
    """

    repeatable = False

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `compression` where `out_channels` overrides it."""
        return {"compression": 0.5} if args["out_channels"] else {}

    def __init__(
        self,
        in_channels: int,
        *,
        compression: float = 0.5,
        out_channels: int = 0,
        pool: Literal["average", "max", "none"] = "average",
    ):
        super().__init__()
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be in (0, 1]: {compression}")
        width = out_channels or int(in_channels * compression)
        if width < 1:
            raise ValueError(f"compression {compression} leaves no channels of {in_channels}")
        self.layers = nn.Sequential(*bn_relu_conv(in_channels, width))
        self.pool: nn.Module = nn.Identity()
        if pool != "none":
            self.pool = nn.AvgPool2d(2) if pool == "average" else nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H / 2, W / 2), or (B, width, H, W) without a pool."""
        y: Tensor = self.pool(self.layers(x))
        return y
