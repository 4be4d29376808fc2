"""Photographs: how to tell them from drawings, digits and gray images, and which augmentation suits them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas.errors import DataError
from nas.training.recipe import Recipe
from nas.training.tasks.classification import Classification
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


def suited_to_images(recipe: Recipe, task: Classification) -> Recipe:
    """Return the recipe without random resized crops if the images are no photographs, or must not be mirrored.

    A part of a digit or of another sign may be a different one.
    """
    if not recipe.crop_scale or (task.flips and are_photographs(task.data.train.images)):
        return recipe
    return replace(recipe, crop_scale=0.0)


def describe_augmentation(recipe: Recipe, task: Classification) -> str:
    """Return how training images are changed at random, in words."""
    crops = "crops after padding by an eighth"
    if recipe.crop_scale:
        crops = f"random resized crops of at least {recipe.crop_scale:.0%} of the area"
    steps = [crops, *(["mirroring"] if task.flips else [])]
    settings = {"RandAugment": recipe.randaugment, "mixup": recipe.mixup, "CutMix": recipe.cutmix}
    return ", ".join([*steps, *(f"{name} {value:g}" for name, value in settings.items() if value)])
