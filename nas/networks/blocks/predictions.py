"""Predictions of detectors as rows, one for each anchor of each position of each level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIRST_LOGIT = -math.log(99)
"""First bias of sigmoid classes: a score of 0.01, so that the background does not swamp the loss (RetinaNet, 3.3)."""


def rows(maps: list[Tensor], width: int) -> Tensor:
    """[(B, A * width, H, W), ...] -> (B, N, width): level by level, row by row, position by position."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in maps], 1)
