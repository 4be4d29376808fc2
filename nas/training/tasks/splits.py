"""The parts of a data set: training, validation and test images, and seeded stratified splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        """Return a stratified part of `count` images, or the whole split if `count` is 0 or too large."""
        return self.take(stratified(self.labels, count)[1]) if 0 < count < len(self) else self


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
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    flip: bool = True


def stratified(labels: Sequence[int], share: float | int) -> tuple[list[int], list[int]]:
    """Return the indices of a seeded stratified split: the rest, and a part of size `share` (a share or a number)."""
    from sklearn.model_selection import train_test_split

    indices = list(range(len(labels)))
    try:
        rest, part = train_test_split(indices, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    except ValueError as error:
        raise DataError(f"too few images for a stratified split: {error}", where="--data") from error
    return sorted(rest), sorted(part)


def split_validation(split: Split) -> tuple[Split, Split]:
    """Split off validation images: a fifth of a small data set, a tenth of one with 5,000 images or more."""
    rest, part = stratified(split.labels, 0.2 if len(split) < 5000 else 0.1)
    return split.take(rest), split.take(part)
