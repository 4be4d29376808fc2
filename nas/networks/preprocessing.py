"""Preprocessing: from a picture to a network's input. Training uses these functions, and exported networks hold a copy.

The steps are: turn by the EXIF orientation, convert to RGB (or gray, or RGB and alpha) of 8 bits, fit into the input's
rectangle, normalize. The functions
themselves import Pillow, numpy and torchvision, so that an exported network loads without these packages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB channels, for values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB channels, for values in [0, 1]."""
STATISTICS = {
    1: ((0.449,), (0.226,)),
    3: (IMAGENET_MEAN, IMAGENET_STD),
    4: ((*IMAGENET_MEAN, 0.5), (*IMAGENET_STD, 0.5)),
}
"""Mean and standard deviation of each channel, by the number of channels: gray, RGB, or RGB and alpha.

Those of gray are the means of ImageNet's three, as in timm. Alpha becomes -1 (transparent) to 1 (opaque).
"""
PAD_COLOR = (124, 116, 104)
"""What `pad` fills with: ImageNet's mean color, which normalization maps to about 0."""
PADDING = {1: (114,), 3: PAD_COLOR, 4: (*PAD_COLOR, 0)}
"""The same by the number of channels."""
COLORED = "have colors: they are converted to gray, for an input with one channel"
"""What happens to colored images if a network reads one channel."""
FITS = {
    "crop": "scaled until it covers the input, then the center",
    "pad": f"scaled until it fits into the input, centered, the rest filled with RGB {PAD_COLOR}",
    "stretch": "both sides scaled to those of the input, which changes the aspect ratio",
}
"""How an image becomes an input of another aspect ratio."""
ORIENTATION = 0x0112
"""The EXIF tag that tells how to turn an image."""
TURNED = (5, 6, 7, 8)
"""The orientations that exchange height and width."""
PHOTOMETRIC_INTERPRETATION = 262
"""The TIFF tag whose value is 0 if 0 means white."""
BITS_PER_SAMPLE = 258
"""The TIFF tag with the number of bits. Pillow opens 12 bits as 16, with values up to 4095."""
SAMPLE_FORMAT = 339
"""The TIFF tag whose value is 2 for signed integers. Pillow opens those of 8 bits as unsigned ones."""


def prepare(image: Any, shape: tuple[int, int, int], fit: str) -> Tensor:
    """Return a network's input (1, C, H, W) for a PIL image, as in training. `shape` is (C, H, W).

    Raises ValueError as `to_channels`.
    """
    channels, height, width = shape
    return normalize(fitted(decode(image, channels), height, width, fit)[None])


def decode(image: Any, channels: int = 3) -> Tensor:
    """Return a PIL image, upright, as uint8 (C, H, W). Raises ValueError as `to_channels`, OSError if broken."""
    functional = torchvision_functions()
    image.load()
    pixels: Tensor = functional.pil_to_tensor(upright(to_channels(image, channels), orientation_of(image)))
    return pixels


def orientation_of(image: Any) -> int:
    """Return the EXIF orientation of a loaded PIL image, from 1 to 8. It is 1 if the EXIF data are damaged."""
    import struct

    damaged = (AttributeError, LookupError, OSError, OverflowError, SyntaxError, TypeError, ValueError, struct.error)
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except damaged:  # Pillow's parser raises all of them; the pixels are not affected
        return 1


def torchvision_functions() -> Any:
    """Return torchvision's functions for images. It has no types, so it is imported in a way that needs none."""
    import importlib

    return importlib.import_module("torchvision.transforms.v2.functional")


def upright(image: Any, orientation: int) -> Any:
    """Return a PIL image turned and mirrored as its EXIF orientation, from 1 to 8, asks for. Others count as 1."""
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(methods[orientation]) if orientation in methods else image


def to_channels(image: Any, channels: int) -> Any:
    """Return a loaded PIL image of any mode with 1 channel (gray), 3 (RGB) or 4 (RGB and alpha).

    Raises:
        ValueError: As `to_rgb`, or four channels are needed and the image has no transparency.
    """
    if channels == 4:
        if not image.has_transparency_data:
            raise ValueError("it has no alpha channel, and the network's input has four channels, RGB and alpha")
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    rgb = to_rgb(image)
    return rgb if channels == 3 else rgb.convert("L")


def conversion(image: Any, channels: int) -> str:
    """Return how `to_channels` changes the channels of a PIL image, after the words "2 images"; "" if it does not."""
    if channels < 4 and image.has_transparency_data:
        return "have transparent parts: they are laid over white"
    is_gray = image.mode in ("1", "L", "LA", "La") or is_deep(image) or _has_gray_palette(image)
    if channels == 1 and not is_gray:
        return COLORED
    if channels == 3 and is_gray:
        return "are gray: their values become all three channels; `channels: 1` in a space's file avoids that"
    return ""


def _has_gray_palette(image: Any) -> bool:
    """Return whether all colors of a PIL image with a palette are gray."""
    palette: list[int] = (image.getpalette() or []) if image.mode == "P" else []
    return bool(palette) and all(len(set(palette[at : at + 3])) == 1 for at in range(0, len(palette), 3))


def to_rgb(image: Any) -> Any:
    """Return a loaded PIL image of any mode in the mode RGB. Transparent pixels are laid over white.

    Integers of 16 or 32 bits must be in [0, 65535] and are divided by 257; of a TIFF of 12 bits, 4095 is white. Floats
    must be in [0, 1] and are multiplied by 255. Other modes are converted as Pillow does.

    Raises:
        ValueError: The values are in another range or signed, or Pillow cannot convert the mode.
    """
    from PIL import Image

    if is_deep(image):
        return Image.fromarray(eight_bits(deep_values(image))).convert("RGB")
    if 2 in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ()):
        raise ValueError("its values are signed integers of 8 bits, but must be unsigned ones")
    if image.mode == "La":  # Pillow converts it to no other mode
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def is_deep(image: Any) -> bool:
    """Return whether the values of a PIL image have more than 8 bits: integers of 16 or 32 bits, or floats."""
    return str(image.mode)[0] in "IF"


def deep_values(image: Any) -> Any:
    """Return the values (H, W) of an image that `is_deep`, 0 for black. A transparent gray becomes white."""
    import numpy as np

    values = np.asarray(image)
    white = 1 if image.mode == "F" else 65535
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS_PER_SAMPLE) == (12,):
        values = values.astype(np.int64) * 65535 // 4095
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:
        values = white - values
    gray = image.info.get("transparency")
    return np.where(values == gray, white, values) if isinstance(gray, int) else values


def eight_bits(values: Any) -> Any:
    """Return an array as uint8, rounded: integers in [0, 65535] divided by 257, floats in [0, 1] multiplied by 255.

    Raises ValueError for values in another range.
    """
    import numpy as np

    kind, white = ("floats", 1) if values.dtype.kind == "f" else ("integers", 65535)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # also for NaN
        raise ValueError(f"its values are from {low:g} to {high:g}, but {kind} must be from 0 to {white}")
    return np.rint(values * (255 / white)).astype(np.uint8)


def fitted(image: Tensor, height: int, width: int, fit: str) -> Tensor:
    """Return images (..., C, h, w) as (..., C, height, width), fitted by one of FITS, bilinear and antialiased."""
    functional = torchvision_functions()
    if fit == "stretch":
        stretched: Tensor = functional.resize(image, [height, width], antialias=True)
        return stretched
    high, wide = image.shape[-2:]
    if fit == "crop":
        is_wide = height * wide >= width * high
        covering = [height, height * wide // high] if is_wide else [width * high // wide, width]
        resized = functional.resize(image, covering, antialias=True)
        cropped: Tensor = functional.center_crop(resized, [height, width])
        return cropped
    high, wide, left, top = padded_place(high, wide, height, width)
    padding = [left, top, width - wide - left, height - high - top]
    small = functional.resize(image, [high, wide], antialias=True)
    padded: Tensor = functional.pad(small, padding, fill=list(PADDING[image.shape[-3]]))
    return padded


def padded_place(high: int, wide: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return height, width, left and top, in pixels of an input, of an image (high, wide) that "pad" fits into it."""
    if height * wide >= width * high:
        height_of, width_of = max(1, round(width * high / wide)), width
    else:
        height_of, width_of = height, max(1, round(height * wide / high))
    return height_of, width_of, (width - width_of) // 2, (height - height_of) // 2


def normalize(images: Tensor) -> Tensor:
    """Return images (B, C, H, W), with values from 0 to 255, as float32 normalized by STATISTICS."""
    functional = torchvision_functions()
    mean, std = STATISTICS[images.shape[1]]
    normalized: Tensor = functional.normalize(images.float() / 255, list(mean), list(std))
    return normalized


def describe_preprocessing(fit: str, channels: int = 3) -> dict[str, Any]:
    """Return the preprocessing as the card of an exported network holds it."""
    mode = {1: "gray, from RGB", 3: "RGB", 4: "RGB and alpha"}[channels]
    mean, std = STATISTICS[channels]
    deep = "integers of 16 or 32 bits / 257 (4095 is white in TIFFs of 12 bits); floats in [0, 1] * 255"
    return {
        "orientation": "turned by the EXIF orientation",
        "mode": f"{mode} of 8 bits" + ("" if channels == 4 else f"; {deep}; transparency over white"),
        "frames": "the first one",
        "fit": fit,
        "resize": f"{FITS[fit]}; bilinear, antialiased",
        "scale": "RGB / 255" if channels == 3 else "values / 255",
        "mean": mean,
        "std": std,
    }
