"""One-shot aggregation (VoVNet, Lee et al. 2019, section 3; eSE from VoVNetV2, Lee and Park 2020).

The light layers are those of PP-HGNetV2 (PaddleClas).
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, Args, DropConnect, concat, conv_bn_act, keeps_shape


class EffectiveSqueezeExcite(nn.Module):
    """Global mean, 1x1 convolution without reduction, hard-sigmoid gate on the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate: Tensor = self.gate(self.conv(x.mean((2, 3), keepdim=True)))
        return x * gate


def light_conv(in_channels: int, out_channels: int, kernel_size: int, activation: str) -> nn.Sequential:
    """1x1 convolution, BN, depthwise convolution, BN, activation."""
    pointwise = conv_bn_act(in_channels, out_channels, activation="none")
    return nn.Sequential(*pointwise, *conv_bn_act(out_channels, out_channels, kernel_size, 1, out_channels, activation))


class OSA(nn.Module):
    """[3x3/2 max-pool,] convolutions in series, concat of the input and all outputs, 1x1 [, eSE] [+ input].

    With `light`, each convolution is a 1x1 and a depthwise one.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset `identity` where the input does not have the output's shape."""
        return {} if keeps_shape(in_channels, args) else {"identity": False}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        mid_channels: int,
        stride: int = 1,
        num_layers: int = 5,
        kernel_size: int = 3,
        activation: Activation = "relu",
        identity: bool = False,
        ese: bool = False,
        light: bool = False,
    ):
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2: {stride}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1: {num_layers}")
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        widths = [in_channels] + [mid_channels] * num_layers
        layer = light_conv if light else conv_bn_act
        self.layers = nn.ModuleList(
            layer(width, mid_channels, kernel_size, activation=activation) for width in widths[:-1]
        )
        self.aggregate = conv_bn_act(sum(widths), out_channels, activation=activation)
        self.ese = EffectiveSqueezeExcite(out_channels) if ese else nn.Identity()
        self.identity = identity and stride == 1 and in_channels == out_channels
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride) for even H and W."""
        maps = [self.pool(x)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        y: Tensor = self.ese(self.aggregate(concat(maps)))
        return self.drop_connect(y) + maps[0] if self.identity else y
