"""From annotations of any format to images with boxes: boxes are clipped, and those without area are dropped."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import DataError
from nas.networks.preprocessing import orientation_of
from nas.training.detection.boxes import Array, Boxes, BoxSplit
from nas.training.tasks.image_datasets import shown_progress
from nas.training.tasks.image_files import opened
from nas.utils.reporting import Reporter

Size = tuple[int, int]
"""Width and height in pixels."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
TOLERANCE_PX = 0.01
"""A box that reaches less over the edge of its image is not counted as clipped: files round coordinates."""
MOST_ID = 2**63


@dataclass(frozen=True)
class BoxFile:
    """What annotation files hold.

    Attributes:
        split: The images with their boxes.
        classes: The names of the categories, in the order of their ids.
        category_ids: The sorted ids of the categories.
        notes: What to say about the file, one line each.
    """

    split: BoxSplit
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Objects:
    """The annotated objects of all images, in the order of the file.

    Attributes:
        images: The number of each object's image.
        classes: The number of each object's class.
        corners: x1, y1, x2, y2 of each object in pixels, flat.
        crowd: Whether each object is ignored.
        areas: The area of each object in square pixels; NaN: that of the box.
        ids: The id of each object in the file.
    """

    images: array[int] = field(default_factory=lambda: array("q"))
    classes: array[int] = field(default_factory=lambda: array("q"))
    corners: array[float] = field(default_factory=lambda: array("d"))
    crowd: bytearray = field(default_factory=bytearray)
    areas: array[float] = field(default_factory=lambda: array("d"))
    ids: array[int] = field(default_factory=lambda: array("q"))


def image_sizes(
    paths: Sequence[str], told: Sequence[Size | None], where: Path, reporter: Reporter | None
) -> tuple[list[Size], list[str]]:
    """Return the size of each image file, upright, from its header. The pixels are not decoded.

    Args:
        paths: The image files.
        told: The sizes that the annotations tell; None: no size.
        where: The annotation file, for notes.
        reporter: Shows the progress for many files.

    Returns:
        The sizes, and notes about sizes that the annotations tell wrongly.

    Raises:
        DataError: A file is no readable image.
    """
    sizes: list[Size] = []
    turned: list[int] = []
    wrong: list[int] = []
    with shown_progress(len(paths), reporter, "reading the sizes of") as advance:
        for index, (path, size) in enumerate(zip(paths, told, strict=True)):
            raw, upright = _size_of(path, size)
            sizes.append(upright)
            if size not in (None, upright):
                (turned if size == raw else wrong).append(index)
            advance(1)
    before = "tells the size before the turn of its EXIF orientation; boxes count as pixels of the turned picture"
    by_reason = {before: turned, "tells a wrong size; boxes count as pixels of the picture": wrong}
    notes = []
    for reason, indices in by_reason.items():
        if indices:
            expected, found = (" x ".join(map(str, each[indices[0]] or ())) for each in (told, sizes))
            example = f"{expected} instead of {found} for {Path(paths[indices[0]]).name}"
            notes.append(f"{where.name}: of {counted(len(indices), 'image')}, the file {reason}: {example}")
    return sizes, notes


def _size_of(path: str, told: Size | None) -> tuple[Size, Size]:
    """Return the size of an image file as stored, and upright.

    The EXIF data of a PNG may lie behind the pixels. They are looked for if the stored size is not the told one.
    """
    with opened(path) as image:
        if image.format == "PNG" and "exif" not in image.info and image.size == told:
            return image.size, image.size
        is_turned = orientation_of(image) in TURNED
        stored = image.size
    return stored, stored[::-1] if is_turned else stored


def assemble(
    images: Sequence[Any], sizes: Sequence[Size], objects: Objects, where: Path, names: Sequence[str] = ()
) -> tuple[BoxSplit, list[str]]:
    """Return images with their objects as boxes, and notes about clipped and dropped boxes.

    Args:
        images: File paths or arrays.
        sizes: Width and height of each image in pixels.
        objects: The objects. Their corners are finite.
        where: The annotation file, for notes.
        names: How notes call the objects; by default "annotation" and the id.
    """
    corners = np.array(objects.corners, np.float64).reshape(-1, 4)
    owners, ids = np.array(objects.images, np.int64), np.array(objects.ids, np.int64)
    edges = np.array(sizes, np.float64).reshape(-1, 2)[owners]
    has_no_size = (corners[:, 2:] <= corners[:, :2]).any(1)
    clipped = np.clip(corners, 0, np.concatenate([edges, edges], 1)).astype(np.float32)
    is_flat = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    reaches_over = (np.abs(clipped - corners).max(1, initial=0) > TOLERANCE_PX) & ~is_flat
    notes = []
    for found, what in (
        (has_no_size, "without area: dropped"),
        (is_flat & ~has_no_size, "outside of the image or without area in it: dropped"),
        (reaches_over, "over the edge of the image: clipped"),
    ):
        if found.any():
            first = int(found.argmax())
            name = names[first] if names else f"annotation {ids[first]}"
            place = f"{name} of {Path(images[owners[first]]).name}"
            notes.append(f"{where.name}: {counted(int(found.sum()), 'box', 'boxes')} {what}; the first is {place}")
    kept = np.flatnonzero(~is_flat)
    kept = kept[np.argsort(owners[kept], kind="stable")]
    sides = clipped[:, 2:] - clipped[:, :2]
    with np.errstate(over="ignore"):  # a value that float32 cannot hold is replaced by the area of the box
        areas = np.array(objects.areas, np.float64).astype(np.float32)
    own = np.maximum(sides[:, 0] * sides[:, 1], np.finfo(np.float32).tiny)
    areas = np.where(np.isfinite(areas) & (areas > 0), areas, own)
    crowd = np.array(objects.crowd, np.uint8).astype(bool)
    columns = (clipped, np.array(objects.classes, np.int64), crowd, areas, ids)
    ends = np.searchsorted(owners[kept], np.arange(len(images) + 1))
    return BoxSplit(list(images), _by_image(tuple(column[kept] for column in columns), ends), tuple(sizes)), notes


def _by_image(columns: tuple[Array, ...], ends: Array) -> tuple[Boxes, ...]:
    """Return the boxes of each image. Image k has the rows from `ends[k]` to `ends[k + 1]`."""
    stops: list[int] = ends.tolist()
    return tuple(Boxes(*(column[start:stop] for column in columns)) for start, stop in pairwise(stops))


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 box", "2,000 images"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def check_images_left(images: Sequence[Any], where: object, key: str) -> None:
    """Raise DataError if there are no images."""
    if not images:
        raise DataError("has no images", where=where, key=key)
