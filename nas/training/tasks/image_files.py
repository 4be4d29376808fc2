"""Image files: finding out what they hold, decoding them, and saying why one of them cannot be read."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nas.errors import DataError, one_line
from nas.networks.preprocessing import decode, eight_bits

ARRAY_TYPES = ("bool", "uint8", "uint16", "float16", "float32", "float64")
"""The types of arrays that are images."""
HASHED_BYTES = 64 << 10
"""Of a file larger than twice this, the digest covers the size and this many bytes at the start and at the end."""
HASHED_WHOLE = (".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""Types that may be uncompressed: an image with the same borders has the same size, start and end."""


def read_image(source: Any, channels: int = 3) -> Tensor:
    """Return an image as uint8 (C, H, W): upright, and of fewer than four channels with transparency over white.

    Args:
        source: A path, or an array (H, W) or (H, W, C) of uint8, of bool, of uint16 or of floats in [0, 1], with 1, 3
            or 4 (RGBA) channels.
        channels: 1 (gray), 3 (RGB) or 4 (RGB and alpha).

    Raises:
        DataError: The image cannot be read, has no alpha channel but needs one, or its values cannot be converted
            without a loss of the picture.
    """
    if isinstance(source, str | Path):
        with opened(source) as image:
            return decode(image, channels)
    image = _image_of(np.asarray(source))
    try:
        return decode(image, channels)
    except ValueError as error:
        raise DataError(f"not a usable image: {error}", where="--data") from error


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file. What Pillow raises in the block becomes a DataError; it prints no Python warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mode = ""
        try:
            with Image.open(path) as image:
                mode = image.mode
                yield image
        except Image.DecompressionBombError as error:
            raise DataError(_too_large(error), where=path) from error
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError, ImportError, OverflowError) as error:
            rule = f"not a readable image: {_reason(error, Path(path), mode)}"
            raise DataError(rule, where=path) from error


def file_digest(path: str | Path) -> str:
    """Return sixteen hex digits of a file's content. Raises DataError if it cannot be read.

    The digest of a large file covers its size, its first and its last bytes: a set of photographs is read in seconds.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            is_whole = size <= 2 * HASHED_BYTES or Path(path).suffix.lower() in HASHED_WHOLE
            content = file.read() if is_whole else file.read(2 * HASHED_BYTES)
            if not is_whole:
                file.seek(size - HASHED_BYTES)
                content = content[:HASHED_BYTES] + file.read()
    except OSError as error:
        raise DataError(f"not a readable image: {_reason(error, Path(path), '')}", where=path) from error
    return hashlib.blake2b(b"%d " % size + content, digest_size=8).hexdigest()


def _image_of(values: Any) -> Image.Image:
    """Return the PIL image of an array. Raises DataError."""
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4) or values.dtype.name not in ARRAY_TYPES:
        rule = "an image must be an array (H, W) or (H, W, 1, 3 or 4) of uint8, uint16, bool, or floats in [0, 1]"
        raise DataError(rule, where="--data", value=f"{values.dtype} {values.shape}")
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype != np.uint8:
        try:
            values = eight_bits(values)
        except ValueError as error:
            raise DataError(f"not a usable image: {error}", where="--data") from error
    return Image.fromarray(values[:, :, 0] if values.ndim == 3 and channels == 1 else values)


def _too_large(error: Image.DecompressionBombError) -> str:
    counts = [f"{int(count):,}" for count in re.findall(r"\d+", str(error))]
    if len(counts) != 2:
        return f"the image is too large: {one_line(error)}"
    advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
    return f"the image is too large: it has {counts[0]} pixels, Pillow's limit is {counts[1]}; {advice}"


def _reason(error: BaseException, path: Path, mode: str) -> str:
    """Return why an image file cannot be read."""
    if path.is_symlink() and not path.exists():
        return f"it is a link to '{path.readlink()}', which does not exist"
    if path.is_dir():
        return "it is a folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it has no format that Pillow knows"
    shown = one_line(error) or type(error).__name__
    return f"{shown} (mode '{mode}')" if isinstance(error, ValueError) and mode else shown
