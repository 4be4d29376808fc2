"""Deployment: prepares a network or a block for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def deploy(model: nn.Module) -> nn.Module:
    """Return a copy for inference: eval mode, each module's `deploy()`, and batch norm folded into other layers."""
    model = _deployed(copy.deepcopy(model).eval())
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norm(module)
    return model.requires_grad_(False)


def _deployed(module: nn.Module) -> nn.Module:
    own: Callable[[], nn.Module] | None = getattr(module, "deploy", None)
    if own is not None:
        return own()
    for name, child in module.named_children():
        setattr(module, name, _deployed(child))
    return module


def _fold_batch_norm(sequence: nn.Sequential) -> None:
    children = list(sequence)
    for index in range(len(children) - 1):
        layer, norm = children[index], children[index + 1]
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index], sequence[index + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            sequence[index], sequence[index + 1] = fuse_linear_bn_eval(layer, norm), nn.Identity()
