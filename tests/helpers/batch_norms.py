"""Batch norms as after a training: with weights and statistics that differ between channels."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def shake_batch_norms(model: nn.Module, spread: float = 0.5) -> None:
    """Draw the weights, biases and statistics of every batch norm from torch's default generator.

    Weights and variances are within `spread` of 1, biases and means of 0.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 1 - spread, 1 + spread)
            nn.init.uniform_(module.bias, -spread, spread)
            module.running_mean.uniform_(-spread, spread)
            module.running_var.uniform_(1 - spread, 1 + spread)
