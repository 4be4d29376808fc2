"""Pixel modes: what each mode becomes, which values are refused, and that exported networks convert in the same way."""

from __future__ import annotations

import ast
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.errors import DataError
from nas.networks.preprocessing import FITS, eight_bits, normalize
from nas.networks.standalone.source import standalone_source
from nas.spaces.yaml_format import parse_space
from nas.training.tasks.image_datasets import ImageDataset, check_images
from nas.training.tasks.image_files import read_image
from nas.training.tasks.splits import Split
from nas.utils.reporting import Reporter

GRAY = np.array([[0, 1, 100, 254], [255, 127, 128, 30]], np.uint8)
WIDE = GRAY.astype(np.uint16) * 257
WHITE = [255, 255, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, kind: int, row: bytes, *extra: bytes) -> bytes:
    """Return a PNG of two pixels in one row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("image", "suffix", "mode"),
    [
        (Image.fromarray(WIDE), "png", "I;16"),
        (Image.fromarray(WIDE), "tif", "I;16"),
        (Image.frombytes("I;16B", (4, 2), WIDE.astype(">u2").tobytes()), "tif", "I;16B"),
        (Image.fromarray(WIDE.astype(np.int32)), "tif", "I"),
        (Image.fromarray(WIDE.astype(np.int32)), "pgm", "I"),
        (Image.fromarray((GRAY / np.float32(255)).astype(np.float32)), "tif", "F"),
        (Image.fromarray(GRAY), "png", "L"),
        (Image.fromarray(GRAY), "bmp", "L"),
        (Image.fromarray(GRAY).convert("P"), "png", "P"),
        (Image.fromarray(GRAY).convert("P"), "gif", "P"),
        (Image.fromarray(GRAY).convert("LA"), "png", "LA"),
        (Image.fromarray(GRAY).convert("PA"), "tif", "PA"),
        (Image.fromarray(GRAY).convert("RGB"), "png", "RGB"),
        (Image.fromarray(GRAY).convert("RGBA"), "webp", "RGB"),
        (Image.fromarray(GRAY).convert("RGBA"), "tif", "RGBA"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_every_mode_is_the_gray_picture_of_8_bits(image: Any, suffix: str, mode: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(image, tmp_path / f"x.{suffix}", **options)
    with Image.open(path) as opened:
        opened.load()
        assert opened.mode == mode
    assert read_image(path).tolist() == [GRAY.tolist()] * 3


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB", "RGBX", "HSV", "La", "RGBa", "I;16L", "I;16N"])
def test_modes_that_images_in_memory_have_are_converted(mode: str) -> None:
    from nas.networks.preprocessing import to_rgb

    source = Image.fromarray(np.array([[0, 255]], np.uint8))
    pixels = np.array([[0, 65535]], np.uint16).tobytes()
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, (2, 1), pixels)
    else:
        between = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB"}.get(mode, "RGB")
        image = source.convert(between).convert(mode)
    assert np.asarray(to_rgb(image)).astype(int)[0].tolist() == pytest.approx(np.array([[0] * 3, WHITE]), abs=1)


def test_zero_is_white_where_the_file_says_so(tmp_path: Path) -> None:
    path = save(Image.fromarray(WIDE), tmp_path / "x.tif", tiffinfo={262: 0})
    assert read_image(path)[0].tolist() == (255 - GRAY).tolist()
    path = save(Image.fromarray(GRAY), tmp_path / "y.tif", tiffinfo={262: 0})
    assert read_image(path)[0].tolist() == GRAY.tolist()


PALETTE = chunk(b"PLTE", bytes([0, 0, 0, 9, 9, 9]))


@pytest.mark.parametrize(
    ("content", "visible"),
    [
        (png(8, 6, bytes([0, 0, 0, 0, 9, 9, 9, 255])), 9),
        (png(8, 4, bytes([0, 0, 9, 255])), 9),
        (png(8, 3, bytes([0, 1]), PALETTE, chunk(b"tRNS", bytes([0]))), 9),
        (png(8, 3, bytes([0, 1]), PALETTE, chunk(b"tRNS", bytes([0, 254]))), 10),
        (png(8, 0, bytes([7, 9]), chunk(b"tRNS", bytes([0, 7]))), 9),
        (png(8, 2, bytes([7] * 3 + [9] * 3), chunk(b"tRNS", bytes([0, 7] * 3))), 9),
        (png(16, 0, struct.pack(">2H", 1000, 9 * 257), chunk(b"tRNS", struct.pack(">H", 1000))), 9),
        (png(16, 4, struct.pack(">4H", 0, 0, 9 * 257, 65535)), 9),
    ],
    ids=["RGBA", "LA", "P, index", "P, bytes", "L", "RGB", "I;16", "LA of 16 bits"],
)
def test_what_is_transparent_is_white(content: bytes, visible: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert read_image(path)[:, 0].T.tolist() == [WHITE, [visible] * 3]


def test_an_icon_in_black_on_nothing_stays_visible(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    assert read_image(save(image, tmp_path / "x.png"))[:, 0].T.tolist() == [[0, 0, 0], WHITE]


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.array([[-3, 7]], np.int32), "values are from -3 to 7, but integers must be from 0 to 65535 (mode 'I')"),
        (np.array([[0, 70000]], np.int32), "from 0 to 70000, but integers must be from 0 to 65535 (mode 'I')"),
        (np.array([[0, 200]], np.float32), "from 0 to 200, but floats must be from 0 to 1 (mode 'F')"),
        (np.array([[0, np.nan]], np.float32), "from nan to nan, but floats must be from 0 to 1 (mode 'F')"),
    ],
)
def test_values_that_would_be_lost_are_refused_by_file_and_mode(values: Any, rule: str, tmp_path: Path) -> None:
    path = save(Image.fromarray(values), tmp_path / "x.tif")
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert caught.value.where == str(path)
    assert rule in caught.value.rule


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_16_bits_are_divided_by_257_and_rounded(values: list[int]) -> None:
    assert eight_bits(np.array([values], np.uint16)).tolist() == [[(value + 128) // 257 for value in values]]


@pytest.mark.parametrize(
    "array",
    [
        GRAY,
        GRAY[:, :, None],
        WIDE,
        WIDE.astype(">u2"),
        GRAY / 255,
        np.repeat(WIDE[:, :, None], 3, 2),
        np.dstack([GRAY] * 3),
    ],
)
def test_arrays_follow_the_same_rule(array: Any) -> None:
    assert read_image(array).tolist() == [GRAY.tolist()] * 3


def test_other_arrays() -> None:
    assert read_image(np.array([[False, True]]))[0].tolist() == [[0, 255]]
    assert read_image(np.zeros((1, 1, 4), np.uint8)).flatten().tolist() == WHITE
    for array in (GRAY.astype(np.int64), np.zeros((2, 2, 2), np.uint8), np.zeros(3, np.uint8), GRAY / 100):
        with pytest.raises(DataError):
            read_image(array)


def test_a_set_that_uses_little_of_16_bits_is_warned_about_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = [save(Image.fromarray(WIDE // 16), tmp_path / f"{index}.png") for index in range(3)]
    check_images([Split(dark, (0, 1, 0))], Reporter(quiet=True))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("warning: 3 of 3 images have 16 bits or more, but their largest value is 4095 of 65535")
    bright = save(Image.fromarray(WIDE // 4), tmp_path / "bright.png")
    check_images([Split([*dark, bright], (0, 1, 0, 1))], Reporter(quiet=True))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_the_first_frame_is_used_and_that_is_said(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Image.fromarray(GRAY), Image.fromarray(255 - GRAY)
    path = save(first, tmp_path / f"x.{suffix}", save_all=True, append_images=[second])
    check_images([Split([path], (0,))], Reporter())
    assert f"1 of 1 images have several frames; the first is used: {path}" in capsys.readouterr().err
    assert read_image(path)[0].tolist() == GRAY.tolist()


def test_an_exported_network_prepares_files_as_training_does(tmp_path: Path) -> None:
    small = "resolution: 8\nstages: [{block: conv, out_channels: 8}]\nhead: {block: classifier}"
    arch = parse_space("small", yaml.safe_load(small), "small").decode({})
    picture = np.random.default_rng(0).integers(0, 255, (9, 15, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 5
    turned = io.BytesIO()
    Image.fromarray(picture).save(turned, "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(turned.getvalue())
    alpha = Image.fromarray(picture).convert("RGBA")
    alpha.putalpha(Image.fromarray(picture[:, :, 0]))
    files = [
        tmp_path / "turned.jpg",
        save(alpha, tmp_path / "alpha.png"),
        save(Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257), tmp_path / "deep.png"),
        save(Image.fromarray(picture).convert("CMYK"), tmp_path / "cmyk.tif"),
    ]
    for fit in FITS:
        source = standalone_source(arch, "Small.", fit)
        modules = {getattr(node, "module", None) or node.names[0].name for node in ast.parse(source).body
                   if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
        assert {module.partition(".")[0] for module in modules} <= {
            "__future__", "json", "pathlib", "safetensors", "torch", "typing", "math", "collections", "itertools"
        }  # fmt: skip
        scope: dict[str, Any] = {"__name__": "model", "__file__": str(tmp_path / "model.py")}
        exec(compile(source, "model.py", "exec"), scope)
        trained_on = ImageDataset(Split(files, (0,) * len(files)), 8, fit=fit)
        for index, file in enumerate(files):
            with Image.open(file) as image:
                assert torch.equal(scope["preprocess"](image), normalize(trained_on[index][0][None])), (file, fit)


def tiff(bits: int, sample_format: int, pixels: bytes, width: int) -> bytes:
    """Return a gray TIFF of one row with unusual tags, which Pillow cannot write."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 134, 277: 1, 278: 1, 279: len(pixels),
            339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_the_white_of_a_tiff_of_12_bits_is_4095(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(12, 1, bytes.fromhex("000fff"), 2))
    assert read_image(path).tolist() == [[[0, 255]]] * 3


def test_signed_integers_of_8_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(8, 2, b"\x00\xff", 2))
    with pytest.raises(DataError, match=r"x.tif: .* signed integers of 8 bits, but must be unsigned ones \(mode 'L'\)"):
        read_image(path)
