"""Predictions of detectors as rows, one for each anchor of each position of each level."""

from __future__ import annotations

import torch
from torch import Tensor


def rows(maps: list[Tensor], width: int) -> Tensor:
    """[(B, A * width, H, W), ...] -> (B, N, width): level by level, row by row, position by position."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in maps], 1)
