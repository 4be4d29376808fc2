"""First weights: initializes a network as its sources do. An exported network contains this source."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from nas.networks.blocks.layers import ChannelScale, ClassifierConv2d, UnnormalizedConv2d

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def with_first_weights(network: AnyModule) -> AnyModule:
    """Return `network` with first weights from torch's default generator, set in place.

    A module can set its own first biases in a method `set_first_biases`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                initialize(parameter, type(module), name)
    for module in network.modules():
        set_first_biases: Callable[[], None] | None = getattr(module, "set_first_biases", None)
        if set_first_biases is not None:
            set_first_biases()
    return network


@torch.no_grad()
def initialize(parameter: Tensor, owner: type[nn.Module], name: str) -> Tensor:
    """Initialize the parameter `name` of a module of class `owner`, and return it.

    Convolutions are initialized from He's normal distribution over the fan-out (He et al. 2015), linear layers
    from a normal distribution with a standard deviation of 0.01, as in torchvision's mobile networks. Convolutions
    without batch norm are initialized as in torchvision's SqueezeNet. Biases are 0, the weights of norms are 1.
    """
    if name == "bias":
        return parameter.zero_()
    if issubclass(owner, ClassifierConv2d):
        return nn.init.normal_(parameter, std=0.01)
    if issubclass(owner, UnnormalizedConv2d):
        return nn.init.kaiming_uniform_(parameter)
    if issubclass(owner, nn.Conv2d):
        return nn.init.kaiming_normal_(parameter, mode="fan_out")
    if issubclass(owner, nn.Linear):
        return nn.init.normal_(parameter, std=0.01)
    return parameter.fill_(ChannelScale.first if issubclass(owner, ChannelScale) else 1.0)
