"""Example inputs of a timed graph, the same on each device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def example_inputs(shapes: Sequence[Sequence[int]]) -> list[Any]:
    """Return a float32 array with values in [-1, 1] for each shape."""
    import numpy as np

    return [np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
