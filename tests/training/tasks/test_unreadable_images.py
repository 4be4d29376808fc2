"""Files that cannot be used as images: each is named, with the reason."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nas.errors import DataError
from nas.training.tasks.image_datasets import check_images, load_images
from nas.training.tasks.image_files import read_image
from nas.utils.reporting import Reporter
from tests.helpers.pictures import write_classes


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "not a readable image: "),
        (lambda path: path.write_bytes(b""), "not a readable image: the file is empty"),
        (lambda path: path.write_text("<html>"), "not a readable image: it has no format that Pillow knows"),
        (link_to_nothing, "not a readable image: it is a link to 'nowhere.png', which does not exist"),
        (
            lambda path: path.write_bytes(png_header(20_000, 20_000)),
            "the image is too large: it has 400,000,000 pixels, Pillow's limit is 178,956,970",
        ),
    ],
)
def test_a_file_is_named_with_its_reason(damage: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    write_classes(tmp_path)
    damage(tmp_path / "dog" / "3.png")
    data = load_images(str(tmp_path))
    with pytest.raises(DataError) as caught:
        check_images((data.train, data.validation, data.test), Reporter())
    assert caught.value.where == str(tmp_path / "dog" / "3.png")
    assert caught.value.rule.startswith(reason)
    assert len(caught.value.rule) > len("not a readable image: ")


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(DataError, match=r"x.png: not a readable image: Permission denied"):
        read_image(tmp_path / "x.png")


def test_a_folder_that_is_named_as_an_image_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "dog" / "x.jpg").mkdir()
    with pytest.raises(DataError, match=r"dog/x.jpg: is a folder, but is named as an image"):
        load_images(str(tmp_path))


def test_a_large_image_is_read_without_a_python_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (12, 10)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "x.png").shape == (3, 10, 12)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match="it has 120 pixels, Pillow's limit is 100"):
        read_image(tmp_path / "x.png")
