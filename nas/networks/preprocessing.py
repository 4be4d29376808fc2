"""Preprocessing: from a picture to a network's input. Training uses these functions, and exported networks hold a copy.

The steps are: turn by the EXIF orientation, convert to RGB of 8 bits, fit into a square, normalize. The functions
themselves import Pillow, numpy and torchvision, so that an exported network loads without these packages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's RGB channels, for values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's RGB channels, for values in [0, 1]."""
PAD_COLOR = (124, 116, 104)
"""What `pad` fills with: ImageNet's mean color, which normalization maps to about 0."""
FITS = {
    "crop": "the shorter side to R pixels, then the center",
    "pad": f"the longer side to R pixels, centered, the rest filled with RGB {PAD_COLOR}",
    "stretch": "both sides to R pixels, which changes the aspect ratio",
}
"""How an image that is not square becomes R x R pixels."""
ORIENTATION = 0x0112
"""The EXIF tag that tells how to turn an image."""
PHOTOMETRIC_INTERPRETATION = 262
"""The TIFF tag whose value is 0 if 0 means white."""
BITS_PER_SAMPLE = 258
"""The TIFF tag with the number of bits. Pillow opens 12 bits as 16, with values up to 4095."""
SAMPLE_FORMAT = 339
"""The TIFF tag whose value is 2 for signed integers. Pillow opens those of 8 bits as unsigned ones."""


def prepare(image: Any, resolution: int, fit: str) -> Tensor:
    """Return the input (1, 3, R, R) of a network for a PIL image, as in training. Raises ValueError as `to_rgb`."""
    return normalize(to_square(decode(image), resolution, fit)[None])


def decode(image: Any) -> Tensor:
    """Return a PIL image, upright and in RGB, as uint8 (3, H, W). Raises ValueError as `to_rgb`, OSError if broken."""
    from torchvision.transforms.v2 import functional

    image.load()
    pixels: Tensor = functional.pil_to_tensor(upright(to_rgb(image), orientation_of(image)))
    return pixels


def orientation_of(image: Any) -> int:
    """Return the EXIF orientation of a loaded PIL image, from 1 to 8. It is 1 if the EXIF data are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the parser raises all kinds of errors; the pixels are not affected
        return 1


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


def to_square(image: Tensor, resolution: int, fit: str) -> Tensor:
    """Return an image (3, H, W) as (3, R, R), with one of FITS. Resizing is bilinear and antialiased."""
    from torchvision.transforms.v2 import functional

    square = [resolution, resolution]
    if fit == "stretch":
        stretched: Tensor = functional.resize(image, square, antialias=True)
        return stretched
    height, width = image.shape[-2:]
    if fit == "crop":
        cropped: Tensor = functional.center_crop(functional.resize(image, [resolution], antialias=True), square)
        return cropped
    high, wide, left, top = padded_place(height, width, resolution)
    padding = [left, top, resolution - wide - left, resolution - high - top]
    small = functional.resize(image, [high, wide], antialias=True)
    padded: Tensor = functional.pad(small, padding, fill=list(PAD_COLOR))
    return padded


def padded_place(height: int, width: int, resolution: int) -> tuple[int, int, int, int]:
    """Return height, width, left and top, in pixels of a square of R pixels, of an image that "pad" fits into it."""
    high, wide = (max(1, round(resolution * side / max(height, width))) for side in (height, width))
    return high, wide, (resolution - wide) // 2, (resolution - high) // 2


def normalize(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W), with values from 0 to 255, as float32 normalized by ImageNet's mean and deviation."""
    from torchvision.transforms.v2 import functional

    normalized: Tensor = functional.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return normalized


def describe_preprocessing(fit: str) -> dict[str, Any]:
    """Return the preprocessing as the card of an exported network holds it."""
    return {
        "orientation": "turned by the EXIF orientation",
        "mode": "RGB of 8 bits; integers of 16 or 32 bits / 257 (4095 is white in TIFFs of 12 bits); "
        "floats in [0, 1] * 255; transparency over white",
        "frames": "the first one",
        "fit": fit,
        "resize": f"{FITS[fit]}; bilinear, antialiased",
        "scale": "RGB / 255",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
