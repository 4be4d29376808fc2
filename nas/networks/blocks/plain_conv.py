"""Convolution with explicit padding, as in the stems of SqueezeNet, SqueezeNext and CondenseNet."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nas.networks.blocks.layers import Activation, UnnormalizedConv2d, activation_layer


class PlainConv(nn.Module):
    """Convolution [with bias] [, BN], activation, with `padding` pixels on every side."""

    repeats_alone = False

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 1,
        padding: int = 0,
        norm: Literal["batch", "none"] = "batch",
        bias: bool = False,
        activation: Activation = "relu",
    ):
        super().__init__()
        if kernel_size < 1 or not 0 <= padding < kernel_size:
            raise ValueError(f"padding must be in [0, kernel_size): {padding}, kernel_size {kernel_size}")
        kind = UnnormalizedConv2d if norm == "none" and activation != "none" else nn.Conv2d
        layers: list[nn.Module] = [kind(in_channels, out_channels, kernel_size, stride, padding, bias=bias)]
        if norm == "batch":
            layers.append(nn.BatchNorm2d(out_channels))
        if activation != "none":
            layers.append(activation_layer(activation))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'); H' = (H + 2 padding - k) // stride + 1."""
        y: Tensor = self.layers(x)
        return y
