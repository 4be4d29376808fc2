"""The fit of images that are not square: what each one does, and which one `auto` chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from nas.errors import UsageError
from nas.networks.preprocessing import FITS, PAD_COLOR, fitted
from nas.training.tasks.classification import Classification
from nas.training.tasks.fit import choose_fit, continued_fit, describe_fit, lost_by_crop
from nas.training.tasks.image_datasets import ImageDataset, load_images
from nas.training.tasks.image_files import read_image
from nas.training.tasks.splits import Split
from tests.helpers.pictures import write_classes


def wide_picture() -> torch.Tensor:
    """Return a picture, 12 high and 36 wide: a dark, a gray and a bright square."""
    return torch.tensor([20, 120, 220], dtype=torch.uint8).repeat_interleave(12).expand(3, 12, 36)


def test_a_crop_keeps_the_center() -> None:
    assert fitted(wide_picture(), 6, 6, "crop")[0, :, 1:5].tolist() == [[120] * 4] * 6


def test_a_pad_keeps_everything_and_fills_the_rest() -> None:
    for turned in (False, True):
        image = wide_picture().transpose(1, 2) if turned else wide_picture()
        square = fitted(image, 9, 9, "pad")
        square = square.transpose(1, 2) if turned else square
        assert square.shape == (3, 9, 9)
        for row in (0, 2, 6, 8):
            assert square[:, row].tolist() == [[value] * 9 for value in PAD_COLOR]
        assert square[0, 4, [0, 4, 8]].tolist() == [20, 120, 220]


def test_a_stretch_fills_the_square() -> None:
    square = fitted(wide_picture(), 9, 9, "stretch")
    assert square[0, :, [0, 4, 8]].tolist() == [[20, 120, 220]] * 9


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 24), st.sampled_from(sorted(FITS)))
def test_every_fit_makes_a_square(height: int, width: int, resolution: int, fit: str) -> None:
    image = read_image(np.zeros((height, width), np.uint8))
    assert fitted(image, resolution, resolution, fit).shape == (3, resolution, resolution)


@pytest.mark.parametrize("fit", FITS)
def test_square_images_are_the_same_to_the_bit_with_every_fit(fit: str) -> None:
    image = torch.randint(0, 256, (3, 13, 13), dtype=torch.uint8)
    before = v2.Compose([v2.Resize(8, antialias=True), v2.CenterCrop(8)])
    assert torch.equal(fitted(image, 8, 8, fit), before(image))
    wide = torch.randint(0, 256, (3, 13, 29), dtype=torch.uint8)
    assert torch.equal(fitted(wide, 8, 8, "crop"), before(wide))


@pytest.mark.parametrize(
    ("shape", "lost", "fit"),
    [((8, 8), 0, "crop"), ((30, 40), 25, "crop"), ((20, 30), 33, "pad"), ((30, 20), 33, "pad"), ((9, 16), 44, "pad")],
)
def test_auto_pads_what_a_crop_would_lose(shape: tuple[int, int], lost: int, fit: str, tmp_path: Path) -> None:
    data = load_images(str(write_classes(tmp_path / "pets", shape=shape)))
    assert choose_fit("auto", data) == fit
    assert choose_fit("stretch", data) == "stretch"
    lines = describe_fit(fit, data)
    assert len(lines) == (1 if lost else 0)
    assert all(f"loses {lost}% of their area on average); --fit {fit}: " in line for line in lines)


def test_the_sizes_of_some_images_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [np.zeros((10, 20 if index % 2 else 10)) for index in range(100)]
    assert lost_by_crop(images) == pytest.approx(0.25)
    monkeypatch.setattr("nas.training.tasks.fit.MOST_READ", 10)
    assert lost_by_crop(images) == pytest.approx(0.25)
    assert lost_by_crop([]) == 0


def test_an_unknown_fit_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="--fit: unknown fit 'padd'; did you mean 'pad'"):
        Classification.load("digits", fit="padd")


def test_a_run_continues_with_its_own_fit() -> None:
    assert continued_fit("auto", None) == "auto"
    assert continued_fit("auto", {"data": "photos"}) == "crop"
    assert continued_fit("auto", {"fit": "stretch"}) == "stretch"
    assert continued_fit("pad", {"fit": "stretch"}) == "pad"


def test_all_parts_of_a_task_have_its_fit(tmp_path: Path) -> None:
    task = Classification.load(str(write_classes(tmp_path / "pets", shape=(8, 24))))
    assert task.settings == {"fit": "pad"}
    for images in (task.train_set(8), task.validation_set(8), task.test_set(8)):
        assert images.fit == "pad"
        augmented: Any = images._cache
        assert augmented[0, :, 0, 0].tolist() == list(PAD_COLOR)
    assert Classification.load("digits").settings == {}


def test_the_digest_of_cropped_images_is_as_before() -> None:
    split = Split([np.full((8, 8), index, np.uint8) for index in range(3)], (0, 1, 0))
    assert ImageDataset(split, 8).digest == ImageDataset(split, 8, fit="crop").digest == "5c08aa0c6192c3aa"
    assert len({ImageDataset(split, 8, fit=fit).digest for fit in FITS}) == 3
