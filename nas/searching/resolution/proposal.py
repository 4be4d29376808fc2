"""The resolution that suits images."""

from __future__ import annotations

from statistics import median

from nas.spaces.resolutions import Size
from nas.training.tasks.base import Task
from nas.training.tasks.fit import sampled_sizes

STEP, LEAST = 32, 64
"""A proposed resolution is a multiple of STEP pixels, and at least LEAST."""
MOST_READ = 1_000
"""Of how many images the sizes are read."""
Sizes = tuple[Size, ...]


def proposed(own: tuple[int, ...], image_px: float) -> Sizes:
    """Return the resolutions of a space with the resolutions `own` for images of `image_px` pixels.

    The limit is the multiple of 32 that is nearest to the images, at least 64. A space with one resolution above it
    gets the limit. A space with several keeps those up to it, or its lowest one.
    """
    limit = max(LEAST, STEP * int(image_px / STEP + 0.5))
    if limit >= max(own):
        return own
    if len(own) == 1:
        return (limit,)
    return tuple(size for size in own if size <= max(limit, min(own)))


def image_side(task: Task) -> float | None:
    """Return the median side in pixels of the training images after a crop or a pad; None if none is readable."""
    sizes = sampled_sizes(task.data.train.images, MOST_READ)
    side = max if task.fit == "pad" else min
    return median(map(side, sizes)) if sizes else None
