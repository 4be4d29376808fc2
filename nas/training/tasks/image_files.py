"""Image files: decoding one of them to RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.errors import DataError


def open_image(source: Any) -> Image.Image:
    """Return the RGB image of a path or an array. Raises DataError."""
    if not isinstance(source, str | Path):
        return Image.fromarray(np.asarray(source)).convert("RGB")
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"not a readable image: {type(error).__name__}", where=source) from error
