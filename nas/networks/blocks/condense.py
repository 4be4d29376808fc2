"""CondenseNet's dense layer, whose groups learn which inputs to read (Huang et al. 2018, section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.networks.blocks.condensed import Condensed, IndexedGroupConv
from nas.networks.blocks.layers import concat
from nas.networks.blocks.preactivation import bn_relu_conv, bottleneck_channels, check_groups, halving, picked_norm


class LearnedGroupConv(nn.Module):
    """BN, ReLU, 1x1 convolution whose output channel o belongs to group o mod `groups`.

    `mask` (groups, in_channels) marks the inputs that each group reads. Training has condense_factor - 1
    condensing stages, spread evenly over its first half. Each removes 1 / condense_factor of the inputs.
    """

    __jit_unused_properties__ = ("stage",)

    def __init__(self, in_channels: int, out_channels: int, groups: int, condense_factor: int):
        super().__init__()
        if condense_factor < 1 or in_channels % condense_factor:
            raise ValueError(f"condense_factor must divide the channels: {in_channels}, {condense_factor}")
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.condense_factor = condense_factor
        self.mask: Tensor  # torch.jit.script cannot read an annotation in the class
        self.register_buffer("mask", torch.ones(groups, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        weight = self.grouped_weight().reshape(self.conv.weight.shape)
        return functional.conv2d(self.relu(self.norm(x)), weight)

    def grouped_weight(self) -> Tensor:
        """Return the masked weights: (O / G, G, I) for O outputs, G groups and I inputs."""
        groups, inputs = self.mask.shape
        return self.conv.weight.reshape(-1, groups, inputs) * self.mask

    @property
    def stage(self) -> int:
        """Number of finished condensing stages, from 0 to condense_factor - 1."""
        left = int(self.mask[0].sum().item())
        return self.condense_factor - left * self.condense_factor // self.mask.shape[1]

    def set_progress(self, progress: float) -> None:
        """Run the condensing stages that are due at a training progress in [0, 1]. No stage is ever undone.

        If the progress skips stages, all of them run. The authors' code runs one and loses the others.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1]: {progress}")
        stages = self.condense_factor - 1
        due = sum(2 * progress >= (stage + 1) / stages for stage in range(stages))
        while self.stage < due:
            self._condense()

    @torch.no_grad()
    def _condense(self) -> None:
        """Remove from each group the inputs with the smallest sum of absolute weights."""
        sums = self.grouped_weight().abs().sum(0).masked_fill(self.mask == 0, math.inf)
        smallest = sums.topk(self.mask.shape[1] // self.condense_factor, largest=False).indices
        self.mask.scatter_(1, smallest, 0.0)

    def lasso(self) -> Tensor:
        """Return the sum of the weight norms over groups and inputs, or 0 after the last stage."""
        if self.stage == self.condense_factor - 1:
            return self.conv.weight.new_zeros(())
        return self.grouped_weight().square().sum(0).clamp(min=1e-6).sqrt().sum()

    def condensed(self, following: nn.BatchNorm2d) -> IndexedGroupConv:
        """Return a layer that equals this one, `following` and a ReLU, but reads the unmasked inputs only."""
        groups, outputs = len(self.mask), len(self.conv.weight)
        index = self.mask.nonzero()[:, 1].reshape(groups, -1)
        weight = self.grouped_weight().transpose(0, 1)
        weight = weight.gather(2, index[:, None].expand(-1, outputs // groups, -1))
        result = IndexedGroupConv(index.flatten(), outputs, groups).train(self.training).to(weight.device)
        order = torch.arange(outputs, device=weight.device).reshape(-1, groups).t().flatten()
        result.layers[0] = picked_norm(self.norm, index.flatten())
        result.layers[2].weight = nn.Parameter(weight.reshape(outputs, -1, 1, 1).detach())
        result.layers[3] = picked_norm(following, order)
        return result


class Condense(nn.Module):
    """[2x2 average pool,] BN, ReLU, learned 1x1 groups, BN, ReLU, 3x3 groups, concat with the input.

    Its costs are those in training, with the whole 1x1 convolution. Deployed, it becomes the block `condensed`.
    """

    width_keywords = ("growth_rate",)

    def __init__(
        self,
        in_channels: int,
        *,
        growth_rate: int,
        bottleneck: int = 4,
        groups: int = 4,
        condense_factor: int = 4,
        stride: int = 1,
    ):
        super().__init__()
        hidden = bottleneck_channels(growth_rate, bottleneck)
        check_groups(hidden, growth_rate, groups)
        self.pool = halving(stride)
        self.squeeze = LearnedGroupConv(in_channels, hidden, groups, condense_factor)
        self.expand = nn.Sequential(*bn_relu_conv(hidden, growth_rate, 3, groups))
        self.growth_rate, self.bottleneck, self.stride = growth_rate, bottleneck, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth_rate, H // stride, W // stride)."""
        x = self.pool(x)
        return concat([x, self.expand(self.squeeze(x))])

    def deploy(self) -> nn.Module:
        """Return a `condensed` block with equal output. It reaches its final size after the last stage."""
        groups, inputs = self.squeeze.mask.shape
        result = Condensed(
            inputs,
            growth_rate=self.growth_rate,
            bottleneck=self.bottleneck,
            groups=groups,
            condense_factor=self.squeeze.condense_factor,
            stride=self.stride,
        ).train(self.training)
        norm, _, conv = self.expand
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d)
        result.squeeze, result.expand = self.squeeze.condensed(norm), conv
        return result
