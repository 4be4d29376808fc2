"""Split folders: which names they have, and what is refused with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import DataError
from nas.training.tasks.image_datasets import load_images
from nas.training.tasks.image_folders import part_of
from tests.helpers.pictures import write_classes


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "TEST"),
        ("trn", "dev", "tst"),
        ("training_set", "eval", "test_set"),
        ("Train Images", "val-data", "test images"),
        ("seg_train", "seg_val", "seg_test"),
        ("train2017", "val2017", "TestSet"),
    ],
)
def test_splits_are_found_by_other_names(train: str, val: str, test: str, tmp_path: Path) -> None:
    for name, count in ((train, 4), (val, 3), (test, 2)):
        write_classes(tmp_path / name, count=count)
    data = load_images(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 6, 4]
    assert {Path(file).parts[-3] for file in data.test.images} == {test}


@pytest.mark.parametrize("name", ["cat", "trains", "testament", "latest", "valley", "devil", "images", ""])
def test_other_names_are_no_splits(name: str) -> None:
    assert part_of(name) is None


@pytest.mark.parametrize(("one", "other"), [("val", "validation"), ("test", "Testing"), ("train", "training")])
def test_two_folders_of_one_split_are_refused_by_name(one: str, other: str, tmp_path: Path) -> None:
    for name in {"train", one, other}:
        write_classes(tmp_path / name, count=1)
    with pytest.raises(DataError, match="has two folders of") as caught:
        load_images(str(tmp_path))
    assert f"'{one}'" in caught.value.rule
    assert f"'{other}'" in caught.value.rule


def test_classes_that_have_a_splits_name_stay_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=("sitting", "training", "walking"))
    assert load_images(str(tmp_path)).classes == ("sitting", "training", "walking")
    write_classes(tmp_path / "roles", classes=("dev", "eval"))
    assert load_images(str(tmp_path / "roles")).classes == ("dev", "eval")


def test_what_lies_beside_the_splits_is_reported(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "extra", count=3)
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "train" / "labels.csv").write_text("x")
    (tmp_path / "1.png").write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    (note,) = load_images(str(tmp_path)).notes
    assert "not used: extra/ (6 images), labels.csv, 1 image outside of the class folders, train/labels.csv" in note


@pytest.mark.parametrize("inner", [("train", "test"), ("Training", "val")])
def test_splits_within_classes_are_refused_with_a_hint(inner: tuple[str, str], tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_classes(tmp_path / name, classes=inner)
    with pytest.raises(DataError) as caught:
        load_images(str(tmp_path))
    assert "its folders cats/ and dogs/ both hold folders and no images" in caught.value.rule
    first = min(inner)
    assert f"move cats/{first} to {first}/cats" in caught.value.nearest


def test_classes_that_hold_the_same_folders_are_refused_but_others_are_not(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_classes(tmp_path / "same" / name, classes=("indoors", "outdoors"))
        write_classes(tmp_path / "other" / name, classes=(f"{name} 1", f"{name} 2"))
    with pytest.raises(DataError, match="put the images of a class in one folder"):
        load_images(str(tmp_path / "same"))
    assert len(load_images(str(tmp_path / "other")).train) == 25


@pytest.mark.parametrize(
    ("place", "given", "meant"),
    [
        ("archive/dataset/train", "archive", "archive/dataset"),
        ("archive/a/dataset/Train", "archive", "archive/a/dataset"),
        ("archive/dataset", "archive", "archive/dataset"),
    ],
)
def test_a_set_in_a_folder_of_the_folder_is_named(place: str, given: str, meant: str, tmp_path: Path) -> None:
    write_classes(tmp_path / place)
    (tmp_path / "archive" / "__MACOSX").mkdir()
    with pytest.raises(DataError) as caught:
        load_images(str(tmp_path / given))
    assert caught.value.nearest == f"; did you mean '{tmp_path / meant}'?"


def test_a_set_beside_other_folders_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "dataset" / "train")
    (tmp_path / "papers").mkdir()
    with pytest.raises(DataError, match=r"did you mean '.*/dataset'"):
        load_images(str(tmp_path))


@pytest.mark.parametrize(
    ("classes", "rule", "nearest"),
    [
        (("cat", "fox"), "must have the classes of Train/: 'dog' is only in Train/", ""),
        (("cat", "dog", "fox"), "must have the classes of Train/: 'fox' is only in test/", ""),
        (("cat", "Dog"), "must have the classes of Train/: 'Dog' is only in test/", "; 'dog' differs only in case"),
    ],
)
def test_the_class_that_only_one_split_has_is_named(
    classes: tuple[str, ...], rule: str, nearest: str, tmp_path: Path
) -> None:
    write_classes(tmp_path / "Train")
    write_classes(tmp_path / "test", classes=classes)
    with pytest.raises(DataError) as caught:
        load_images(str(tmp_path))
    assert caught.value.rule == rule
    assert caught.value.nearest.startswith(nearest)


@pytest.mark.parametrize("parts", [("",), ("train",), ("train", "test")])
def test_a_class_with_too_few_images_is_named_with_its_count(parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in parts:
        write_classes(tmp_path / part)
        write_classes(tmp_path / part, classes=("fox",), count=1)
    with pytest.raises(DataError) as caught:
        load_images(str(tmp_path))
    least = 2 if "test" in parts else 3
    assert f"the class 'fox' has 1 image, but each class needs at least {least}" in caught.value.rule


@pytest.mark.parametrize(("count", "least"), [(3, 8), (4, 8), (5, 8)])
def test_too_few_images_in_all_are_counted(count: int, least: int, tmp_path: Path) -> None:
    write_classes(tmp_path, count=count)
    if 2 * count >= least:
        assert min(len(load_images(str(tmp_path)).validation), len(load_images(str(tmp_path)).test)) == 2
    else:
        with pytest.raises(DataError, match=f"6 images of 2 classes are too few .* at least {least} are needed"):
            load_images(str(tmp_path))


def test_classes_in_a_folder_of_a_split_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "seg_train" / "seg_train")
    with pytest.raises(DataError, match="found only 'seg_train'; if the classes are in seg_train/, move them up"):
        load_images(str(tmp_path))


def test_with_all_splits_one_image_of_a_class_is_enough(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_classes(tmp_path / part, count=1)
    assert len(load_images(str(tmp_path)).train) == 2


def test_images_without_class_folders_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path, classes=("test",), count=4)
    with pytest.raises(DataError, match=r"test: not an image folder: has 4 images but no class folders"):
        load_images(str(tmp_path))


def test_the_current_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "pets")
    monkeypatch.chdir(tmp_path / "pets")
    assert {load_images(name).name for name in (".", "../pets", "../pets/", str(tmp_path / "pets"))} == {"pets"}


@pytest.mark.parametrize("name", ["cat\udcff", "cat\nfish"])
def test_a_class_name_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "cat").rename(tmp_path / name)
    with pytest.raises(DataError, match="the name of a class must be UTF-8 without control characters: 'cat"):
        load_images(str(tmp_path))
