"""Data sets of labelled images: embedded, by name, or any folder; split, checked and resized here."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nas.errors import DataError
from nas.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nas.utils.paths import user_cache
from nas.utils.registry import nearest

SPLIT_SEED = 0
"""Splits do not depend on a search's seed, so that runs can be compared."""
CACHE_BYTES = 2 << 30
CHECKED_IMAGES = 100_000
"""In larger sets a broken image is found when it is met."""


@dataclass(frozen=True)
class Split:
    """Images and labels: `images` are file paths or uint8 arrays (H, W) or (H, W, 3)."""

    images: Sequence[Any]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int]) -> Split:
        """Return the images at `indices`."""
        return Split([self.images[i] for i in indices], tuple(self.labels[i] for i in indices))


@dataclass(frozen=True)
class ImageData:
    """A data set: `validation` ranks candidates and is held out of `train`; `test` is touched once, at the end."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    flip: bool = True


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Items of a split as (uint8 (3, R, R), label); decoded once into memory where they fit."""

    def __init__(self, split: Split, resolution: int, augment: Callable[[Tensor], Tensor] | None = None):
        self._split, self._augment, self.resolution = split, augment, resolution
        from torchvision.transforms import v2  # here, for it takes seconds that not every process needs

        self._resize = v2.Compose([v2.Resize(resolution, antialias=True), v2.CenterCrop(resolution)])
        self._cache: Tensor | None = None
        if len(split) * 3 * resolution**2 <= CACHE_BYTES:
            self._cache = torch.empty((len(split), 3, resolution, resolution), dtype=torch.uint8)
            for index in range(len(split)):
                self._cache[index] = self._decode(index)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of resolution, labels and images; files count by their names."""
        digest = hashlib.sha256(f"{self.resolution} {self._split.labels}".encode())
        for image in self._split.images:
            is_file = isinstance(image, str | Path)
            digest.update(Path(image).name.encode() if is_file else np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()[:16]

    def also(self, step: Callable[[Tensor], Tensor]) -> ImageDataset:
        """Return the same images with one more augmentation, the last; what was decoded is shared."""
        before, result = self._augment, copy.copy(self)
        from torchvision.transforms import v2

        result._augment = step if before is None else v2.Compose([before, step])  # a lambda would not be pickled
        return result

    @property
    def workers(self) -> int:
        """How many processes should decode: none where the images lie in memory."""
        return 0 if self._cache is not None else min(8, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._decode(index) if self._cache is None else self._cache[index]
        return (self._augment(image) if self._augment else image), self._split.labels[index]

    def _decode(self, index: int) -> Tensor:
        from torchvision.transforms import v2

        return self._resize(v2.functional.pil_to_tensor(open_image(self._split.images[index])))  # type: ignore[no-any-return]


def open_image(source: Any) -> Image.Image:
    """Return an RGB image of a path or an array. Raises DataError with the file's name."""
    if not isinstance(source, str | Path):
        return Image.fromarray(np.asarray(source)).convert("RGB")
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{source}: not a readable image: {type(error).__name__}") from error


def augmentation(resolution: int, flip: bool) -> Callable[[Tensor], Tensor]:
    """Return the training augmentation: a crop from an eighth of padding, and a flip where it keeps the class."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomCrop(resolution, padding=max(1, resolution // 8))]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)  # type: ignore[no-any-return]


def rand_augment(magnitude: int) -> Callable[[Tensor], Tensor]:
    """Return RandAugment (Cubuk et al. 2020): two random operations of a magnitude in [0, 30] on uint8 (3, R, R)."""
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=2, magnitude=magnitude)  # type: ignore[no-any-return]


def mixing(num_classes: int, mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return mixup or CutMix of their alphas, by a coin for each batch where both are above 0; None without any.

    float32 (B, 3, R, R) and labels (B,) -> the mixed images and the classes' shares (B, num_classes).
    """
    if mixup <= 0 and cutmix <= 0:
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    steps = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    return steps[0] if len(steps) == 1 else v2.RandomChoice(steps)  # type: ignore[no-any-return]


def normalize(images: Tensor) -> Tensor:
    """(B, 3, H, W) from 0 to 255 -> float32, ImageNet's mean and deviation."""
    from torchvision.transforms import v2

    return v2.functional.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))  # type: ignore[no-any-return]


def load_images(name: str, root: str | None = None) -> ImageData:
    """Return the data set of a name or of an image folder.

    A folder has train/<class>/* and val/ or test/, or <class>/* alone, which is split. Raises DataError with the
    folder or file that is wrong.
    """
    if name in DATA_SETS:
        return DATA_SETS[name](root)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(folder)
    if folder.exists():
        raise DataError(f"--data: not a folder: '{name}'")
    raise DataError(f"--data: unknown data set or folder '{name}'{nearest(name, DATA_SETS)}")


def check_images(split: Split) -> None:
    """Decode every image file, up to CHECKED_IMAGES of them. Raises DataError for the first broken one."""
    for image in split.images[:CHECKED_IMAGES]:
        if isinstance(image, str | Path):
            open_image(image)


def stratified(labels: Sequence[int], share: float | int) -> tuple[list[int], list[int]]:
    """Return the indices of a seeded stratified split: the rest, and a share (or number) of them."""
    from sklearn.model_selection import train_test_split

    indices = list(range(len(labels)))
    try:
        rest, part = train_test_split(indices, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    except ValueError as error:
        raise DataError(f"--data: too few images to hold some out: {error}") from error
    return sorted(rest), sorted(part)


def _held_out(split: Split) -> tuple[Split, Split]:
    """Split validation data off the training data: a fifth of a small set, a tenth of a large one."""
    rest, part = stratified(split.labels, 0.2 if len(split) < 5000 else 0.1)
    return split.take(rest), split.take(part)


def _digits(_: str | None) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = [np.round(image * (255 / 16)).astype(np.uint8) for image in digits.images]
    whole = Split(images, tuple(int(label) for label in digits.target))
    rest, test = stratified(whole.labels, 0.2)
    train, validation = _held_out(whole.take(rest))
    return ImageData("digits", tuple("0123456789"), train, validation, whole.take(test), flip=False)


def _torchvision(class_name: str, name: str) -> Callable[[str | None], ImageData]:
    def load(root: str | None) -> ImageData:
        import torchvision

        folder = Path(root).expanduser() if root else user_cache() / "data"
        kind = getattr(torchvision.datasets, class_name)
        try:
            train, test = (_named(kind, folder, train=part) for part in (True, False))
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"--data: '{name}' is not in {folder} and cannot be downloaded ({type(error).__name__}); "
                "give --data-root with a folder that has it"
            ) from error
        whole = Split(list(train.data), tuple(int(label) for label in train.targets))
        rest, validation = _held_out(whole)
        tested = Split(list(test.data), tuple(int(label) for label in test.targets))
        return ImageData(name, tuple(map(str, train.classes)), rest, validation, tested)

    return load


def _named(kind: Any, folder: Path, train: bool) -> Any:
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


def _folder(folder: Path) -> ImageData:
    parts = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in parts:
        if parts:
            raise DataError(f"{folder}: has {', '.join(parts)}/ but no train/")
        classes, whole = _class_folders(folder)
        rest, test_indices = stratified(whole.labels, 0.2)
        train, validation = _held_out(whole.take(rest))
        return ImageData(folder.name, classes, train, validation, whole.take(test_indices))
    classes, train = _class_folders(parts["train"])
    held = {}
    for name in [name for name in ("val", "test") if name in parts]:
        others, held[name] = _class_folders(parts[name])
        if others != classes:
            odd = sorted(set(others) ^ set(classes))[0]
            raise DataError(f"{parts[name]}: must have the classes of train/: '{odd}' is only in one of them")
    if len(held) == 2:
        return ImageData(folder.name, classes, train, held["val"], held["test"])
    test: Split | None = next(iter(held.values()), None)
    if test is None:
        rest, part = stratified(train.labels, 0.2)
        train, test = train.take(rest), train.take(part)
    train, validation = _held_out(train)
    return ImageData(folder.name, classes, train, validation, test)


def _class_folders(folder: Path) -> tuple[tuple[str, ...], Split]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not an image folder: {str(error).splitlines()[0]}") from error
    if len(found.classes) < 2:
        raise DataError(f"{folder}: needs at least two classes, one folder each: found only '{found.classes[0]}'")
    return tuple(found.classes), Split([path for path, _ in found.samples], tuple(found.targets))
