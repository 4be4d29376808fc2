"""Photographs: how to tell them from drawings, digits and gray images."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.errors import DataError
from nas.training.tasks.image_files import read_image

MOST_READ = 16
"""How many images are read, evenly spaced."""
COLORFUL = 2.0
"""An image has colors if its channels, of values from 0 to 255, differ by more than this on average."""


def are_photographs(images: Sequence[Any]) -> bool:
    """Return whether most images have colors. `images` are file paths or arrays (H, W) or (H, W, 3)."""
    chosen = dict.fromkeys(np.linspace(0, len(images) - 1, min(len(images), MOST_READ)).astype(int).tolist())
    found = [colors for index in chosen if (colors := _colors(images[index])) is not None]
    return sum(colors > COLORFUL for colors in found) > len(found) / 2


def _colors(image: Any) -> float | None:
    """Return how much the channels of an image differ on average; None for a broken file, which another check names."""
    with contextlib.suppress(DataError):
        return float(np.ptp(read_image(image).numpy().astype(float), axis=0).mean())
    return None
