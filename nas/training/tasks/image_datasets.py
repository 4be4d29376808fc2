"""Image data sets: embedded and named ones and image folders, with their checks and augmentations."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nas.errors import DataError
from nas.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nas.training.tasks.image_files import open_image
from nas.training.tasks.image_folders import load_folder
from nas.training.tasks.splits import ImageData, Split, split_validation, stratified
from nas.utils.paths import user_cache
from nas.utils.registry import nearest
from nas.utils.reporting import Advance, Reporter

CACHE_BYTES = 2 << 30
"""Data sets up to this size are decoded into memory."""
CHECKED_IMAGES = 100_000
"""Images per split that are checked in advance."""
REPORTED_IMAGES = 2_000
"""Decoding at least this many images is slow enough to show its progress."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """A split with items (uint8 image (3, R, R), label). Images are decoded in advance if they fit into memory.

    Args:
        split: The images and labels.
        resolution: The image size R in pixels.
        augment: Applied to each image (3, R, R).
        reporter: Shows the progress of decoding.
    """

    def __init__(
        self,
        split: Split,
        resolution: int,
        augment: Callable[[Tensor], Tensor] | None = None,
        reporter: Reporter | None = None,
    ):
        self._split, self._augment, self.resolution = split, augment, resolution
        from torchvision.transforms import v2  # here, for it takes seconds that not every process needs

        self._resize = v2.Compose([v2.Resize(resolution, antialias=True), v2.CenterCrop(resolution)])
        self._cache: Tensor | None = None
        if len(split) * 3 * resolution**2 <= CACHE_BYTES:
            self._cache = torch.empty((len(split), 3, resolution, resolution), dtype=torch.uint8)
            with _decoding(len(split), reporter) as advance:
                for index in range(len(split)):
                    self._cache[index] = self._decode(index)
                    advance(1)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the resolution, the labels and the images. Only the names of files are included."""
        digest = hashlib.sha256(f"{self.resolution} {self._split.labels}".encode())
        for image in self._split.images:
            is_file = isinstance(image, str | Path)
            digest.update(Path(image).name.encode() if is_file else np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()[:16]

    def also(self, step: Callable[[Tensor], Tensor]) -> ImageDataset:
        """Return the same images with `step` as an additional, last augmentation. Decoded images are shared."""
        before, result = self._augment, copy.copy(self)
        from torchvision.transforms import v2

        result._augment = step if before is None else v2.Compose([before, step])  # a lambda cannot be pickled
        return result

    @property
    def workers(self) -> int:
        """The number of processes for decoding; 0 if the images are in memory."""
        return 0 if self._cache is not None else min(8, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._decode(index) if self._cache is None else self._cache[index]
        return (self._augment(image) if self._augment else image), self._split.labels[index]

    def _decode(self, index: int) -> Tensor:
        from torchvision.transforms import v2

        return self._resize(v2.functional.pil_to_tensor(open_image(self._split.images[index])))  # type: ignore[no-any-return]


def augmentation(resolution: int, flip: bool) -> Callable[[Tensor], Tensor]:
    """Return the training augmentation: a crop after padding by an eighth, and a horizontal flip if `flip`."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomCrop(resolution, padding=max(1, resolution // 8))]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)  # type: ignore[no-any-return]


def rand_augment(magnitude: int) -> Callable[[Tensor], Tensor]:
    """Return RandAugment (Cubuk et al. 2020): two random operations on uint8 (3, R, R). `magnitude` is in [0, 30]."""
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=2, magnitude=magnitude)  # type: ignore[no-any-return]


def mixing(num_classes: int, mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return mixup or CutMix with the given alphas, a random one of them per batch if both are above 0, or None.

    It takes float32 images (B, 3, R, R) and labels (B,), and returns mixed images and class shares (B, num_classes).
    """
    if mixup <= 0 and cutmix <= 0:
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    steps = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    return steps[0] if len(steps) == 1 else v2.RandomChoice(steps)  # type: ignore[no-any-return]


def normalize(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W), with values from 0 to 255, as float32 normalized by ImageNet's mean and deviation."""
    from torchvision.transforms import v2

    return v2.functional.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))  # type: ignore[no-any-return]


def load_images(name: str, root: str | None = None) -> ImageData:
    """Return a named data set or an image folder.

    A folder contains train/<class>/* and val/ or test/, or only <class>/*. Missing parts are split off the others.

    Args:
        name: A key of `DATA_SETS`, or the path of a folder.
        root: The folder of the named data sets; None: the user's cache.

    Raises:
        DataError: The data set is unknown, broken or cannot be downloaded.
    """
    if name in DATA_SETS:
        return DATA_SETS[name](root)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return replace(load_folder(folder), name=folder.resolve().name)  # the same name in every spelling
    if folder.exists():
        raise DataError("not a folder", where="--data", value=name)
    raise DataError(f"unknown data set or folder '{name}'", where="--data", nearest=nearest(name, DATA_SETS))


def check_images(splits: Iterable[Split], reporter: Reporter) -> None:
    """Decode the image files of each split, up to CHECKED_IMAGES. Raises DataError for the first broken one."""
    files = [image for split in splits for image in split.images[:CHECKED_IMAGES] if isinstance(image, str | Path)]
    with _decoding(len(files), reporter, "checking") as advance:
        for file in files:
            open_image(file)
            advance(1)


def _decoding(count: int, reporter: Reporter | None, verb: str = "decoding") -> AbstractContextManager[Advance]:
    """Return a progress display for `count` images, which shows nothing for small numbers."""
    if reporter is None or count < REPORTED_IMAGES:
        return nullcontext(lambda _: None)
    return reporter.task(f"{verb} {count} images", count)


def _digits(_: str | None) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = [np.round(image * (255 / 16)).astype(np.uint8) for image in digits.images]
    whole = Split(images, tuple(int(label) for label in digits.target))
    rest, test = stratified(whole.labels, 0.2)
    train, validation = split_validation(whole.take(rest))
    return ImageData("digits", tuple("0123456789"), train, validation, whole.take(test), flip=False)


def _torchvision(class_name: str, name: str) -> Callable[[str | None], ImageData]:
    def load(root: str | None) -> ImageData:
        import torchvision

        folder = Path(root).expanduser() if root else user_cache() / "data"
        kind = getattr(torchvision.datasets, class_name)
        try:
            train, test = (_find_or_download(kind, folder, train=part) for part in (True, False))
        except (OSError, RuntimeError) as error:
            rule = f"'{name}' is not in {folder} and cannot be downloaded ({type(error).__name__})"
            raise DataError(f"{rule}; give --data-root with a folder that has it", where="--data") from error
        whole = Split(list(train.data), tuple(int(label) for label in train.targets))
        rest, validation = split_validation(whole)
        tested = Split(list(test.data), tuple(int(label) for label in test.targets))
        return ImageData(name, tuple(map(str, train.classes)), rest, validation, tested)

    return load


def _find_or_download(kind: Any, folder: Path, train: bool) -> Any:
    try:
        return kind(str(folder), train=train, download=False)
    except RuntimeError:
        folder.mkdir(parents=True, exist_ok=True)
        return kind(str(folder), train=train, download=True)


DATA_SETS: dict[str, Callable[[str | None], ImageData]] = {
    "digits": _digits,
    "cifar10": _torchvision("CIFAR10", "cifar10"),
    "cifar100": _torchvision("CIFAR100", "cifar100"),
    "fashion_mnist": _torchvision("FashionMNIST", "fashion_mnist"),
}
