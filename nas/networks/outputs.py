"""Outputs of a network that a check compares. An exported network with several outputs contains this source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOST_COMPARED = 500
"""Of several outputs, this many values of each are compared."""


def compared(output: Any) -> Tensor:
    """Return what is compared of an output: a single tensor, or values (N,) spread evenly over several tensors."""
    if isinstance(output, Tensor):
        return output
    parts = [part.flatten() for part in output]
    return torch.cat([part[:: max(1, len(part) // MOST_COMPARED)] for part in parts])
