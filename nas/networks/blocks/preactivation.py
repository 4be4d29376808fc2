"""Layers of the pre-activation families: DenseNet, DSOD and CondenseNet."""

from __future__ import annotations

from torch import Tensor, nn

from nas.networks.blocks.layers import same_padding


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ValueError unless `groups` divides the input and output channels of a convolution."""
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide the channels: {in_channels} -> {out_channels}, groups {groups}")


def bn_relu_conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1, stride: int = 1
) -> list[nn.Module]:
    """Return batch norm, ReLU and a convolution without bias: (B, in, H, W) -> (B, out, ceil(H / stride), ...)."""
    check_groups(in_channels, out_channels, groups)
    padding = same_padding(kernel_size)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv]


def halving(stride: int) -> nn.Module:
    """Return the 2x2 average pool before a layer of stride 2, or the identity at stride 1. Raises ValueError."""
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2: {stride}")
    return nn.AvgPool2d(2) if stride == 2 else nn.Identity()


def bottleneck_channels(growth_rate: int, bottleneck: int) -> int:
    """Return `bottleneck` times `growth_rate`. Raises ValueError if one of them is 0."""
    if growth_rate < 1 or bottleneck < 1:
        raise ValueError(f"growth_rate and bottleneck must be at least 1: {growth_rate}, {bottleneck}")
    return bottleneck * growth_rate


def picked_norm(norm: nn.BatchNorm2d, index: Tensor) -> nn.BatchNorm2d:
    """Return a batch norm for the channels `index` of `norm`, in that order."""
    picked = nn.BatchNorm2d(len(index), eps=norm.eps).train(norm.training).to(norm.weight.device)
    state = norm.state_dict()
    picked.load_state_dict({key: value[index] if value.dim() else value for key, value in state.items()})
    return picked
