"""Linear attention of EfficientViT (Cai et al. 2023, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas.networks.blocks.layers import (
    Activation,
    Args,
    DropConnect,
    UnnormalizedConv2d,
    activation_layer,
    conv_bn_act,
    expanded,
    keeps_shape,
    same_padding,
)

EPSILON = 1e-5


class ReluAttention(nn.Module):
    """Multi-scale linear attention: each position reads all others through ReLU features (section 3.1).

    Queries, keys and values of `head_channels` channels come from a 1x1 convolution, and again from a depthwise and a
    grouped convolution over them. A 1x1 convolution and a batch norm project the heads. Its cost is linear in the
    number of positions.
    """

    def __init__(self, channels: int, head_channels: int, kernel_size: int):
        super().__init__()
        heads = channels // head_channels
        width = 3 * heads * head_channels
        self.head_channels = head_channels
        self.qkv = nn.Conv2d(channels, width, 1, bias=False)
        padding = same_padding(kernel_size)
        self.aggregate = nn.Sequential(
            nn.Conv2d(width, width, kernel_size, padding=padding, groups=width, bias=False),
            nn.Conv2d(width, width, 1, groups=3 * heads, bias=False),
        )
        self.project = conv_bn_act(2 * heads * head_channels, channels, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.aggregate(qkv)], dim=1)
        heads = both.reshape(batch, -1, 3 * self.head_channels, height * width).transpose(-1, -2).float()
        q, k, v = heads.chunk(3, dim=-1)
        q, k = q.relu(), k.relu()
        total = q @ k.sum(-2).unsqueeze(-1)  # the sum of the weights of each position
        mixed = q @ (k.transpose(-1, -2) @ v) / (total + EPSILON)
        y: Tensor = self.project(mixed.transpose(-1, -2).reshape(batch, -1, height, width).to(x.dtype))
        return y


class LinearAttention(nn.Module):
    """Linear attention + input, then an inverted bottleneck whose only batch norm is the last [+ input].

    Where the shape changes, the block is the inverted bottleneck alone, as the first block of EfficientViT's stages.

    Raises ValueError unless `head_channels` divides the channels, and for an expand_ratio below 1.
    """

    @staticmethod
    def canonical_args(in_channels: int, args: Args) -> Args:
        """Reset the keywords of the attention where there is none."""
        return {} if keeps_shape(in_channels, args) else {"head_channels": 16, "scale_kernel_size": 5}

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        expand_ratio: float = 4.0,
        head_channels: int = 16,
        scale_kernel_size: int = 5,
        activation: Activation = "hard_swish",
    ):
        super().__init__()
        self.keeps_shape = stride == 1 and in_channels == out_channels
        self.attention: nn.Module = nn.Identity()
        if self.keeps_shape:
            if head_channels < 1 or in_channels % head_channels:
                raise ValueError(f"head_channels must divide the {in_channels} channels: {head_channels}")
            self.attention = ReluAttention(in_channels, head_channels, scale_kernel_size)
        hidden = round(expanded(in_channels, expand_ratio))
        depthwise: dict[str, Any] = {"stride": stride, "padding": same_padding(kernel_size), "groups": hidden}
        self.local = nn.Sequential(
            UnnormalizedConv2d(in_channels, hidden, 1),
            activation_layer(activation),
            UnnormalizedConv2d(hidden, hidden, kernel_size, **depthwise),
            activation_layer(activation),
            conv_bn_act(hidden, out_channels, activation="none"),
        )
        self.drop_connect = DropConnect()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.keeps_shape:
            x = self.drop_connect(self.attention(x)) + x
        y: Tensor = self.local(x)
        return self.drop_connect(y) + x if self.keeps_shape else y
