"""Layouts of folders: which annotation file is for which part, and where its images lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import DataError
from nas.training.detection.annotation_search import find_sources, part_of_file
from nas.training.detection.folders import load_boxes
from tests.helpers.box_files import image, voc_object, write_coco, write_image, write_voc


def write_parts(root: Path, file: str, folder: str, parts: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """Write 6, 4 and 3 images of three parts. `file` and `folder` are paths with a place for the part."""
    for part, count, first in zip(parts, (6, 4, 3), (1, 11, 21), strict=False):
        images = [image(number) for number in range(first, first + count)]
        write_coco(root / file.format(part), images, folder=root / folder.format(part))
    return root


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("instances_train2017", "train"), ("instances_val", "val"), ("test_annotations", "test"), ("Valid", "val"),
        ("instances_trainval", "train"), ("pascal_train2012", "train"), ("_annotations.coco", None),
        ("instances_default", None), ("train_or_test", None), ("latest", None),
    ],
)  # fmt: skip
def test_the_part_of_an_annotation_file(name: str, part: str | None) -> None:
    assert part_of_file(Path(f"{name}.json")) == part


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("{}/_annotations.coco.json", "{}"),
        ("{}/annotations.json", "{}/images"),
        ("{}/instances.json", "images/{}"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}.json", "images"),
        ("annotations/{}.json", "."),
        ("annotations/{}.json", "annotations"),
        ("instances_{}.json", "images"),
        ("{}.json", "{}"),
        ("labels/{}.json", "data/../{}"),
    ],
)
def test_layouts_with_a_file_per_part(file: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = load_boxes(str(write_parts(tmp_path, file, folder)))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 4, 3]
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "folder"),
    [("_annotations.coco.json", "."), ("instances_default.json", "images"), ("annotations/all.json", "images")],
)
def test_layouts_with_one_file(file: str, folder: str, tmp_path: Path) -> None:
    write_coco(tmp_path / file, 20, folder=tmp_path / folder)
    data = load_boxes(str(tmp_path))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 4, 4]
    alone = load_boxes(str(tmp_path / file))
    assert alone.test.images == data.test.images
    assert alone.name == Path(file).stem


def test_other_annotations_of_coco_are_not_taken(tmp_path: Path) -> None:
    write_parts(tmp_path, "annotations/instances_{}2017.json", "{}2017", ("train", "val"))
    for name in ("captions_train2017", "person_keypoints_val2017", "image_info_test2017", "panoptic_val2017"):
        (tmp_path / "annotations" / f"{name}.json").write_text("{}")
    sources, _ = find_sources(tmp_path)
    names = {part: source.path.name for part, source in sources.items()}
    assert names == {"train": "instances_train2017.json", "val": "instances_val2017.json"}


def test_two_files_for_one_part_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "instances_train2014.json")
    write_coco(tmp_path / "instances_train2017.json")
    with pytest.raises(DataError, match="several annotation files of one part: 'instances_train2014"):
        load_boxes(str(tmp_path))
    for name in ("train", "training"):
        write_coco(tmp_path / "other" / name / "a.json")
    with pytest.raises(DataError, match="two folders have annotations of one part"):
        load_boxes(str(tmp_path / "other"))


def test_a_part_without_annotations_is_reported(tmp_path: Path) -> None:
    write_parts(tmp_path, "annotations/instances_{}.json", "{}", ("train", "val"))
    write_image(tmp_path / "test2017" / "1.png")
    data = load_boxes(str(tmp_path))
    assert f"{tmp_path.name}: test2017/ is not used: it has no annotations" in data.notes


def test_no_training_annotations_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "val" / "a.json")
    with pytest.raises(DataError, match="but none for training"):
        load_boxes(str(tmp_path))


def test_a_folder_without_annotations_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no annotations of boxes"):
        load_boxes(str(tmp_path))
    write_coco(tmp_path / "a" / "pets" / "all.json")
    with pytest.raises(DataError) as caught:
        load_boxes(str(tmp_path))
    assert caught.value.nearest == f"; did you mean '{tmp_path / 'a' / 'pets'}'?"


def test_labels_of_yolo_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "train" / "1.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match="convert the labels of YOLO"):
        load_boxes(str(tmp_path))


def test_voc_folders(tmp_path: Path) -> None:
    for number in range(20):
        write_voc(tmp_path / "whole", f"{number:02}", voc_object("cat"), voc_object("dog"))
    data = load_boxes(str(tmp_path / "whole"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 4, 4]
    sets = tmp_path / "whole" / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for name, numbers in (("train", range(9)), ("val", range(9, 16)), ("test", range(16, 20))):
        (sets / f"{name}.txt").write_text("\n".join(f"{number:02}" for number in numbers))
    data = load_boxes(str(tmp_path / "whole"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [9, 7, 4]


def test_parts_with_xml_files_beside_the_images_have_the_classes_of_all(tmp_path: Path) -> None:
    write_voc(tmp_path / "train", "1", voc_object("dog"), flat=True)
    write_voc(tmp_path / "valid", "2", voc_object("cat"), flat=True)
    write_voc(tmp_path / "test", "3", voc_object("dog"), flat=True)
    data = load_boxes(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.train.boxes[0].classes.tolist() == [1]
    assert data.notes == (f"{tmp_path.name}: 1 class has no boxes in the training images: 'cat'",)
