"""COCO files: ids, boxes, images and forms that users have, each as one note or one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nas.errors import DataError
from nas.training.detection.annotated_images import BoxFile
from nas.training.detection.coco_files import load_coco, read_coco
from tests.helpers.box_files import CATEGORIES, annotation, image, write_coco, write_image

NAN, INFINITE = float("nan"), float("inf")


def coco(folder: Path, annotations: list[Any], images: Any = 2, categories: Any = CATEGORIES) -> BoxFile:
    return read_coco(write_coco(folder / "pets.json", images, annotations, categories))


def refused(folder: Path, annotations: list[Any], images: Any = 2, categories: Any = CATEGORIES) -> DataError:
    with pytest.raises(DataError) as caught:
        coco(folder, annotations, images, categories)
    assert caught.value.where == str(folder / "pets.json")
    assert "\n" not in str(caught.value)
    return caught.value


def test_boxes_classes_and_ids_are_read(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(5, 2, 7, (1, 2, 10.5, 8), area=33.5), annotation(9, 1, 3), annotation(2, 2)])
    assert (file.classes, file.category_ids, file.notes) == (("cat", "dog"), (3, 7), ())
    first, second = file.split.boxes
    assert second.corners.tolist() == [[1, 2, 11.5, 10], [1, 2, 11, 10]]
    assert second.classes.tolist() == [1, 0]
    assert second.ids.tolist() == [5, 2]
    assert second.areas.tolist() == [33.5, 80]
    assert first.ids.tolist() == [9]
    assert file.split.sizes == ((40, 30), (40, 30))
    assert file.split.images == [str(tmp_path / "1.png"), str(tmp_path / "2.png")]


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (90, 13), (-4, 7), (1, 1000)])
def test_category_ids_may_have_gaps_and_start_anywhere(ids: tuple[int, int], tmp_path: Path) -> None:
    categories = [{"id": ids[0], "name": "a"}, {"id": ids[1], "name": "b"}]
    file = coco(tmp_path, [annotation(1, 1, ids[0]), annotation(2, 1, ids[1])], categories=categories)
    assert file.category_ids == tuple(sorted(ids))
    assert [file.category_ids[label] for label in file.split.boxes[0].classes] == list(ids)
    assert file.classes == (("a", "b") if ids[0] < ids[1] else ("b", "a"))


def test_annotation_ids_may_start_at_0_repeat_or_be_missing(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(0), annotation(0, 2), annotation("x", 2), annotation(None, 2)])
    assert [each.ids.tolist() for each in file.split.boxes] == [[0], [0, 3, 4]]
    assert file.notes == (
        "pets.json: 1 annotation with an id that occurred before, the first is 0; equal ones count once",
        "pets.json: 2 annotations without an integer id: numbered by their place in the file",
    )
    assert len(coco(tmp_path, [annotation(4), annotation(4)]).split.boxes[0]) == 1


def test_crowds_are_kept_and_flagged(tmp_path: Path) -> None:
    crowd = {**annotation(2), "iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [40, 30]}}
    file = coco(tmp_path, [annotation(1), crowd, {**annotation(3), "iscrowd": True}])
    assert file.split.boxes[0].crowd.tolist() == [False, True, True]
    assert refused(tmp_path, [{**annotation(8), "iscrowd": "no"}]).key == "annotation 8, iscrowd"


def test_images_without_boxes_are_kept(tmp_path: Path) -> None:
    split = coco(tmp_path, [annotation(1)], images=3).split
    assert [len(each) for each in split.boxes] == [1, 0, 0]
    assert split.negatives == 2
    assert split.boxes[1].corners.shape == (0, 4)


def test_boxes_over_the_edge_are_clipped(tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1, bbox=(-3, -2, 10, 10)), annotation(2, bbox=(35.5, 25, 4.505, 5))])
    assert file.split.boxes[0].corners.tolist() == [[0, 0, 7, 8], [35.5, 25, 40, 30]]
    note = "pets.json: 1 box over the edge of the image: clipped; the first is annotation 1 of 1.png"
    assert file.notes == (note,)


@pytest.mark.parametrize("box", [(1, 2, 0, 5), (1, 2, 5, 0), (9, 9, -4, 3), (1, 1, 1e-12, 3), (0, 0, 0, 0)])
def test_boxes_without_area_are_dropped(box: tuple[float, ...], tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1), annotation(7, 2, bbox=box), annotation(8, 2, bbox=box)])
    assert [len(each) for each in file.split.boxes] == [1, 0]
    assert len(file.notes) == 1
    assert file.notes[0].startswith("pets.json: 2 boxes ")
    assert file.notes[0].endswith("the first is annotation 7 of 2.png")


@pytest.mark.parametrize("box", [(50, 2, 5, 5), (-9, 0, 9, 5), (40, 0, 3, 3), (1e300, 0, 1e300, 5)])
def test_boxes_outside_of_the_image_are_dropped(box: tuple[float, ...], tmp_path: Path) -> None:
    file = coco(tmp_path, [annotation(1), annotation(7, 2, bbox=box)])
    rule = "pets.json: 1 box outside of the image or without area in it: dropped; the first is annotation 7 of 2.png"
    assert file.notes == (rule,)


@pytest.mark.parametrize(
    "box",
    [(NAN, 1, 2, 3), (1, INFINITE, 2, 3), (1, 2, -INFINITE, 3), (1, 2, "3", 4), (1, 2, 3), (1, 2, 3, 4, 5), None,
     "abcd", (1, 2, None, 4), [[1, 2, 3, 4]], {"x": 1, "y": 2, "w": 3, "h": 4}, (10**400, 1, 1, 1), (1, 2, [3], 4)],
)  # fmt: skip
def test_boxes_that_are_no_finite_numbers_are_refused(box: Any, tmp_path: Path) -> None:
    error = refused(tmp_path, [annotation(1), annotation(12, bbox=box)])
    assert error.key == "annotation 12, bbox"
    assert "four finite numbers" in error.rule


def test_an_unknown_image_or_category_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, [annotation(1), annotation(12, image_id=99)])
    assert (error.key, error.value) == ("annotation 12, image_id", 99)
    error = refused(tmp_path, [annotation(1), annotation(12, category_id=1)])
    assert (error.key, error.value, error.nearest) == ("annotation 12, category_id", 1, "; the categories are 3, 7")


def test_a_missing_image_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "pets.json", [image(1, "cat_0001.png"), image(2, "cat_0002.png")])
    (tmp_path / "cat_0002.png").rename(tmp_path / "cat_0002.PNG")
    with pytest.raises(DataError) as caught:
        read_coco(path)
    error = caught.value
    assert (error.key, error.value, error.nearest) == ("image 2", "cat_0002.png", "; did you mean 'cat_0002.PNG'?")


def test_an_unreadable_image_is_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "pets.json")
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a readable image") as caught:
        read_coco(path)
    assert caught.value.where == str(tmp_path / "2.png")


@pytest.mark.parametrize("name", ["images/1.png", "train/1.png", "C:\\data\\1.png", "/home/x/1.png", "./1.png"])
def test_images_are_found_by_their_folder_or_their_name(name: str, tmp_path: Path) -> None:
    path = write_coco(tmp_path / "a.json", [], [annotation(1)])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "images": [image(1, name)]}))
    write_image(tmp_path / "images" / "1.png")
    assert Path(read_coco(path).split.images[0]).resolve() == tmp_path / "images" / "1.png"


def test_the_size_of_the_picture_decides(tmp_path: Path) -> None:
    images = [image(1), image(2, size=(30, 40)), image(3, size=(80, 60)), {"id": 4, "file_name": "4.png"}]
    file = coco(tmp_path, [annotation(1, 3, bbox=(30, 20, 20, 20))], images)
    assert set(file.split.sizes) == {(40, 30)}
    assert file.split.boxes[2].corners.tolist() == [[30, 20, 40, 30]]
    assert file.notes[0] == (
        "pets.json: of 2 images, the file tells a wrong size; boxes count as pixels of the picture: "
        "30 x 40 instead of 40 x 30 for 2.png"
    )


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_turned_pictures_have_the_size_after_the_turn(suffix: str, tmp_path: Path) -> None:
    names = [f"1.{suffix}", f"2.{suffix}"]
    path = write_coco(tmp_path / "pets.json", [image(1, names[0]), image(2, names[1], (30, 40))])
    for name in names:
        write_image(tmp_path / name, orientation=6)
    file = read_coco(path)
    assert file.split.sizes == ((30, 40), (30, 40))
    assert len(file.notes) == 1
    assert "of 1 image, the file tells the size before the turn of its EXIF orientation" in file.notes[0]
    assert file.notes[0].endswith(f"40 x 30 instead of 30 x 40 for {names[0]}")


def test_images_of_one_file_are_merged(tmp_path: Path) -> None:
    images = [image(1), image(2, "1.png"), image(1)]
    file = coco(tmp_path, [annotation(1, 1), annotation(2, 2), annotation(3, 2, 7)], images)
    assert [each.classes.tolist() for each in file.split.boxes] == [[0, 1]]
    assert file.notes == ("pets.json: 2 images listed again: boxes merged; the first is '1.png'",)
    assert refused(tmp_path, [], [image(1), image(1, "b.png")]).key == "image 1"


def test_categories_may_share_a_name_but_not_an_id(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "fire"}, {"id": 1, "name": "fire", "supercategory": "fire"}]
    assert coco(tmp_path, [annotation(1, 1, 1)], categories=categories).classes == ("fire (0)", "fire (1)")
    error = refused(tmp_path, [], categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])
    assert error.key == "category 1"


@pytest.mark.parametrize(
    ("categories", "key"),
    [([], "categories"), ([{"name": "a"}], "categories[0]"), ([{"id": "1", "name": "a"}], "categories[0]"),
     ([{"id": True, "name": "a"}], "categories[0]"), ([{"id": 1}], "category 1"),
     ([{"id": 1, "name": 5}], "category 1"), ([{"id": 1, "name": " "}], "category 1"),
     ([{"id": 1, "name": "a\nb"}], "category 1")],
)  # fmt: skip
def test_broken_categories_are_refused(categories: Any, key: str, tmp_path: Path) -> None:
    assert refused(tmp_path, [], categories=categories).key == key


@pytest.mark.parametrize(
    ("text", "key", "rule"),
    [
        ("", "", "not a JSON file"),
        ("{", "", "not a JSON file"),
        ("[" * 100_000, "", "not a JSON file"),
        ('{"images": 1' + "0" * 5000 + "}", "", "not a JSON file"),
        ("[]", "", "it holds a list"),
        ("3", "", "it holds a int"),
        ('{"annotations": [], "categories": []}', "images", "the key is missing"),
        ('{"images": [], "categories": []}', "annotations", "the key is missing"),
        ('{"images": [], "annotations": []}', "categories", "the key is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "images", "must be a list"),
        ('{"images": [], "annotations": [4], "categories": []}', "annotations[0]", "must be an object"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "images", "has no images"),
    ],
)
def test_files_of_another_form_are_refused(text: str, key: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "pets.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_coco(path)
    assert (caught.value.where, caught.value.key) == (str(path), key)
    assert rule in caught.value.rule


def test_detections_of_a_model_are_recognized(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(DataError, match="looks like the detections of a model"):
        load_coco(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_coco(tmp_path / "none.json")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a JSON file"):
        load_coco(path)


def test_a_byte_order_mark_and_floats_as_ids_are_accepted(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "pets.json", [image(1.0, "1.png")], [annotation(1.0, 1.0, 3.0)])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_coco(path).split.boxes[0].classes.tolist() == [0]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 1, 3, 7, "1.png"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.integers(-9, 60) | st.floats() | VALUES
IMAGES = st.fixed_dictionaries(
    {"id": st.integers(0, 3) | VALUES, "file_name": st.sampled_from(["1.png", "2.png"]) | VALUES},
    optional={"width": NUMBERS, "height": NUMBERS},
)
ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(0, 3) | VALUES, "image_id": st.integers(0, 3) | VALUES, "category_id": st.just(3) | VALUES,
        "bbox": st.lists(NUMBERS, min_size=4, max_size=4) | VALUES, "iscrowd": VALUES, "area": NUMBERS,
        "segmentation": VALUES,
    },
)  # fmt: skip
PLAIN = st.fixed_dictionaries(
    {
        "image_id": st.just(1),
        "category_id": st.just(3),
        "bbox": st.lists(st.floats() | st.integers(), min_size=4, max_size=4),
    },
    optional={"id": st.integers(), "area": st.floats() | st.integers()},
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "images": st.lists(IMAGES | VALUES, max_size=3) | st.just([image(1)]) | VALUES,
        "annotations": st.lists(ANNOTATIONS | VALUES, max_size=3) | st.lists(PLAIN, max_size=3) | VALUES,
        "categories": st.just(CATEGORIES) | st.lists(st.dictionaries(st.sampled_from(["id", "name"]), VALUES)) | VALUES,
    },
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("pictures") / "a.json").parent


@settings(deadline=None, max_examples=200)
@given(FILES | VALUES)
def test_any_json_gives_a_valid_value_or_an_error(pictures: Path, content: Any) -> None:
    (pictures / "a.json").write_text(json.dumps(content))
    try:
        file = read_coco(pictures / "a.json")
    except DataError as error:
        assert "\n" not in str(error)
        return
    check_is_valid(file)


@settings(deadline=None, max_examples=100)
@example([[0.0, 0.0, 1.0, 1.0], [5e-324, 0.0, 1.0, 1.0], [1e300, 0.0, 1.0, 1.0]])
@given(st.lists(st.lists(st.floats(-1e300, 1e300) | st.integers(-50, 50), min_size=4, max_size=4), max_size=6))
def test_any_finite_boxes_give_boxes_in_their_image(pictures: Path, boxes: list[list[float]]) -> None:
    annotations = [annotation(number, bbox=box, area=box[0]) for number, box in enumerate(boxes)]
    (pictures / "a.json").write_text(
        json.dumps({"images": [image(1)], "annotations": annotations, "categories": CATEGORIES})
    )
    file = read_coco(pictures / "a.json")
    check_is_valid(file)
    flat = sum(bool(width <= 0 or height <= 0) for _, _, width, height in boxes)
    assert len(file.split.boxes[0]) <= len(boxes) - flat


def check_is_valid(file: BoxFile) -> None:
    assert len(file.classes) == len(file.category_ids) == len(set(file.classes))
    assert list(file.category_ids) == sorted(set(file.category_ids))
    assert len(file.split.images) == len(file.split.boxes) == len(file.split.sizes)
    for boxes, size in zip(file.split.boxes, file.split.sizes, strict=True):
        assert np.isfinite(boxes.corners).all()
        assert (boxes.corners[:, 2:] > boxes.corners[:, :2]).all()
        assert (boxes.corners >= 0).all()
        assert (boxes.corners[:, 2:] <= size).all()
        assert np.isfinite(boxes.areas).all()
        assert (boxes.areas > 0).all()
        assert set(boxes.classes.tolist()) <= set(range(len(file.classes)))
