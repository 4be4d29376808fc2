"""Images that were replaced under the same names: a run notices, and says which."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nas.errors import RunError
from nas.training.tasks import image_files
from nas.training.tasks.image_datasets import ImageDataset, load_images
from nas.training.tasks.image_files import file_digest
from nas.training.tasks.image_record import ImageRecord, describe_changes
from nas.utils.reporting import Reporter
from nas.utils.run_identity import IMAGES_KEY, check_same_settings
from tests.helpers.pictures import write_classes


def record_of(folder: Path | str) -> ImageRecord:
    return ImageRecord.read(load_images(str(folder)), Reporter())


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data set, and a run of it in the folder "run" beside it."""
    folder = write_classes(tmp_path / "pets")
    (tmp_path / "run").mkdir()
    record_of(folder).write(tmp_path / "run")
    return folder


def test_replaced_images_are_counted_and_named(pets: Path) -> None:
    run = pets.parent / "run"
    assert record_of(pets).check(run, "--run") == "pets"
    for number in (3, 5):
        shutil.copy(pets / "cat" / "1.png", pets / "dog" / f"{number}.png")
    with pytest.raises(RunError) as caught:
        record_of(pets).check(run, "--run")
    assert caught.value.key == "data"
    assert caught.value.rule.startswith("2 of 20 images were replaced (first: dog/3.png) since this run began")
    assert "--run" in caught.value.rule


def test_added_and_removed_images_are_counted() -> None:
    before = {"a": "1", "b": "2", "c": "3"}
    assert describe_changes(before, dict(before)) == ""
    assert describe_changes(before, {"a": "1", "b": "2"}) == "1 of 3 images was removed (first: c)"
    assert describe_changes(before, {**before, "d": "4", "e": "5"}) == "2 of 3 images were added (first: d)"
    assert describe_changes(before, {"b": "0", "d": "1"}) == (
        "1 of 3 images was replaced, 1 added, 2 removed (first: b)"
    )


def test_the_same_images_elsewhere_are_the_same_data(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, run = record_of(pets), pets.parent / "run"
    shutil.copytree(pets, pets.parent / "copy")
    (pets.parent / "link").symlink_to(pets)
    monkeypatch.chdir(pets.parent)
    monkeypatch.setenv("HOME", str(pets.parent))
    for spelling in ("pets", "pets/", "./pets", "~/pets", "copy", "link", str(pets / ".." / "pets")):
        found = record_of(spelling)
        assert found.identity == known.identity
        assert found.check(run, "--run") == "pets"


def test_another_data_set_is_not_compared(pets: Path) -> None:
    other = write_classes(pets.parent / "birds", classes=("hen", "owl"))
    assert record_of(other).check(pets.parent / "run", "--run") == "birds"
    assert ImageRecord("digits", {}).check(pets.parent / "run", "--run") == "digits"


def test_a_run_without_a_record_is_not_compared_and_gets_one(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    record = record_of(pets)
    assert record.check(tmp_path / "old", "--run") == "pets"
    record.write(tmp_path / "old")
    stored = json.loads((tmp_path / "old" / "images.json").read_text())
    assert stored["name"] == "pets"
    assert len(stored["digests"]) == 20


def test_a_name_that_is_no_utf8_can_be_recorded(pets: Path, tmp_path: Path) -> None:
    (pets / "cat" / "1.png").rename(os.fsdecode(os.fsencode(pets) + b"/cat/caf\xe9.png"))
    (tmp_path / "new").mkdir()
    record = record_of(pets)
    record.write(tmp_path / "new")
    assert record.check(tmp_path / "new", "--run") == "pets"
    assert record.identity != ImageRecord("pets", {}).identity
    assert ImageDataset(load_images(str(pets)).train, 8).digest


def test_named_data_sets_have_no_record(tmp_path: Path) -> None:
    record = ImageRecord.read(load_images("digits"), Reporter())
    record.write(tmp_path)
    assert record.identity == {}
    assert not list(tmp_path.iterdir())


def test_large_files_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "HASHED_BYTES", 4)
    path, digests = tmp_path / "x", []
    for content in (b"abcd-----efgh", b"abcd-----efgi", b"abcX-----efgh", b"abcd------efgh", b"abcdefgh", b"abcdXefg"):
        path.write_bytes(content)
        digests.append(file_digest(path))
    assert len(set(digests)) == len(digests)


def test_the_settings_of_runs_are_compared_by_their_images() -> None:
    old, new = {"data": "pets"}, {"data": "pets", IMAGES_KEY: "20 files, a"}
    check_same_settings("run", old, new, "--run")
    check_same_settings("run", new, {**new, "data": "copy"}, "--run")
    with pytest.raises(RunError, match="data: images were replaced, added or removed since this run began"):
        check_same_settings("run", new, {**new, IMAGES_KEY: "20 files, b"}, "--run")
    with pytest.raises(RunError, match="fit is 'crop' there and 'pad' now"):
        check_same_settings("run", new, {**new, "fit": "pad"}, "--run")


@pytest.mark.parametrize("suffix", [".bmp", ".TIF", ".ppm"])
def test_the_middle_of_an_uncompressed_file_counts(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "HASHED_BYTES", 4)
    path, digests = tmp_path / f"x{suffix}", []
    for content in (b"abcd-----efgh", b"abcd--X--efgh"):
        path.write_bytes(content)
        digests.append(file_digest(path))
    assert digests[0] != digests[1]
