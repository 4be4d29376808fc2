"""Branches: parallel convolutions that train in the place of one and are folded into it afterwards.

The trained network has the layers, and so the latency, of one that was trained without branches (RepVGG, Ding et al.
2021, section 3; MobileOne, Vasu et al. 2023, section 3.2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nas.networks.first_weights import with_first_weights


class Branched(nn.Module):
    """The sum of branches that read the same map: k x k convolutions, a 1x1 convolution and the identity, each with BN.

    The identity is left out where the shape changes. `fold` puts the sum into the first convolution and its norm.

    Args:
        conv: A convolution without bias, with an odd square kernel above 1. It becomes the first branch.
        norm: The batch norm behind it.
        count: The number of k x k branches.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, count: int):
        super().__init__()
        self.conv, self.norm = conv, norm
        self.branches = nn.ModuleList(
            nn.Sequential(self._similar(size), nn.BatchNorm2d(conv.out_channels, norm.eps, norm.momentum))
            for size in [conv.kernel_size[0]] * (count - 1) + [1]
        )
        self.identity: nn.BatchNorm2d | None = None
        if conv.stride == (1, 1) and conv.in_channels == conv.out_channels:
            self.identity = nn.BatchNorm2d(conv.out_channels, norm.eps, norm.momentum)

    def _similar(self, size: int) -> nn.Conv2d:
        """Return a convolution like the first with another kernel size."""
        first = self.conv
        channels = first.in_channels, first.out_channels
        stride = first.stride[0], first.stride[1]
        return nn.Conv2d(*channels, size, stride, size // 2, groups=first.groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.norm(self.conv(x))
        for branch in self.branches:
            y = y + branch(x)
        return y if self.identity is None else y + self.identity(x)

    @torch.no_grad()
    def fold(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return the first convolution and its norm with the weights of all branches; in eval mode nothing changes."""
        size, conv, norm = self.conv.kernel_size[0], self.conv, self.norm
        weight, bias = _scaled(conv.weight.double(), norm)
        for branch in self.branches:
            branch_weight, branch_bias = _scaled(branch[0].weight.double(), branch[1])  # type: ignore[index]
            margin = (size - branch_weight.shape[-1]) // 2
            weight += nn.functional.pad(branch_weight, [margin] * 4)
            bias += branch_bias
        if self.identity is not None:
            kernel = torch.zeros_like(weight)
            channels = torch.arange(conv.out_channels)
            kernel[channels, channels % weight.shape[1], size // 2, size // 2] = 1.0
            kernel, identity_bias = _scaled(kernel, self.identity)
            weight, bias = weight + kernel, bias + identity_bias
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight.copy_(weight)
        norm.weight.fill_(1.0)
        norm.bias.copy_(bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
        return conv, norm


def _scaled(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight of a convolution with the scale of the norm behind it, and the bias of both."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    statistics = norm.running_mean.double(), norm.running_var.double()
    fused = fuse_conv_bn_weights(weight, None, *statistics, norm.eps, norm.weight.double(), norm.bias.double())
    return fused[0].detach(), fused[1].detach()


@contextlib.contextmanager
def branched(model: nn.Module, count: int, seed: int) -> Iterator[None]:
    """Give every convolution with batch norm and a kernel above 1x1 branches, and fold them at the end.

    The weights of the first branch are those of `model`; the others begin with random ones, which are drawn without a
    change of torch's global random state.

    Args:
        model: The network; it is changed in place.
        count: The number of k x k branches of each convolution; 0 changes nothing.
        seed: The seed of the first weights of the new branches.
    """
    if count:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _add(model, count)
    try:
        yield
    finally:
        _fold(model)


def _add(model: nn.Module, count: int) -> None:
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _has_branches(conv):
                layer = Branched(conv, norm, count)
                with_first_weights(layer.branches)
                sequence[index], sequence[index + 1] = layer.to(conv.weight.device), nn.Identity()


def _has_branches(conv: nn.Conv2d) -> bool:
    height, width = conv.kernel_size
    return height == width and height % 2 == 1 and height > 1 and conv.bias is None and conv.dilation == (1, 1)


def _fold(model: nn.Module) -> None:
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index, layer in enumerate(sequence):
            if isinstance(layer, Branched):
                sequence[index], sequence[index + 1] = layer.fold()
