"""VOC folders: corners from 1, difficult objects, sets, and broken XML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import DataError
from nas.training.detection.annotated_images import BoxFile
from nas.training.detection.voc_files import describe_voc, parse_xml, read_voc, voc_classes, voc_sets
from tests.helpers.box_files import voc_object, write_image, write_voc


def read(folder: Path) -> BoxFile:
    described = describe_voc(folder)
    return read_voc(folder, described, voc_classes(described))


def refused(path: Path, text: str) -> DataError:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        describe_voc(path.parent)
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(path)
    return caught.value


def test_corners_count_from_1_and_include_the_last_pixel(tmp_path: Path) -> None:
    write_voc(tmp_path, "b", voc_object("dog", (1, 1, 40, 30)), voc_object("cat", ("5.5", 6, 8, 9)))
    write_voc(tmp_path, "a")
    file = read(tmp_path)
    assert (file.classes, file.category_ids, file.notes) == (("cat", "dog"), (1, 2), ())
    empty, full = file.split.boxes
    assert len(empty) == 0
    assert full.corners.tolist() == [[0, 0, 40, 30], [4.5, 5, 8, 9]]
    assert full.classes.tolist() == [1, 0]
    assert full.ids.tolist() == [1, 2]


def test_difficult_objects_are_ignored_ones(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object(difficult=1), voc_object(difficult=" 0 "))
    assert read(tmp_path).split.boxes[0].crowd.tolist() == [True, False]


def test_boxes_are_clipped_or_dropped_and_sizes_checked(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object(corners=(9, 1, 8, 5)), voc_object(corners=(30, 1, 50, 5)), size=(80, 60))
    file = read(tmp_path)
    assert file.split.boxes[0].corners.tolist() == [[29, 0, 40, 5]]
    assert file.split.sizes == ((40, 30),)
    assert len(file.notes) == 3
    assert file.notes[1].endswith("1 box without area: dropped; the first is object 1 of a.jpg")
    assert file.notes[2].endswith("1 box over the edge of the image: clipped; the first is object 2 of a.jpg")


def test_images_without_an_xml_file_are_reported(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object())
    write_image(tmp_path / "JPEGImages" / "z.jpg")
    assert read(tmp_path).notes == (f"{tmp_path.name}: not used: 1 image without an XML file, the first is z.jpg",)


def test_the_image_is_found_by_the_name_of_the_xml_file_or_in_it(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object())
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("a.jpg", "stale.jpg"))
    assert read(tmp_path).split.images == [str(tmp_path / "JPEGImages" / "a.jpg")]
    path.rename(path.with_name("other.xml"))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert (caught.value.key, caught.value.value) == ("other.xml", "stale.jpg")
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "stale.jpg")
    assert read(tmp_path).split.images == [str(tmp_path / "JPEGImages" / "stale.jpg")]


def test_sets_are_read_and_trainval_stands_in_for_train(tmp_path: Path) -> None:
    folder = tmp_path / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    assert voc_sets(tmp_path) == {}
    (folder / "trainval.txt").write_text("a\nb -1\n\nc  1\n")
    (folder / "val.txt").write_text("b\n")
    assert voc_sets(tmp_path) == {"train": ["a", "c"], "val": ["b"]}
    (folder / "train.txt").write_text("a\n")
    (folder / "test.txt").write_text("d\n")
    assert voc_sets(tmp_path) == {"train": ["a"], "val": ["b"], "test": ["d"]}
    write_voc(tmp_path, "a", voc_object())
    with pytest.raises(DataError, match=r"has no d\.xml"):
        describe_voc(tmp_path, ["a", "d"])


@pytest.mark.parametrize(
    ("declaration", "key"),
    [('<!ENTITY a "aaaa">', "a"), ('<!ENTITY x SYSTEM "file:///etc/passwd">', "x"), ('<!ENTITY % p "b">', "p")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(declaration: str, key: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(f"<!DOCTYPE annotation [{declaration}]><annotation>&a;</annotation>".encode(encoding))
    with pytest.raises(DataError, match="must not declare entities") as caught:
        parse_xml(path)
    assert (caught.value.where, caught.value.key) == (str(path), key)


@pytest.mark.parametrize(
    "text",
    ["", "no xml", "<annotation>", "<a></b>", "<a/><b/>", '<?xml version="1.0" encoding="none"?><a/>', "<a>&x;</a>"],
)  # fmt: skip
def test_files_that_are_no_xml_are_refused(text: str, tmp_path: Path) -> None:
    assert "not an XML file" in refused(tmp_path / "a.xml", text).rule


def test_deep_files_are_refused(tmp_path: Path) -> None:
    assert "nested" in refused(tmp_path / "a.xml", "<a>" * 10_000).rule


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.xml", "<svg/>")
    assert (error.key, error.rule) == ("svg", "not a VOC file: the root must be <annotation>")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (voc_object(""), "object 2, name"),
        (voc_object("a\x85b"), "object 2, name"),
        (voc_object(corners=("nan", 1, 2, 3)), "object 2, bndbox/xmin"),
        (voc_object(corners=(1, "inf", 2, 3)), "object 2, bndbox/ymin"),
        (voc_object(corners=(1, 1, "x", 3)), "object 2, bndbox/xmax"),
        ("<object><name>a</name></object>", "object 2, bndbox/xmin"),
        (voc_object(difficult="maybe"), "object 2, difficult"),
    ],
)
def test_broken_objects_are_refused(content: str, key: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "a.xml", f"<annotation>{voc_object()}{content}</annotation>").key == key


def test_no_objects_at_all_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, "a")
    with pytest.raises(DataError) as caught:
        voc_classes(describe_voc(tmp_path))
    assert caught.value.key == "object"
