"""Annotation files in the form of COCO: a JSON object with images, annotations and categories.

Category ids may have gaps and start anywhere: class k is the k-th smallest id. Crowds are kept, but ignored. Images
without boxes are kept: a detector must find nothing in them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.errors import DataError, one_line
from nas.training.detection.annotated_images import (
    MOST_ID,
    BoxFile,
    Objects,
    Size,
    assemble,
    check_images_left,
    counted,
    image_sizes,
)
from nas.training.detection.image_locations import ImageLocations
from nas.utils.reporting import Reporter

LISTS = ("images", "annotations", "categories")
"""The keys that a file must have."""
UNUSED = ("segmentation", "keypoints")
"""Large values of annotations that are dropped while the file is parsed."""
LARGEST_AREA = 1e30
"""In square pixels. An area beyond it is not that of an object."""
NO_AREA = math.nan


def read_coco(path: Path, folders: Sequence[Path] = (), reporter: Reporter | None = None) -> BoxFile:
    """Return the images and boxes of a COCO file.

    Args:
        path: The JSON file.
        folders: Where its images are looked for first. Then come the file's folder and the folder images/ in it.
        reporter: Shows the progress for many images.

    Raises:
        DataError: The file has another form, an annotation is invalid, or an image is missing or unreadable.
    """
    with _no_collections():
        reader, categories = _read(path, folders)
    sizes, size_notes = image_sizes(reader.paths, reader.told, path, reporter)
    split, notes = assemble(reader.paths, sizes, reader.objects, path)
    return BoxFile(split, tuple(categories.values()), tuple(categories), (*reader.notes, *size_notes, *notes))


def _read(path: Path, folders: Sequence[Path]) -> tuple[_Reader, dict[int, str]]:
    """Return what a COCO file holds, but the sizes of its images. The JSON object is freed."""
    content = load_coco(path)
    categories = read_categories(content["categories"], path)
    reader = _Reader(path, {number: label for label, number in enumerate(categories)})
    reader.add_images(content["images"], ImageLocations([*folders, path.parent, path.parent / "images"], path))
    reader.add_annotations(content["annotations"])
    return reader, categories


def load_coco(path: Path) -> dict[str, Any]:
    """Return the JSON object of a COCO file, without outlines. Raises DataError for any other file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_without_outlines)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON file: {one_line(error)}", where=path) from error
    if not isinstance(content, dict):
        what = "a list" if isinstance(content, list) else f"a {type(content).__name__}"
        is_found = isinstance(content, list) and any(isinstance(each, dict) and "score" in each for each in content[:9])
        hint = "; it looks like the detections of a model" if is_found else ""
        rule = f"not a COCO file: it holds {what}, but must be an object with {', '.join(LISTS)}"
        raise DataError(rule, where=path, nearest=hint)
    for key in LISTS:
        if key not in content:
            known = ", ".join(f"'{one_line(name)}'" for name in list(content)[:6]) or "nothing"
            raise DataError(f"not a COCO file: the key is missing; it has {known}", where=path, key=key)
        if not isinstance(content[key], list):
            raise DataError("must be a list", where=path, key=key, value=type(content[key]).__name__)
        odd = next((index for index, each in enumerate(content[key]) if not isinstance(each, dict)), None)
        if odd is not None:
            kind = type(content[key][odd]).__name__
            raise DataError("must be an object", where=path, key=f"{key}[{odd}]", value=kind)
    return content


def read_categories(categories: list[dict[str, Any]], path: Path) -> dict[int, str]:
    """Return the names of the categories by id, sorted by id. Names that occur twice get their id.

    Raises DataError if an id or a name is missing or invalid, or an id has two names.
    """
    names: dict[int, str] = {}
    for index, category in enumerate(categories):
        key = f"categories[{index}]"
        number, name = _integer(category.get("id")), category.get("name")
        if number is None:
            raise DataError("the id must be an integer", where=path, key=key, value=_shown(category.get("id")))
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            rule = "the name must be a text without control characters"
            raise DataError(rule, where=path, key=f"category {number}", value=_shown(name))
        if names.setdefault(number, name) != name:
            rule = f"the id has two names, '{names[number]}' and '{name}'"
            raise DataError(rule, where=path, key=f"category {number}")
    if not names:
        raise DataError("has no categories", where=path, key="categories")
    counts = Counter(names.values())
    return {
        number: names[number] if counts[names[number]] == 1 else f"{names[number]} ({number})"
        for number in sorted(names)
    }


class _Reader:
    """Collects the images and objects of one file.

    Args:
        path: The file, for errors and notes.
        labels: The class of each category id.
    """

    def __init__(self, path: Path, labels: dict[Any, int]):
        self._path, self._labels = path, labels
        self.paths: list[str] = []
        self.told: list[Size | None] = []
        self.objects = Objects()
        self._indices: dict[Any, int] = {}  # the image number of each id
        self._merged: list[str] = []
        self._shared: set[int] = set()  # the numbers of images that are listed again
        self._repeated: list[int] = []
        self._renumbered = 0

    def add_images(self, images: list[dict[str, Any]], locations: ImageLocations) -> None:
        """Add the images, and find their files. Images of the same file become one."""
        check_images_left(images, self._path, "images")
        names: dict[Any, str] = {}
        by_path: dict[str, int] = {}
        missing: list[tuple[str, str]] = []
        for index, image in enumerate(images):
            number, name = image.get("id"), image.get("file_name")
            number = number if isinstance(number, str) else _integer(number)
            if number is None:
                rule = "the id must be an integer or a text"
                raise DataError(rule, where=self._path, key=f"images[{index}]", value=_shown(image.get("id")))
            if not isinstance(name, str) or not name:
                raise DataError("has no file_name", where=self._path, key=f"image {number!r}", value=_shown(name))
            if names.setdefault(number, name) != name:
                rule = f"the id belongs to two files, {names[number]!r} and {name!r}"
                raise DataError(rule, where=self._path, key=f"image {number!r}")
            found = locations.find(name)
            if found is None:
                missing.append((name, f"image {number!r}"))
                continue
            self._indices[number] = by_path.setdefault(found, len(self.paths))
            if self._indices[number] < len(self.paths):
                self._merged.append(name)
                self._shared.add(self._indices[number])
                continue
            self.paths.append(found)
            width, height = _integer(image.get("width")), _integer(image.get("height"))
            self.told.append(None if width is None or height is None else (width, height))
        if missing:
            raise locations.missing(*missing[0], len(missing))

    def add_annotations(self, annotations: list[dict[str, Any]]) -> None:
        """Add the annotations as objects. Each must have a box, an image and a category."""
        seen: dict[Any, int] = {}
        same: set[tuple[Any, ...]] = set()
        for index, annotation in enumerate(annotations):
            number = _integer(annotation.get("id"))
            if number is None or not -MOST_ID <= number < MOST_ID:
                self._renumbered += 1
                number = index + 1
            elif seen.setdefault(number, index) != index:
                self._repeated.append(number)
                if _is_same(annotation, annotations[seen[number]]):
                    continue
            image, label = self._owner(annotation, number), self._label(annotation, number)
            box = self._box(annotation, number)
            if image in self._shared:
                whole = (image, label, *box)
                if whole in same:
                    continue
                same.add(whole)
            self._add(image, label, box, annotation, number)

    def _add(self, image: int, label: int, box: tuple[float, ...], annotation: dict[str, Any], number: int) -> None:
        crowd, area = annotation.get("iscrowd", 0), annotation.get("area", NO_AREA)
        if crowd is not None and crowd not in (0, 1):
            raise DataError(
                "must be 0 or 1", where=self._path, key=f"annotation {number}, iscrowd", value=_shown(crowd)
            )
        left, top, width, height = map(float, box)
        objects = self.objects
        objects.images.append(image)
        objects.classes.append(label)
        objects.corners.extend((left, top, left + width, top + height))
        objects.crowd.append(bool(crowd))
        is_area = isinstance(area, int | float) and 0 < area < LARGEST_AREA
        objects.areas.append(area if is_area else NO_AREA)
        objects.ids.append(number)

    def _owner(self, annotation: dict[str, Any], number: int) -> int:
        """Return the number of an annotation's image."""
        name = annotation.get("image_id")
        index = self._indices.get(name) if isinstance(name, int | str | float) else None
        if index is None:
            key = f"annotation {number}, image_id"
            raise DataError("no image has this id", where=self._path, key=key, value=_shown(name))
        return index

    def _label(self, annotation: dict[str, Any], number: int) -> int:
        """Return the class of an annotation."""
        category = annotation.get("category_id")
        label = self._labels.get(category) if isinstance(category, int | float) else None
        if label is None:
            known = list(self._labels)
            ids = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
            key, hint = f"annotation {number}, category_id", f"; the categories are {ids}"
            raise DataError("no category has this id", where=self._path, key=key, value=_shown(category), nearest=hint)
        return label

    def _box(self, annotation: dict[str, Any], number: int) -> tuple[float, float, float, float]:
        """Return the box of an annotation: left, top, width, height."""
        box = annotation.get("bbox")
        try:
            left, top, width, height = box  # type: ignore[misc]
            if math.isfinite(left + top + width + height):
                return left, top, width, height
        except (TypeError, ValueError, OverflowError):
            pass
        rule = "must be four finite numbers: left, top, width, height"
        raise DataError(rule, where=self._path, key=f"annotation {number}, bbox", value=_shown(box))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say about ids and files that occur more than once."""
        name, notes = self._path.name, []
        if self._merged:
            first = self._merged[0]
            notes.append(
                f"{name}: {counted(len(self._merged), 'image')} listed again: boxes merged; the first is {first!r}"
            )
        if self._repeated:
            first_id = self._repeated[0]
            what = counted(len(self._repeated), "annotation")
            notes.append(
                f"{name}: {what} with an id that occurred before, the first is {first_id}; equal ones count once"
            )
        if self._renumbered:
            what = counted(self._renumbered, "annotation")
            notes.append(f"{name}: {what} without an integer id: numbered by their place in the file")
        return tuple(notes)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Suspend Python's search for reference cycles, which takes longer than to parse millions of small values."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _without_outlines(values: dict[str, Any]) -> dict[str, Any]:
    if "bbox" in values:
        for key in UNUSED:
            values.pop(key, None)
    return values


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("image_id", "category_id", "bbox", "iscrowd"))


def _integer(value: Any) -> int | None:
    """Return an integer of a JSON file, also if it is written as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> Any:
    """Return a value for an error: long ones are cut."""
    if isinstance(value, list | dict | str) and len(repr(value)) > 80:
        return repr(value)[:77] + "..."
    return value
