"""EXIF orientation: each of the eight values, in every format that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from nas.training.tasks.image_files import read_image

ORIENTATION = 0x0112


def picture() -> Image.Image:
    """Return a picture, 24 x 16, that looks different after every turn and flip."""
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8] = 250
    pixels[:8, :8] = 120
    return Image.fromarray(pixels).convert("RGB")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_ask(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = picture()
    expected = stored.copy()
    expected.getexif()[ORIENTATION] = orientation
    expected = ImageOps.exif_transpose(expected)
    path = tmp_path / f"x.{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 100}))
    found = read_image(path).permute(1, 2, 0).numpy().astype(int)
    assert found.shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))
    assert np.abs(found - np.asarray(expected).astype(int)).max() < 12


@pytest.mark.parametrize("mode", ["I;16", "L", "P", "RGBA"])
def test_other_modes_are_turned_too(mode: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    gray = picture().convert("L")
    image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    image.save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png")[0].tolist() == np.rot90(np.asarray(gray), -1).tolist()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0damaged", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"]
)
def test_damaged_exif_data_leave_the_image_as_it_is(exif: bytes, tmp_path: Path) -> None:
    picture().save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").shape == (3, 16, 24)


def test_an_unknown_orientation_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    picture().save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (3, 16, 24)
