"""The fit of images that are not square: which one the images of a data set need, and which one a run has."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.architecture import RGB_SQUARE, InputFormat
from nas.errors import DataError
from nas.networks.preprocessing import FITS, TURNED, orientation_of
from nas.training.tasks.image_files import opened
from nas.training.tasks.splits import ImageData
from nas.utils.registry import lookup

AUTO = "auto"
DEFAULT_FIT = "crop"
"""The fit of square images, and of all runs from before there was a choice."""
MOST_LOST = 0.3
"""The mean share of the area that a center crop may lose. If it loses more, images are padded."""
MOST_READ = 2_000
"""Of how many images the sizes are read."""


def continued_fit(asked: str, stored: Mapping[str, Any] | None) -> str:
    """Return the fit that a command uses: the one of the run that it continues, unless another one is asked for.

    Args:
        asked: The value of --fit.
        stored: The settings of the run in the folder of the command; None for a new run.
    """
    return str(stored.get("fit", DEFAULT_FIT)) if asked == AUTO and stored is not None else asked


def choose_fit(asked: str, data: ImageData, input_format: InputFormat = RGB_SQUARE) -> str:
    """Return one of FITS for images that become such inputs. Raises UsageError for an unknown fit.

    `auto` is `crop` if a center crop loses at most MOST_LOST of the area of the training images on average, otherwise
    `pad`. It reads the sizes of up to MOST_READ images, evenly spaced.
    """
    lookup(dict.fromkeys((AUTO, *FITS)), asked, "fit", "--fit")
    if asked != AUTO:
        return asked
    return "pad" if lost_by_crop(data.train.images, float(input_format.aspect)) > MOST_LOST else DEFAULT_FIT


def describe_fit(fit: str, data: ImageData, input_format: InputFormat = RGB_SQUARE) -> tuple[str, ...]:
    """Return the line to report about the fit of images of another aspect ratio than the input's; else nothing."""
    lost = lost_by_crop(data.train.images, float(input_format.aspect))
    if not lost:
        return ()
    loses = f"a center crop loses {lost:.0%} of their area on average"
    form = "square" if input_format.aspect == 1 else f"of the input's aspect ratio, {input_format.aspect}"
    return (f"{data.name}: images are not {form} ({loses}); --fit {fit}: {FITS[fit]}",)


def lost_by_crop(images: Sequence[Any], aspect: float = 1.0) -> float:
    """Return the mean share of the area, in [0, 1), outside of the largest centered rectangle of an aspect ratio."""
    ratios = [width / height for height, width in sampled_sizes(images, MOST_READ)]
    return float(np.mean([1 - min(ratio, aspect) / max(ratio, aspect) for ratio in ratios])) if ratios else 0.0


def sampled_sizes(images: Sequence[Any], most: int) -> list[tuple[int, int]]:
    """Return height and width in pixels of up to `most` images, evenly spaced. Broken files are left out."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).astype(int)
    return [size for index in dict.fromkeys(chosen.tolist()) if (size := _size(images[index]))]


def _size(image: Any) -> tuple[int, int] | None:
    """Return height and width of an image, upright; None for a broken file, which another check names."""
    if not isinstance(image, str | Path):
        height, width = np.asarray(image).shape[:2]
        return height, width
    with contextlib.suppress(DataError), opened(image) as file:
        width, height = file.size
        has_exif = file.format != "PNG" or "exif" in file.info  # without, Pillow would read the whole PNG
        return (width, height) if has_exif and orientation_of(file) in TURNED else (height, width)
    return None
