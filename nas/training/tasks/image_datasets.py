"""Image data sets: embedded and named ones and image folders, with their checks and augmentations."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nas.architecture import RGB_SQUARE, InputFormat, Shape
from nas.errors import DataError
from nas.networks.preprocessing import COLORED, conversion, decode, deep_values, fitted, is_deep, normalize
from nas.training.tasks.base import DataPart
from nas.training.tasks.image_files import opened, read_image
from nas.training.tasks.image_folders import load_folder
from nas.training.tasks.splits import ImageData, Split, split_validation, stratified
from nas.utils.paths import user_cache
from nas.utils.registry import nearest
from nas.utils.reporting import Advance, Reporter

__all__ = [
    "DATA_SETS",
    "ImageDataset",
    "augmentation",
    "check_images",
    "fits_memory",
    "load_images",
    "mixing",
    "normalize",
    "rand_augment",
    "resized",
    "shown_progress",
]

CACHE_BYTES = 2 << 30
"""Data sets up to this size are decoded into memory."""
BATCH = 1024
"""Arrays that are resized at once."""
CHECKED_IMAGES = 100_000
"""Images per split that are checked in advance."""
CROP_RATIOS = 3 / 4, 4 / 3
"""Aspect ratios of random resized crops over the input's."""
REPORTED_IMAGES = 2_000
"""Decoding at least this many images is slow enough to show its progress."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """A split with items (uint8 image (C, H, W), label). Images are decoded in advance if they fit into memory.

    Args:
        split: The images and labels.
        resolution: The height H of the items in pixels.
        augment: Applied to each image (C, H, W).
        reporter: Shows the progress of decoding.
        fit: How an image of another aspect ratio is fitted: a key of `FITS`.
        input_format: The channels C and the aspect ratio of the items.
    """

    def __init__(
        self,
        split: Split,
        resolution: int,
        augment: Callable[[Tensor], Tensor] | None = None,
        reporter: Reporter | None = None,
        fit: str = "crop",
        input_format: InputFormat = RGB_SQUARE,
    ):
        self._split, self._augment, self.resolution, self.fit = split, augment, resolution, fit
        self.input = input_format
        self.shape = input_format.shape(resolution)
        self._cache: Tensor | None = None
        if fits_memory(len(split), self.shape):
            self._cache = torch.empty((len(split), *self.shape), dtype=torch.uint8)
            with shown_progress(len(split), reporter, "decoding") as advance:
                for indices in _batches(split.images, input_format.channels):
                    self._cache[indices.start : indices.stop] = self._decode(indices)
                    advance(len(indices))

    @property
    def digest(self) -> str:
        """Sixteen hex digits of shape, labels, images and fit. Only the names of files are included."""
        fit = "" if self.fit == "crop" else f" {self.fit}"  # the digests of cropped images stay as they were
        form = "" if self.input == RGB_SQUARE else f" {self.shape}"
        digest = hashlib.sha256(f"{self.resolution} {self._split.labels}{fit}{form}".encode())
        for image in self._split.images:
            is_file = isinstance(image, str | Path)
            digest.update(os.fsencode(Path(image).name) if is_file else np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()[:16]

    @property
    def labels(self) -> tuple[int, ...]:
        """The number of each image's class."""
        return self._split.labels

    def also(self, step: Callable[[Tensor], Tensor]) -> ImageDataset:
        """Return the same images with `step` as an additional, last augmentation. Decoded images are shared."""
        before, result = self._augment, copy.copy(self)
        from torchvision.transforms import v2

        result._augment = step if before is None else v2.Compose([before, step])  # a lambda cannot be pickled
        return result

    def with_augmentation(self, augment: Callable[[Tensor], Tensor] | None) -> ImageDataset:
        """Return the same images with another augmentation. Decoded images are shared."""
        result = copy.copy(self)
        result._augment = augment
        return result

    @property
    def workers(self) -> int:
        """The number of processes for decoding; 0 if the images are in memory."""
        return 0 if self._cache is not None else min(8, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._decode(range(index, index + 1))[0] if self._cache is None else self._cache[index]
        return (self._augment(image) if self._augment else image), self._split.labels[index]

    def _decode(self, indices: range) -> Tensor:
        """Return the images (N, C, H, W) of a batch that `_batches` made, or of one index."""
        images = [self._split.images[index] for index in indices]
        channels, height, width = self.shape
        if not _is_plain(images[0], channels):
            return fitted(read_image(images[0], channels), height, width, self.fit)[None]
        batch = torch.from_numpy(np.stack(images))
        batch = batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch[:, None].expand(-1, channels, -1, -1)
        return fitted(batch, height, width, self.fit)


def fits_memory(images: int, shape: Shape) -> bool:
    """Return whether so many images (C, H, W) are decoded in advance. Others are decoded while a network trains."""
    return images * prod(shape) <= CACHE_BYTES


def _is_plain(image: Any, channels: int) -> bool:
    """Whether an image is a uint8 array (H, W) or (H, W, C), which needs no decoding for inputs of C channels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        return False
    return (image.ndim == 2 and channels < 4) or image.shape[2:] == (channels,)


def _batches(images: Sequence[Any], channels: int) -> Iterator[range]:
    """Yield ranges of indices that can be decoded at once: plain arrays of one shape, or one other image."""
    for _, same in groupby(range(len(images)), lambda i: images[i].shape if _is_plain(images[i], channels) else i):
        indices = list(same)
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            yield range(part[0], part[-1] + 1)


def augmentation(shape: Shape, flip: bool, crop_scale: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Return the training augmentation of images (C, H, W): a random crop, and a horizontal flip if `flip`.

    Args:
        shape: (C, H, W).
        flip: Whether images are mirrored at random.
        crop_scale: The smallest share of the area that a crop keeps before it is resized to (H, W). Its aspect ratio is
            3/4 to 4/3 of the input's. 0: a crop of (H, W) pixels after padding by an eighth.
    """
    from torchvision.transforms import v2

    height, width = shape[1:]
    steps: list[Any] = [v2.RandomCrop((height, width), padding=[max(1, side // 8) for side in (width, height)])]
    if crop_scale:
        ratio = tuple(width / height * each for each in CROP_RATIOS)
        steps = [v2.RandomResizedCrop((height, width), scale=(crop_scale, 1.0), ratio=ratio, antialias=True)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)  # type: ignore[no-any-return]


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Return images (B, C, H, W) of values from 0 to 255 at another size, bilinear and antialiased."""
    from torchvision.transforms.v2 import functional

    if images.shape[-2:] == (height, width):
        return images
    small: Tensor = functional.resize(images, [height, width], antialias=True)
    return small


def rand_augment(magnitude: int) -> Callable[[Tensor], Tensor]:
    """Return RandAugment (Cubuk et al. 2020): two random operations on uint8 (1 or 3, H, W), of `magnitude` 0 to 30."""
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=2, magnitude=magnitude)  # type: ignore[no-any-return]


def mixing(num_classes: int, mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return mixup or CutMix with the given alphas, a random one of them per batch if both are above 0, or None.

    It takes float32 images (B, C, H, W) and labels (B,), and returns mixed images and class shares (B, num_classes).
    """
    if mixup <= 0 and cutmix <= 0:
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    steps = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    return steps[0] if len(steps) == 1 else v2.RandomChoice(steps)  # type: ignore[no-any-return]


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
    if not name:
        raise DataError("must not be empty: give a data set or a folder", where="--data")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return replace(load_folder(folder), name=folder.resolve().name)  # the same name in every spelling
    if folder.exists():
        raise DataError("not a folder", where="--data", value=name)
    raise DataError(f"unknown data set or folder '{name}'", where="--data", nearest=nearest(name, DATA_SETS))


def check_images(splits: Iterable[DataPart], reporter: Reporter, channels: int = 3) -> None:
    """Decode the image files of each split, up to CHECKED_IMAGES, for inputs of so many channels.

    Reports files with several frames and images that are converted to other channels, and warns if images of more than
    8 bits are nearly black. Raises DataError for the first file that is broken or lacks a channel.
    """
    images = [image for split in splits for image in split.images[:CHECKED_IMAGES]]
    files = [image for image in images if isinstance(image, str | Path)]
    framed: list[Path] = []
    largest: list[int] = []
    colored = 0 if channels > 1 else sum(np.ndim(image) == 3 and np.shape(image)[2] == 3 for image in images)
    converted = Counter({COLORED: colored} if colored else {})
    with shown_progress(len(files), reporter, "checking") as advance:
        for file in files:
            with opened(file) as image:
                if getattr(image, "is_animated", False):
                    framed.append(Path(file))
                decode(image, channels)
                if how := conversion(image, channels):
                    converted[how] += 1
                if is_deep(image) and image.mode != "F":
                    largest.append(int(deep_values(image).max()))
            advance(1)
    for how, count in converted.items():
        reporter.say(f"{count} of {len(images)} images {how}")
    if framed:
        reporter.say(f"{len(framed)} of {len(files)} images have several frames; the first is used: {framed[0]}, ...")
    if largest and max(largest) < 65536 / 8:
        reporter.warn(
            f"{len(largest)} of {len(files)} images have 16 bits or more, but their largest value is {max(largest)} of "
            "65535: they are nearly black; multiply their values so that white is 65535, or convert them to 8 bits"
        )


def shown_progress(count: int, reporter: Reporter | None, verb: str) -> AbstractContextManager[Advance]:
    """Return a progress display for `count` images, which shows nothing for small numbers."""
    if reporter is None or count < REPORTED_IMAGES:
        return nullcontext(lambda _: None)
    return reporter.task(f"{verb} {count} images", count)


def _digits(_: str | None) -> ImageData:
    return _read_digits()


@lru_cache(maxsize=1)
def _read_digits() -> ImageData:
    """Return scikit-learn's digits, whose text file takes longer to parse than a network to trace."""
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
