"""Small image folders for tests: two classes of stripes, in any file format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")
Save = Callable[[Any, Path], None]
"""Saves a gray picture, uint8 (H, W), under a path without a suffix."""


def stripes(label: int, seed: int, shape: tuple[int, int] = (8, 8)) -> Any:
    """Return a gray picture, uint8 (H, W): horizontal stripes for label 0, vertical ones for label 1."""
    picture = np.random.default_rng(seed).integers(0, 40, shape, dtype=np.uint8)
    bright = picture[::2] if label == 0 else picture[:, ::2]
    bright += 180
    return picture


def save_png(picture: Any, path: Path) -> None:
    """Save a gray picture as a PNG of 8 bits."""
    Image.fromarray(picture).save(path.with_suffix(".png"))


def save_16_bit(picture: Any, path: Path) -> None:
    """Save a gray picture as a PNG of 16 bits."""
    Image.fromarray(picture.astype(np.uint16) * 257).save(path.with_suffix(".png"))


def save_transparent(picture: Any, path: Path) -> None:
    """Save a gray picture as the transparency of black over white: its hidden color is black everywhere."""
    image = Image.new("RGBA", picture.shape[::-1])
    image.putalpha(Image.fromarray(255 - picture))
    image.save(path.with_suffix(".png"))


def save_turned(picture: Any, path: Path) -> None:
    """Save a gray picture turned by 90 degrees to the left, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(picture))).save(path.with_suffix(".png"), exif=exif)


def write_classes(
    root: Path,
    save: Save = save_png,
    classes: tuple[str, ...] = CLASSES,
    count: int = 10,
    shape: tuple[int, int] = (8, 8),
) -> Path:
    """Write `count` pictures of each class into a folder, and return the folder."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            save(stripes(label % 2, 100 * label + index, shape), root / name / str(index))
    return root
