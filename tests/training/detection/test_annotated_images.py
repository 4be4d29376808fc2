"""From objects to boxes of images: order, areas and notes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nas.errors import DataError
from nas.training.detection.annotated_images import Objects, assemble, counted, image_sizes
from tests.helpers.box_files import write_image


def add(objects: Objects, image: int, corners: tuple[float, ...], number: int, area: float = math.nan) -> None:
    objects.images.append(image)
    objects.classes.append(number % 3)
    objects.corners.extend(corners)
    objects.crowd.append(number % 2)
    objects.areas.append(area)
    objects.ids.append(number)


def test_objects_come_to_their_images_in_the_order_of_the_file() -> None:
    objects = Objects()
    for number, image in enumerate((2, 0, 2, 0, 2)):
        add(objects, image, (1, 1, 3, 4), number, area=5 if number == 1 else math.nan)
    split, notes = assemble(["a", "b", "c"], [(9, 9)] * 3, objects, Path("a.json"))
    assert notes == []
    assert [each.ids.tolist() for each in split.boxes] == [[1, 3], [], [0, 2, 4]]
    assert split.boxes[0].areas.tolist() == [5, 6]
    assert split.boxes[0].crowd.tolist() == [True, True]
    assert split.boxes[2].classes.tolist() == [0, 2, 1]


def test_no_objects_at_all() -> None:
    split, notes = assemble(["a"], [(9, 9)], Objects(), Path("a.json"))
    assert [len(each) for each in split.boxes] == [0]
    assert notes == []


def test_sizes_are_those_of_the_upright_pictures(tmp_path: Path) -> None:
    paths = [str(write_image(tmp_path / f"{number}.jpg", orientation=number)) for number in range(9)]
    sizes, notes = image_sizes(paths, [None] * 9, tmp_path / "a.json", None)
    assert sizes == [(40, 30)] * 5 + [(30, 40)] * 4
    assert notes == []


def test_a_missing_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable image"):
        image_sizes([str(tmp_path / "none.png")], [None], tmp_path / "a.json", None)


def test_numbers_have_their_nouns() -> None:
    assert [counted(1, "box", "boxes"), counted(2, "box", "boxes"), counted(1000, "image")] == [
        "1 box", "2 boxes", "1,000 images",
    ]  # fmt: skip
