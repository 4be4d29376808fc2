"""Finding image files by their names in several folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.training.detection.image_locations import ImageLocations
from tests.helpers.box_files import write_image


def test_the_first_folder_with_the_file_counts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.png")
    write_image(tmp_path / "b" / "2.png")
    locations = ImageLocations([tmp_path / "none", tmp_path / "a", tmp_path / "b"], tmp_path / "a.json")
    assert locations.find("1.png") == str(tmp_path / "a" / "1.png")
    assert locations.find("2.png") == str(tmp_path / "b" / "2.png")
    assert locations.find("x/y/2.png") == str(tmp_path / "b" / "2.png")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "\0", "\ud800", "a" * 5000, "no\nfile"])
def test_odd_names_are_not_found(name: str, tmp_path: Path) -> None:
    locations = ImageLocations([tmp_path], tmp_path / "a.json")
    assert locations.find(name) is None
    assert "\n" not in str(locations.missing(name, "image 1", 1))


def test_the_error_names_the_folders_the_count_and_the_closest_file(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"frame_{number:04}.jpg").touch()
    error = ImageLocations([tmp_path], tmp_path / "a.json").missing("train/frame_0500.png", "image 3", 8)
    assert (error.where, error.key, error.value) == (str(tmp_path / "a.json"), "image 3", "train/frame_0500.png")
    assert error.rule == f"the image file is not in {tmp_path}/; 7 more are missing"
    assert error.nearest == "; did you mean 'frame_0500.jpg'?"
    error = ImageLocations([tmp_path], tmp_path / "a.json").missing("frame_0500b.jpg", "image 3", 1)
    assert error.nearest.startswith("; did you mean 'frame_0500.jpg'")
