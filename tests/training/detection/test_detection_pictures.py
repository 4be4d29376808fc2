"""The picture of test images with boxes and detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.errors import DataError
from nas.training.detection import detection_pictures
from nas.training.detection.average_precision import Found, Truth
from nas.training.detection.detection_pictures import FOUND_COLOR, TRUTH_COLOR, draw_detections

WIDTH, HEIGHT = 120, 80
NO_BOXES = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0), WIDTH, HEIGHT)
NOTHING = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def gray(width: int = WIDTH, height: int = HEIGHT) -> Any:
    return np.full((height, width, 3), 128, np.uint8)


def truth_of(*corners: tuple[float, ...], crowd: bool = False) -> Truth:
    number = len(corners)
    return Truth(np.array(corners), np.zeros(number, int), np.full(number, crowd), np.ones(number), WIDTH, HEIGHT)


def found_of(*scores: float) -> Found:
    corners = [(10 + index, 20, 60 + index, 70) for index in range(len(scores))]
    return Found(np.array(corners, np.float32), np.array(scores), np.zeros(len(scores), int))


def pixels_of(path: Path, color: str) -> int:
    """Return the number of pixels of about this color."""
    target = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    with Image.open(path) as image:
        return int((np.abs(np.asarray(image.convert("RGB")).astype(int) - target).max(2) < 40).sum())


def drawn(path: Path, image: Any, truth: Truth, found: Found) -> tuple[int, int]:
    """Draw one image, and return how many pixels have the colors of the ground truth and of the detections."""
    draw_detections([image], [truth], [found], ("cell $_$",), path, "net on $_$")
    return pixels_of(path, TRUTH_COLOR), pixels_of(path, FOUND_COLOR)


def test_boxes_and_sure_detections_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "boxes.png"
    legend = drawn(path, gray(), NO_BOXES, NOTHING)
    truth = drawn(path, gray(), truth_of((10, 20, 60, 70)), NOTHING)
    assert truth[0] > 2 * legend[0] and truth[1] == legend[1]
    sure = drawn(path, gray(), NO_BOXES, found_of(0.3))
    assert sure[1] > 2 * legend[1] and sure[0] == legend[0]
    assert drawn(path, gray(), NO_BOXES, found_of(0.29, float("nan"))) == legend
    crowd = drawn(path, gray(), truth_of((10, 20, 60, 70), crowd=True), NOTHING)
    assert legend[0] < crowd[0] != truth[0]


def test_a_scaled_image_or_a_file_gives_the_same_picture(tmp_path: Path) -> None:
    truth, found = truth_of((10, 20, 60, 70)), found_of(0.9)
    Image.fromarray(gray()).save(tmp_path / "image.png")
    pictures = []
    for index, image in enumerate([gray(), gray(64, 64), gray()[:, :, 0], str(tmp_path / "image.png")]):
        drawn(tmp_path / f"{index}.png", image, truth, found)
        with Image.open(tmp_path / f"{index}.png") as drawing:
            pictures.append(np.asarray(drawing.convert("RGB")).astype(int))
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).max() < 5


@pytest.mark.parametrize(("count", "most", "expected"), [
    (0, 9, []), (1, 9, [0]), (2, 9, [0, 1]), (9, 9, list(range(9))), (101, 5, [0, 25, 50, 75, 100]),
])  # fmt: skip
def test_evenly_spaced_images_are_drawn(
    count: int, most: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(axes: Any, image: int, *_: object) -> None:
        seen.append(image)

    monkeypatch.setattr(detection_pictures, "_draw_image", note)
    draw_detections(range(count), [NO_BOXES] * count, [NOTHING] * count, ("cell",), tmp_path / "a.png", "net", most)
    assert seen == expected
    assert (tmp_path / "a.png").is_file()


@pytest.mark.filterwarnings("error")
def test_boxes_beyond_the_image_and_many_detections_are_drawn(tmp_path: Path) -> None:
    found = Found(np.array([(-50.0, -50, 500, 500)] * 60), np.linspace(0.3, 1, 60), np.zeros(60, int))
    draw_detections([gray()], [NO_BOXES], [found], ("\u65e5\u672c",), tmp_path / "a.png", "net")
    with Image.open(tmp_path / "a.png") as image:
        assert max(image.size) < 700


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        drawn(tmp_path / "a.png", tmp_path / "image.png", NO_BOXES, NOTHING)
    assert caught.value.where == str(tmp_path / "image.png")
    assert not (tmp_path / "a.png").exists()
