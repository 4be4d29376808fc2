"""Files and folders that are no images: skipped, counted and reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import DataError
from nas.training.tasks.image_datasets import check_images, load_images
from nas.training.tasks.splits import describe_classes
from nas.utils.reporting import Reporter
from tests.helpers.pictures import write_classes

SYSTEM = [
    ".ipynb_checkpoints", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found",
    "System Volume Information", ".git", ".thumbnails",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("place", [".", "train", "train/cat", "test"])
def test_folders_of_the_system_are_no_classes(place: str, name: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_classes(tmp_path / part, count=5)
    write_classes(tmp_path / place / name, classes=("cat",), count=1)
    data = load_images(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    (note,) = data.notes
    assert "skipped 1 file or folder of the system: " in note
    assert note.endswith(str(Path(place) / name))


@pytest.mark.parametrize("name", ["._0.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"])
def test_files_of_the_system_are_no_images(name: str, tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "cat" / name).write_bytes(b"no image")
    data = load_images(str(tmp_path))
    check_images((data.train, data.validation, data.test), Reporter())
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 20
    assert data.notes == (f"{tmp_path.name}: skipped 1 file or folder of the system: cat/{name}",)


def test_files_of_unknown_types_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path)
    for name in ("a.txt", "b.TXT", "c.heic", "notes"):
        (tmp_path / "dog" / name).write_text("x")
    (note,) = load_images(str(tmp_path)).notes
    assert "skipped 4 files that are no images of a known type: .txt (2), .heic (1), no extension (1)" in note


def test_a_clean_folder_needs_no_notes(tmp_path: Path) -> None:
    assert load_images(str(write_classes(tmp_path))).notes == ()


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "1.heic").write_text("x")
    with pytest.raises(DataError, match=r"fox: the class folder has no images; the known types are \.jpg"):
        load_images(str(tmp_path))


def test_the_classes_are_counted(tmp_path: Path) -> None:
    assert describe_classes(load_images("digits")) == "digits: 10 classes, 1,437 images: 139 to 146 per class"
    write_classes(tmp_path / "train", classes=("cat", "dog"), count=10)
    write_classes(tmp_path / "train", classes=("fox",), count=30)
    write_classes(tmp_path / "test", classes=("cat", "dog", "fox"), count=1)
    expected = f"{tmp_path.name}: 3 classes, 50 images: 10 ('cat') to 30 ('fox') per class"
    assert describe_classes(load_images(str(tmp_path))) == expected
    even = describe_classes(load_images(str(write_classes(tmp_path / "even"))))
    assert even == "even: 2 classes, 16 images: 8 per class"


@pytest.mark.parametrize("links", [{"cat/all": ".."}, {"cat/all": "."}, {"cat/dogs": "../dog", "dog/cats": "../cat"}])
def test_a_link_to_a_folder_that_holds_it_is_refused(links: dict[str, str], tmp_path: Path) -> None:
    write_classes(tmp_path)
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    with pytest.raises(DataError, match=r"is a link to '[^']+', a folder that holds the link; remove it"):
        load_images(str(tmp_path))


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    write_classes(tmp_path / "pets")
    before = load_images(str(tmp_path / "pets"))
    (tmp_path / "pets" / "cat").rename(tmp_path / "elsewhere")
    (tmp_path / "pets" / "cat").mkdir()
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    after = load_images(str(tmp_path / "pets"))
    assert (after.classes, len(after.train)) == (before.classes, len(before.train))
