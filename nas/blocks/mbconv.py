"""The mobile inverted bottleneck (MobileNetV2, Sandler et al. 2018, section 3.3; MnasNet, figure 7)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.blocks.layers import Activation, Skip, conv_bn_act, skip_layer, squeeze_excite


class MBConv(nn.Module):
    """[1x1 expand, BN, activation,] depthwise, BN, activation [, SE], 1x1 project, BN [+ skip].

    An expand_ratio of 1 has no expansion. The squeeze of SE is a part of the block's input channels
    (MnasNet, EfficientNet) or of the expansion.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        expand_ratio: float = 6.0,
        se_ratio: float = 0.0,
        se_from: Literal["input", "expansion"] = "input",
        activation: Activation = "relu",
        skip: Skip = "identity",
    ):
        super().__init__()
        if expand_ratio < 1:
            raise ValueError(f"expand_ratio must be at least 1: {expand_ratio}")
        hidden = round(in_channels * expand_ratio)
        self.expand = (
            conv_bn_act(in_channels, hidden, activation=activation) if hidden != in_channels else nn.Identity()
        )
        self.depthwise = conv_bn_act(hidden, hidden, kernel_size, stride, hidden, activation)
        base = in_channels if se_from == "input" else hidden
        self.se = squeeze_excite(hidden, base, se_ratio, activation)
        self.project = conv_bn_act(hidden, out_channels, activation="none")
        self.skip = skip_layer(skip, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return y if self.skip is None else y + self.skip(x)
