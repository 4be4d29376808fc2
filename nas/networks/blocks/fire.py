"""Fire module of SqueezeNet (Iandola et al. 2016, sections 3.2 and 6)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Args, UnnormalizedConv2d, concat


class Fire(nn.Module):
    """[3x3/2 max-pool,] 1x1 squeeze, ReLU, concat of 1x1 and 3x3 expand, ReLU [+ bypass]; biases, no BN.

    `squeeze_ratio` and `share_3x3` (the paper's SR and pct_3x3) are fractions of the output channels. The bypass
    "identity" adds the input if the number of channels stays the same. "conv" also adds it if the number
    changes, through a 1x1 convolution with bias.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Spell a bypass between equal channels "identity", and an identity between different ones "none"."""
        if in_channels == args["out_channels"]:
            return {"bypass": "identity"} if args["bypass"] == "conv" else {}
        return {"bypass": "none"} if args["bypass"] == "identity" else {}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        squeeze_ratio: float = 0.125,
        share_3x3: float = 0.5,
        bypass: Literal["none", "identity", "conv"] = "none",
    ):
        super().__init__()
        squeeze, wide = round(out_channels * squeeze_ratio), round(out_channels * share_3x3)
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2: {stride}")
        if squeeze < 1:
            raise ValueError(f"squeeze_ratio leaves no channels of {out_channels}: {squeeze_ratio}")
        if not 0 < wide < out_channels:
            raise ValueError(f"share_3x3 must leave 1x1 and 3x3 filters of {out_channels}: {share_3x3}")
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.squeeze = nn.Sequential(UnnormalizedConv2d(in_channels, squeeze, 1), nn.ReLU(inplace=True))
        self.expand_1x1 = nn.Sequential(UnnormalizedConv2d(squeeze, out_channels - wide, 1), nn.ReLU(inplace=True))
        self.expand_3x3 = nn.Sequential(UnnormalizedConv2d(squeeze, wide, 3, padding=1), nn.ReLU(inplace=True))
        self.bypass: nn.Module | None = None
        if bypass != "none" and in_channels == out_channels:
            self.bypass = nn.Identity()
        elif bypass == "conv":
            self.bypass = UnnormalizedConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W); at stride 2 ceil((H - 1) / 2) high."""
        x = self.pool(x)
        squeezed = self.squeeze(x)
        y = concat([self.expand_1x1(squeezed), self.expand_3x3(squeezed)])
        return y if self.bypass is None else y + self.bypass(x)
