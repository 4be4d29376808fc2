"""Layers shared by several blocks: convolution with batch norm, activations, squeeze-and-excitation and skips.

An exported network contains the source of the layers that it uses, so this file uses plain torch only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "relu", "relu6", "hard_swish", "swish", "gelu"]
Skip = Literal["none", "identity", "pool"]
SqueezeFrom = Literal["input", "expansion"]
Args = Mapping[str, Any]
"""A block's keywords with their values."""


class UnnormalizedConv2d(nn.Conv2d):
    """A convolution with an activation but no batch norm. Its first weights keep the variance of its input.

    They are drawn from He's uniform distribution over the fan-in (He et al. 2015), as in torchvision's SqueezeNet.
    """


class Conv2x2(nn.Conv2d):
    """A 2 x 2 convolution that keeps the map size at stride 1: one row and one column of zeros follow the map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self._conv_forward(F.pad(x, [0, 1, 0, 1]), self.weight, self.bias)
        return y


class ClassifierConv2d(nn.Conv2d):
    """A 1x1 convolution to the classes. Its first weights have a standard deviation of 0.01, as a linear layer's."""


def activation_layer(name: str) -> nn.Module:
    """Return an activation, which works in place if torch supports it."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "relu6":
        return nn.ReLU6(inplace=True)
    if name == "hard_swish":
        return nn.Hardswish(inplace=True)
    if name == "swish":
        return nn.SiLU(inplace=True)
    if name == "gelu":
        return nn.GELU()
    if name == "none":
        return nn.Identity()
    raise ValueError(f"unknown activation '{name}'")


def same_padding(kernel_size: int) -> int:
    """Return the padding that keeps the map size at stride 1. Raises ValueError for an even kernel."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 1: {kernel_size}")
    return kernel_size // 2


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str = "relu",
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation: (B, in, H, W) -> (B, out, ceil(H / stride), ...)."""
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide the channels: {in_channels} -> {out_channels}, groups {groups}")
    if kernel_size == 2:
        conv: nn.Conv2d = Conv2x2(in_channels, out_channels, 2, stride, groups=groups, bias=False)
    else:
        padding = same_padding(kernel_size)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(out_channels)]
    if activation != "none":
        layers.append(activation_layer(activation))
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Global mean, 1x1 reduce, activation, 1x1 expand, sigmoid gate on the input (Hu et al. 2018)."""

    def __init__(self, channels: int, squeeze_channels: int, activation: str = "relu", gate: str = "sigmoid"):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1)
        self.activation = activation_layer(activation)
        self.expand = nn.Conv2d(squeeze_channels, channels, 1)
        self.gate = nn.Hardsigmoid() if gate == "hard_sigmoid" else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        scale = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.activation(self.reduce(scale))))
        return x * gate


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a positive multiple of `divisor`, and never down by more than 10 % (TF-slim)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def expanded(channels: int, expand_ratio: float) -> float:
    """Return the channels of an expansion, not rounded. Raises ValueError for a ratio below 1."""
    if expand_ratio < 1:
        raise ValueError(f"expand_ratio must be at least 1: {expand_ratio}")
    return channels * expand_ratio


def squeeze_excite(
    channels: int, in_channels: int, se_ratio: float, activation: str, se_from: str = "input"
) -> nn.Module:
    """Return squeeze-and-excitation over `channels`, or the identity if `se_ratio` is 0.

    Args:
        channels: Channels of the feature map.
        in_channels: Input channels of the block.
        se_ratio: Squeezed channels as a fraction, in [0, 1], of the channels that `se_from` selects.
        activation: The block's activation.
        se_from: "input" squeezes to a fraction of `in_channels`, with the block's activation and a sigmoid gate
            (MnasNet, EfficientNet). "expansion" squeezes to a fraction of `channels`, rounded to a multiple of 8,
            with ReLU and a hard-sigmoid gate (MobileNetV3, section 5.3).

    Raises:
        ValueError: `se_ratio` is not in [0, 1].
    """
    if not 0 <= se_ratio <= 1:
        raise ValueError(f"se_ratio must be in [0, 1]: {se_ratio}")
    if se_ratio == 0:
        return nn.Identity()
    if se_from == "expansion":
        return SqueezeExcite(channels, make_divisible(channels * se_ratio), "relu", "hard_sigmoid")
    return SqueezeExcite(channels, max(1, int(in_channels * se_ratio)), activation)


class DropConnect(nn.Module):
    """In training, drop a block's residual branch per image with probability `rate` (Huang et al. 2016).

    Kept branches are divided by 1 - rate. The rate is 0 until the training sets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand((x.shape[0], 1, 1, 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)

    def deploy(self) -> nn.Module:
        """Return the identity, which this layer equals outside of training."""
        return nn.Identity()


class ChannelScale(nn.Module):
    """Multiply each channel by a weight, which begins at `first` (layer scale, Touvron et al. 2021, section 2)."""

    first = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), self.first))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.gamma[:, None, None]


def skip_layer(skip: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Return the layer on a block's skip connection, or None if no skip is possible (MnasNet's SkipOp).

    "identity" requires equal channels and stride 1. "pool", a 3x3 average pool with the block's stride, requires
    equal channels.
    """
    if in_channels != out_channels:
        return None
    if skip == "identity" and stride == 1:
        return nn.Identity()
    if skip == "pool":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return None


def keeps_shape(in_channels: int, args: Args) -> bool:
    """Whether a block's output has the shape of its input."""
    return bool(args["stride"] == 1 and in_channels == args["out_channels"])


def canonical_skip(in_channels: int, args: Args, default: Skip) -> dict[str, Any]:
    """Return {"skip": default} if neither the given skip nor an identity is possible, else {}."""
    words = ("identity", args["skip"])
    possible = any(skip_layer(word, in_channels, args["out_channels"], args["stride"]) for word in words)
    return {} if possible else {"skip": default}


def canonical_skip_and_squeeze(in_channels: int, args: Args, default: Skip) -> dict[str, Any]:
    """Return what `canonical_skip` does, and `se_from` reset without squeeze-and-excitation."""
    changes = canonical_skip(in_channels, args, default)
    return changes if args["se_ratio"] else {**changes, "se_from": "input"}


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups (ShuffleNet): (B, C, H, W) -> (B, C, H, W)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def concat(maps: list[Tensor]) -> Tensor:
    """Concatenate feature maps along the channels."""
    return torch.cat(maps, dim=1)


def global_pool(x: Tensor) -> Tensor:
    """Mean over height and width: (B, C, H, W) -> (B, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
