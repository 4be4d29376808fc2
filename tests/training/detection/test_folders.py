"""Loading data sets with boxes: parts that are split off, categories of the parts, notes, and a real data set."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import DataError
from nas.training.detection.boxes import BoxData
from nas.training.detection.folders import load_boxes
from nas.utils.reporting import Reporter
from tests.helpers.box_files import CATEGORIES, annotation, image, write_coco

BCCD = Path(__file__).parents[4] / "shared" / "data" / "bccd.tar.gz"


def write_part(root: Path, part: str, count: int, first: int, **more: Any) -> None:
    images = [image(number) for number in range(first, first + count)]
    write_coco(root / part / "_annotations.coco.json", images, **more)


def lengths(data: BoxData) -> list[int]:
    return [len(split) for split in (data.train, data.validation, data.test)]


@pytest.mark.skipif(not BCCD.is_file(), reason="../shared/data/bccd.tar.gz is not here")
def test_a_real_data_set(tmp_path: Path) -> None:
    with tarfile.open(BCCD) as file:
        file.extractall(tmp_path, filter="data")
    data = load_boxes(str(tmp_path / "bccd"))
    assert lengths(data) == [205, 87, 72]
    assert [sum(map(len, split.boxes)) for split in (data.train, data.validation, data.test)] == [2804, 1137, 945]
    assert (data.classes, data.category_ids) == (("Platelets", "RBC", "WBC"), (1, 2, 3))
    assert data.notes == ()
    assert data.folder == tmp_path / "bccd"
    assert data.flip


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(("train",), [64, 16, 20]), (("train", "valid"), [80, 20, 9]), (("train", "test"), [80, 20, 9])],
)
def test_missing_parts_are_split_off(parts: tuple[str, ...], expected: list[int], tmp_path: Path) -> None:
    for part, count, first in zip(parts, (100, 9), (1, 201), strict=False):
        write_part(tmp_path, part, count, first)
    data = load_boxes(str(tmp_path))
    assert lengths(data) == expected
    names = {image for split in (data.train, data.validation, data.test) for image in split.images}
    assert len(names) == sum(expected)
    assert load_boxes(str(tmp_path)).train.images == data.train.images


@pytest.mark.parametrize(
    ("categories", "rule"),
    [
        ([CATEGORIES[0], {"id": 7, "name": "bird"}], "the id 7 is 'bird' here, but 'dog' there"),
        ([*CATEGORIES, {"id": 9, "name": "bird"}], "'bird' (id 9) is only here"),
        ([CATEGORIES[0]], "'dog' (id 7) is only there"),
    ],
)
def test_parts_with_other_categories_are_refused(categories: Any, rule: str, tmp_path: Path) -> None:
    write_part(tmp_path, "train", 4, 1)
    write_part(tmp_path, "test", 4, 11, categories=categories, annotations=[annotation(1, 11)])
    with pytest.raises(DataError) as caught:
        load_boxes(str(tmp_path))
    assert caught.value.where == str(tmp_path / "test" / "_annotations.coco.json")
    assert caught.value.key == "categories"
    assert caught.value.rule.endswith(rule)


def test_the_order_of_categories_does_not_matter(tmp_path: Path) -> None:
    write_part(tmp_path, "train", 4, 1)
    write_part(tmp_path, "test", 4, 11, categories=CATEGORIES[::-1])
    assert load_boxes(str(tmp_path)).category_ids == (3, 7)


@pytest.mark.parametrize("crowd", [True, False])
def test_a_part_without_boxes_is_refused(crowd: bool, tmp_path: Path) -> None:
    write_part(tmp_path, "train", 4, 1)
    annotations = [{**annotation(1, 11), "iscrowd": 1}] if crowd else []
    write_part(tmp_path, "test", 4, 11, annotations=annotations)
    with pytest.raises(DataError) as caught:
        load_boxes(str(tmp_path))
    assert caught.value.where == str(tmp_path / "test" / "_annotations.coco.json")
    assert caught.value.rule.startswith("no boxes in 4 test images")


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "one" / "a.json", 1)
    write_coco(tmp_path / "two" / "a.json", 2)
    for name in ("one", "two"):
        with pytest.raises(DataError, match="too few to hold out"):
            load_boxes(str(tmp_path / name))


def test_negatives_unused_classes_and_shared_images_are_noted(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 4), ("test", 4)):
        write_coco(tmp_path / f"{part}.json", count, [annotation(1), annotation(2, 2)], folder=tmp_path / "images")
    name = tmp_path.name
    assert load_boxes(str(tmp_path)).notes == (
        f"{name}: 8 images without boxes, kept as negatives: 4 training, 2 validation, 2 test",
        f"{name}: 1 class has no boxes in the training images: 'dog'",
        f"{name}: 4 images both in the training and the validation images, such as 1.png",
        f"{name}: 4 images both in the training and the test images, such as 1.png",
        f"{name}: 4 images both in the validation and the test images, such as 1.png",
    )


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must not be empty"):
        load_boxes("")
    with pytest.raises(DataError) as caught:
        load_boxes("digit_canvas")
    assert caught.value.nearest == "; did you mean 'digit_canvases'?"
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="not a folder and not a COCO file"):
        load_boxes(str(tmp_path / "a.txt"))


def test_the_progress_of_many_images_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "a.json", [image(number) for number in range(2)])
    images = [image(number) for number in range(2000)]
    for number in range(2, 2000):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    from json import dumps

    annotations = [annotation(each["id"], each["id"], 3 + 4 * (each["id"] % 2)) for each in images]
    (tmp_path / "a.json").write_text(dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    data = load_boxes(str(tmp_path / "a.json"), reporter=Reporter())
    assert "reading the sizes of 2000 images: 2000/2000" in capsys.readouterr().err
    assert lengths(data) == [1280, 320, 400]
    assert np.allclose(data.test.class_counts(2) / 400, 0.5, atol=0.01)


def test_the_embedded_data_set_has_a_name() -> None:
    assert load_boxes("digit_canvases").name == "digit_canvases"
