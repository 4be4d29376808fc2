from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nas.errors import DataError, UsageError
from nas.training.tasks import image_datasets
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import (
    ImageDataset,
    check_images,
    load_images,
    mixing,
    normalize,
    rand_augment,
)
from nas.training.tasks.splits import Split
from nas.utils.reporting import Reporter


def make_folder(
    root: Path, parts: tuple[str, ...], classes: tuple[str, ...] = ("cat", "dog"), images: int = 20
) -> Path:
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(images):
                pixels = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def test_a_resized_crop_shows_at_least_its_share_of_the_image() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).contiguous()  # the value is the column
    crop = image_datasets.augmentation((3, 64, 64), flip=False, crop_scale=0.5)
    found = [crop(ramp) for _ in range(50)]
    assert all(image.shape == (3, 64, 64) and image.dtype == torch.uint8 for image in found)
    widths = [int(image.max()) - int(image.min()) + 1 for image in found]
    assert min(widths) >= 64 * (0.5 * 3 / 4) ** 0.5 - 2  # half of the area, at most 4:3 high
    assert min(widths) < 60
    assert len(set(widths)) > 5


def test_a_resized_batch_is_the_same_picture() -> None:
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    assert image_datasets.resized(images, 32, 32) is images
    small = image_datasets.resized(images, 16, 16)
    assert small.shape == (2, 3, 16, 16)
    assert small.float().mean().item() == pytest.approx(images.float().mean().item(), abs=2)


def test_another_augmentation_shares_the_decoded_images() -> None:
    split = Split([np.full((8, 8), value, dtype=np.uint8) for value in range(4)], (0, 0, 1, 1))
    images = ImageDataset(split, 8, lambda image: image + 100)
    other = images.with_augmentation(None)
    assert images[2][0].max() == 102
    assert other[2][0].max() == 2
    assert other.digest == images.digest


def test_a_folder_of_20000_small_files_streams_into_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [np.full((8, 8, 3), value, dtype=np.uint8) for value in range(8)]
    for name in range(4):
        folder = tmp_path / "many" / f"class{name}"
        folder.mkdir(parents=True)
        sources = [folder / f"0-{index}.png" for index in range(len(files))]
        for source, pixels in zip(sources, files, strict=True):
            Image.fromarray(pixels).save(source)
        for index in range(len(files), 5000):
            os.link(sources[index % len(files)], folder / f"{index}.png")
    monkeypatch.setattr(image_datasets, "CACHE_BYTES", 1 << 20)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun = time.perf_counter()
    task = Classification.load(str(tmp_path / "many"))
    images = task.train_set(8)
    assert len(images) + len(task.data.validation) + len(task.data.test) == 20_000
    assert images.workers == 2
    assert not image_datasets.fits_memory(len(images), (3, 8, 8))
    loader = DataLoader(images, 64, shuffle=True, num_workers=images.workers)
    seen = [len(labels) for _, (_, labels) in zip(range(20), loader, strict=False)]
    assert seen == [64] * 20
    assert time.perf_counter() - begun < 10


def test_digits_are_split_alike_every_time() -> None:
    one, other = load_images("digits"), load_images("digits")
    assert one.train.labels == other.train.labels
    assert (len(one.train), len(one.validation), len(one.test)) == (1149, 288, 360)
    counts = Counter(one.validation.labels)
    assert set(counts) == set(range(10))
    assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [(("train", "val", "test"), (40, 40, 40)), (("train", "test"), (32, 8, 40)), (("train", "val"), (32, 8, 40)),
     (("train",), (25, 7, 8)), (("",), (25, 7, 8))],
)  # fmt: skip
def test_a_folder_gives_three_disjoint_splits(tmp_path: Path, parts: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    data = load_images(str(make_folder(tmp_path / "pets", parts)))
    assert data.classes == ("cat", "dog")
    splits = (data.train, data.validation, data.test)
    assert tuple(len(split) for split in splits) == sizes
    assert len({path for split in splits for path in split.images}) == sum(sizes)


def test_pictures_are_square_and_right(tmp_path: Path) -> None:
    data = load_images(str(make_folder(tmp_path / "pets", ("train", "test"))))
    pictures = ImageDataset(data.test, 8)
    image, label = pictures[0]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.uint8
    assert label == data.test.labels[0]
    assert normalize(image[None]).dtype == torch.float32


def test_a_part_of_the_images_is_stratified() -> None:
    task = Classification.load("digits")
    part = task.train_set(8, images=100)
    assert len(part) == 100
    assert len(task.train_set(8)) == 1149


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", ("train", "test"))
    broken = root / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    data = load_images(str(root))
    with pytest.raises(DataError, match=r"dog/3.png: not a readable image"):
        check_images((data.train, data.validation, data.test), Reporter())


@pytest.mark.parametrize(
    ("parts", "classes", "message"),
    [
        (("train", "test"), ("cat",), "needs at least two classes, one folder each: found only 'cat'"),
        (("val",), ("cat", "dog"), "has val/ but no train/"),
    ],
)
def test_a_folder_that_cannot_be_learnt_is_named(
    tmp_path: Path, parts: tuple[str, ...], classes: tuple[str, ...], message: str
) -> None:
    root = make_folder(tmp_path / "pets", parts, classes)
    with pytest.raises(DataError, match=message):
        load_images(str(root))


def test_classes_must_agree(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", ("train",))
    make_folder(root, ("test",), ("cat", "fox"))
    with pytest.raises(DataError, match="must have the classes of train/: 'dog'"):
        load_images(str(root))


def test_an_empty_folder_and_an_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not an image folder"):
        load_images(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="unknown data set or folder 'digts'; did you mean 'digits'"):
        load_images("digts")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="not a folder"):
        load_images(str(tmp_path / "file"))


def test_a_named_set_that_cannot_be_had_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", refuse)
    with pytest.raises(DataError, match=r"'cifar10' is not in .* and cannot be downloaded .* --data-root"):
        load_images("cifar10", str(tmp_path))


def test_long_decoding_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_images(str(make_folder(tmp_path / "pets", ("train", "test"))))
    check_images((data.train, data.test), Reporter())
    ImageDataset(data.test, 8, reporter=Reporter())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(image_datasets, "REPORTED_IMAGES", 40)
    check_images((data.train, data.test), Reporter())
    ImageDataset(data.test, 8, reporter=Reporter())
    assert capsys.readouterr().err == "checking 72 images: 72/72\ndecoding 40 images: 40/40\n"


def test_one_more_augmentation_comes_last_and_shares_what_was_decoded() -> None:
    split = Split([np.full((8, 8), 10 * index, np.uint8) for index in range(3)], (0, 1, 0))
    pictures = ImageDataset(split, 8, lambda image: image + 1)
    more = pictures.also(lambda image: image * 2)
    assert [int(more[index][0].max()) for index in range(3)] == [2, 22, 42]
    assert [int(pictures[index][0].max()) for index in range(3)] == [1, 11, 21]
    assert int(ImageDataset(split, 8).also(lambda image: image * 2)[2][0].max()) == 40
    assert more._cache is pictures._cache
    assert more.digest == pictures.digest


def test_augmented_images_travel_to_processes_that_load_them() -> None:
    pictures = Classification.load("digits").train_set(8, 20).also(rand_augment(9))
    sent = pickle.loads(pickle.dumps(pictures))
    for seed in range(5):
        torch.manual_seed(seed)
        here = pictures[seed]
        torch.manual_seed(seed)
        there = sent[seed]
        assert torch.equal(here[0], there[0])
        assert here[1] == there[1]


def test_a_digest_is_of_images_labels_and_resolution(tmp_path: Path) -> None:
    split = Split([np.full((8, 8), index, np.uint8) for index in range(3)], (0, 1, 0))
    known = ImageDataset(split, 8).digest
    assert ImageDataset(split, 8).digest == known
    others = [
        Split(split.images, (0, 1, 1)),
        split.take([0, 1]),
        Split([image + 1 for image in split.images], split.labels),
    ]
    assert known not in {ImageDataset(other, 8).digest for other in others} | {ImageDataset(split, 9).digest}
    moved = []
    for place in ("here", "there"):
        data = load_images(str(make_folder(tmp_path / place, ("train", "test"))))
        moved.append(ImageDataset(data.train, 8).digest)
    assert moved[0] == moved[1]


def test_rand_augment_keeps_what_an_image_is() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    results = [rand_augment(9)(image) for _ in range(8)]
    assert {(result.shape, result.dtype) for result in results} == {((3, 16, 16), torch.uint8)}
    assert any(not torch.equal(result, image) for result in results)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_labels_are_the_shares_of_the_pixels(mixup: float, cutmix: float) -> None:
    torch.manual_seed(0)
    mix = mixing(4, mixup, cutmix)
    assert mix is not None
    labels = torch.arange(4)
    images = (labels * 10.0)[:, None, None, None].expand(4, 3, 16, 16)
    for _ in range(5):
        mixed, shares = mix(images, labels)
        assert shares.shape == (4, 4)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3)), (shares * labels).sum(1) * 10, atol=1e-3)
    assert mixing(4, 0.0, 0.0) is None


def test_arrays_are_decoded_in_batches_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    shapes = [(8, 8)] * 3 + [(9, 12, 3)] * 2 + [(8, 8)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    split = Split(images, tuple(range(6)))
    together = [image for image, _ in ImageDataset(split, 24)]  # type: ignore[attr-defined]
    alone = [ImageDataset(split.take([index]), 24)[0][0] for index in range(6)]
    as_pictures = [ImageDataset(Split([Image.fromarray(image)], (0,)), 24)[0][0] for image in images]
    assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    assert all(torch.equal(*pair) for pair in zip(together, as_pictures, strict=True))


def test_a_part_holds_every_class_also_if_it_cannot_be_stratified() -> None:
    rare = Split(list(range(10)), (0,) * 9 + (1,))
    for split, count in ((rare, 2), (rare, 5), (Split(list(range(6)), (0, 0, 1, 1, 2, 2)), 5)):
        part = split.part(count)
        assert len(part) == count
        assert set(part.labels) == set(split.labels)
        assert part == split.part(count)
        assert [split.labels[image] for image in part.images] == list(part.labels)


def test_a_part_smaller_than_the_classes_is_refused() -> None:
    task = Classification.load("digits")
    with pytest.raises(DataError, match="a part of 9 is smaller than the 10 classes: at least 10 are needed"):
        task.train_set(8, 9)
    with pytest.raises(UsageError, match=r"^--final-images: must be at least the number of classes, 10, or 0: 9$"):
        task.check_part(9, "final_images")
    task.check_part(0, "images")
    task.check_part(10, "images")
