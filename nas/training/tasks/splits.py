"""The parts of a data set: training, validation and test images, and seeded stratified splits."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import DataError

SPLIT_SEED = 0
"""The seed of splits. It does not depend on the seed of a search, so that runs can be compared."""


@dataclass(frozen=True)
class Split:
    """Images and labels.

    Attributes:
        images: File paths, or uint8 arrays (H, W) or (H, W, 3).
        labels: The number of each image's class.
    """

    images: Sequence[Any]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int]) -> Split:
        """Return the images at `indices`."""
        return Split([self.images[i] for i in indices], tuple(self.labels[i] for i in indices))

    def part(self, count: int) -> Split:
        """Return a stratified part of `count` images, or the whole split if `count` is 0 or too large.

        Raises DataError if the part would be smaller than the number of classes.
        """
        if not 0 < count < len(self):
            return self
        counts = Counter(self.labels)
        if count < len(counts):
            rule = f"a part of {count} is smaller than the {len(counts)} classes: at least {len(counts)} are needed"
            raise DataError(rule, where="images")
        can_be_stratified = min(counts.values()) > 1 and len(self) - count >= len(counts)
        return self.take(stratified(self.labels, count)[1] if can_be_stratified else _drawn(self.labels, count))


@dataclass(frozen=True)
class ImageData:
    """A data set.

    Attributes:
        name: The name.
        classes: The names of the classes.
        train: The training images.
        validation: The images that rank candidates, held out of the training images.
        test: The images that are used only once, at the end.
        flip: Whether a horizontal flip keeps the class.
        folder: The image folder; None for a named data set.
        notes: What to say about files that are not used.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    flip: bool = True
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def stratified(labels: Sequence[int], share: float | int) -> tuple[list[int], list[int]]:
    """Return the indices of a seeded stratified split: the rest, and a part of size `share` (a share or a number)."""
    from sklearn.model_selection import train_test_split

    indices = list(range(len(labels)))
    try:
        rest, part = train_test_split(indices, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    except ValueError as error:
        rule = f"too few images for a stratified split: {len(labels)} of {len(set(labels))} classes: {error}"
        raise DataError(rule, where="--data") from error
    return sorted(rest), sorted(part)


def _drawn(labels: Sequence[int], count: int) -> list[int]:
    """Return the indices of a seeded draw of `count` images, at least one of each class."""
    order = random.Random(SPLIT_SEED).sample(range(len(labels)), len(labels))
    firsts = {labels[index]: index for index in reversed(order)}
    others = [index for index in order if firsts[labels[index]] != index]
    return sorted([*firsts.values(), *others][:count])


def validation_share(images: int) -> float:
    """Return the share of images that is held out for the validation."""
    return 0.2 if images < 5000 else 0.1


def split_validation(split: Split) -> tuple[Split, Split]:
    """Split off validation images: a fifth of a small data set, a tenth of one with 5,000 images or more."""
    rest, part = stratified(split.labels, validation_share(len(split)))
    return split.take(rest), split.take(part)


def check_counts(classes: Sequence[str], labels: Sequence[int], splits: int, folder: Path) -> None:
    """Raise DataError, with the smallest class, if the images are too few to hold out `splits` splits, 0 to 2.

    Each class needs one image more than there are splits to hold out, and each split needs an image per class.
    """
    counts = Counter(labels)
    smallest = min(range(len(classes)), key=lambda label: counts[label])
    count = "1 image" if counts[smallest] == 1 else f"{counts[smallest]} images"
    held = "validation and test images" if splits == 2 else "validation or test images"
    if counts[smallest] < splits + 1:
        rule = f"the class '{classes[smallest]}' has {count}, but each class needs at least {splits + 1}"
        raise DataError(f"{rule}, because {held} are held out", where=folder)
    total = _least_total(len(classes), splits)
    if len(labels) < total:
        rule = f"{len(labels)} images of {len(classes)} classes are too few to hold out {held}: at least {total}"
        raise DataError(f"{rule} are needed; the class '{classes[smallest]}' has {count}", where=folder)


def _least_total(classes: int, splits: int) -> int:
    """Return the smallest number of images of which a fifth, `splits` times, has an image per class."""
    total = classes
    while True:
        rest = total
        for _ in range(splits):
            part = math.ceil(rest / 5)
            rest = rest - part if part >= classes else 0
        if rest >= classes:
            return total
        total += 1


def describe_classes(data: ImageData) -> str:
    """Return the number of classes and images, and the smallest and largest class, of all but the test images."""
    labels = (*data.train.labels, *data.validation.labels)
    counts = Counter(labels)
    order = sorted(range(len(data.classes)), key=lambda label: (counts[label], label))
    small, large = order[0], order[-1]
    spread = f"{counts[small]:,}"
    if counts[large] > 1.5 * counts[small]:
        spread += f" ('{data.classes[small]}') to {counts[large]:,} ('{data.classes[large]}')"
    elif counts[large] > counts[small]:
        spread += f" to {counts[large]:,}"
    return f"{data.name}: {len(data.classes)} classes, {len(labels):,} images: {spread} per class"
