"""Block of FBNet's search space (Wu et al. 2019, figure 3 and table 2)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, DropConnect, channel_shuffle, conv_bn_act, expanded, skip_layer


class FBNetBlock(nn.Module):
    """1x1 groups, BN, activation [, shuffle], depthwise, BN, activation, 1x1 groups, BN [, shuffle] [+ input].

    Unlike `mbconv`, it keeps the first 1x1 convolution at an expansion of 1. Both 1x1 convolutions may have
    `groups`; their outputs are then shuffled.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        expand_ratio: float = 6.0,
        groups: int = 1,
        activation: Activation = "relu",
    ):
        super().__init__()
        hidden = round(expanded(in_channels, expand_ratio))
        self.groups = groups
        self.expand = conv_bn_act(in_channels, hidden, groups=groups, activation=activation)
        self.depthwise = conv_bn_act(hidden, hidden, kernel_size, stride, hidden, activation)
        self.project = conv_bn_act(hidden, out_channels, groups=groups, activation="none")
        self.skip = skip_layer("identity", in_channels, out_channels, stride)
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.expand(x)
        y = self.depthwise(channel_shuffle(y, self.groups) if self.groups > 1 else y)
        y = self.project(y)
        y = channel_shuffle(y, self.groups) if self.groups > 1 else y
        return y if self.skip is None else self.drop_connect(y) + self.skip(x)
