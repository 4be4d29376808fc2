"""CondenseNet training: progress and group lasso of all learned group convolutions of a network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nas.networks.blocks.condense import LearnedGroupConv


def learned_groups(model: nn.Module) -> Iterator[LearnedGroupConv]:
    """Yield the learned group convolutions of a model in order."""
    return (module for module in model.modules() if isinstance(module, LearnedGroupConv))


def set_progress(model: nn.Module, progress: float) -> None:
    """Set the training progress, in [0, 1], of every learned group convolution of `model`."""
    for layer in learned_groups(model):
        layer.set_progress(progress)


def group_lasso(model: nn.Module) -> Tensor:
    """Return the penalty that makes the outputs of a group read the same inputs (CondenseNet, section 3.1).

    The authors add 1e-5 times this value to the loss on ImageNet, and nothing on CIFAR.
    """
    return sum((layer.lasso() for layer in learned_groups(model)), start=torch.zeros(()))
