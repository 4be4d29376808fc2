"""Folders in the form of Pascal VOC: one XML file per image. Difficult objects are kept, but ignored.

Corners count from 1 in these files, and the lower right pixel belongs to the box: 1, 1, 10, 10 becomes 0, 0, 10, 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from nas.errors import DataError, one_line
from nas.training.detection.annotated_images import (
    BoxFile,
    Objects,
    Size,
    assemble,
    check_images_left,
    counted,
    image_sizes,
)
from nas.training.detection.image_locations import ImageLocations
from nas.training.tasks.unused_files import IMAGE_SUFFIXES, is_image
from nas.utils.reporting import Reporter

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", "ImageSets/Main"
SIDES = ("xmin", "ymin", "xmax", "ymax")
MOST_DEPTH = 50
"""Nested elements of an XML file."""


@dataclass
class Described:
    """What an XML file tells about one image.

    Attributes:
        path: The XML file.
        filename: The name of the image in the file, or "".
        size: Width and height in the file.
        names: The class names of the objects.
        corners: x1, y1, x2, y2 of each object in pixels, from 0.
        difficult: Whether each object is ignored.
    """

    path: Path
    filename: str = ""
    size: Size | None = None
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def is_voc(folder: Path) -> bool:
    """Return whether a folder has XML files, in Annotations/ or beside its images."""
    return bool(_xml_files(folder))


def voc_sets(folder: Path) -> dict[str, list[str]]:
    """Return the images of ImageSets/Main/ by "train", "val" and "test". trainval.txt stands in for train.txt."""
    found = {part: _listed(folder / SETS / f"{part}.txt") for part in ("train", "val", "test", "trainval")}
    trainval = found.pop("trainval")
    if not found["train"]:
        found["train"] = [name for name in trainval if name not in set(found["val"])]
    return {part: names for part, names in found.items() if names} if found["train"] else {}


def describe_voc(folder: Path, stems: Sequence[str] | None = None) -> list[Described]:
    """Return what the XML files of a folder tell.

    Args:
        folder: A folder with Annotations/ and JPEGImages/, or with XML files and images side by side.
        stems: The names of the images without suffix; None: all.

    Raises:
        DataError: A file is missing or has another form.
    """
    files = _xml_files(folder)
    if stems is None:
        chosen = [files[stem] for stem in sorted(files)]
    else:
        missing = next((stem for stem in stems if stem not in files), None)
        if missing is not None:
            raise DataError(f"has no {missing}.xml, but {SETS}/ lists it", where=_annotations(folder))
        chosen = [files[stem] for stem in dict.fromkeys(stems)]
    check_images_left(chosen, folder, "XML files")
    return [_described(path) for path in chosen]


def read_voc(
    folder: Path, described: Sequence[Described], classes: Sequence[str], reporter: Reporter | None = None
) -> BoxFile:
    """Return the images and boxes of a VOC folder.

    Args:
        folder: The folder.
        described: What its XML files tell.
        classes: The names of the classes. Class k has the category id k + 1.
        reporter: Shows the progress for many images.

    Raises:
        DataError: An image is missing or unreadable.
    """
    labels = {name: label for label, name in enumerate(classes)}
    objects, paths, names = Objects(), [], []
    locations = ImageLocations([folder / IMAGES, folder / "images", _annotations(folder), folder], folder)
    for index, image in enumerate(described):
        paths.append(_image_of(image, locations))
        for number, (name, corners) in enumerate(zip(image.names, image.corners, strict=True), 1):
            objects.images.append(index)
            objects.classes.append(labels[name])
            objects.corners.extend(corners)
            objects.crowd.append(image.difficult[number - 1])
            objects.areas.append(math.nan)
            objects.ids.append(len(objects.ids) + 1)
            names.append(f"object {number}")
    sizes, size_notes = image_sizes(paths, [image.size for image in described], folder, reporter)
    split, notes = assemble(paths, sizes, objects, folder, names)
    ids = tuple(range(1, len(classes) + 1))
    return BoxFile(split, tuple(classes), ids, (*size_notes, *notes, *_unlabelled(folder, paths)))


def voc_classes(described: Sequence[Described]) -> tuple[str, ...]:
    """Return the sorted names of all objects. Raises DataError if there are none."""
    names = {name for image in described for name in image.names}
    if not names:
        raise DataError("has no objects", where=described[0].path.parent if described else "", key="object")
    return tuple(sorted(names))


def parse_xml(path: Path) -> Element:
    """Return the root of an XML file. Raises DataError for broken files and for files that declare entities."""
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise DataError(f"has elements nested more than {MOST_DEPTH} deep", where=path, key=tag)
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(name: str, *_: Any) -> None:
        raise DataError("must not declare entities", where=path, key=name)

    try:
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise DataError(f"not an XML file: {one_line(error)}", where=path) from error


def _described(path: Path) -> Described:
    root = parse_xml(path)
    if root.tag != "annotation":
        raise DataError("not a VOC file: the root must be <annotation>", where=path, key=root.tag)
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    image = Described(path, (root.findtext("filename") or "").strip())
    if width and height and math.isfinite(width + height):
        image.size = (int(width), int(height))
    for number, each in enumerate(root.findall("object"), 1):
        name = (each.findtext("name") or "").strip()
        if not name or not name.isprintable():
            raise DataError("must be a text without control characters", where=path, key=f"object {number}, name")
        difficult = (each.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise DataError("must be 0 or 1", where=path, key=f"object {number}, difficult", value=difficult)
        image.names.append(name)
        image.corners.append(_corners(each, number, path))
        image.difficult.append(difficult == "1")
    return image


def _corners(element: Element, number: int, path: Path) -> list[float]:
    """Return the box of an object, counted from 0."""
    corners = []
    for side in SIDES:
        text = element.findtext(f"bndbox/{side}")
        value = _number(text)
        if value is None or not math.isfinite(value):
            key = f"object {number}, bndbox/{side}"
            raise DataError("must be a finite number", where=path, key=key, value=text)
        corners.append(value)
    return [corners[0] - 1, corners[1] - 1, *corners[2:]]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _image_of(image: Described, locations: ImageLocations) -> str:
    """Return the image of an XML file: the one of the same name, or the one that the file names."""
    stem = image.path.stem
    suffix = Path(image.filename).suffix
    suffixes = dict.fromkeys([suffix, ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", *IMAGE_SUFFIXES])
    names = [stem + each for each in suffixes if is_image(stem + each)]
    found = next((path for name in names if (path := locations.find(name))), None)
    found = found or (locations.find(image.filename) if image.filename else None)
    if found is None:
        raise locations.missing(image.filename or f"{stem}.jpg", image.path.name, 1)
    return found


def _unlabelled(folder: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """Return a note if images of JPEGImages/ have no XML file."""
    place, files = folder / IMAGES, _xml_files(folder)
    if not place.is_dir() or not paths:
        return ()
    odd = sorted(path.name for path in place.iterdir() if is_image(path.name) and path.stem not in files)
    if not odd:
        return ()
    return (f"{folder.name}: not used: {counted(len(odd), 'image')} without an XML file, the first is {odd[0]}",)


def _annotations(folder: Path) -> Path:
    return folder / ANNOTATIONS if (folder / ANNOTATIONS).is_dir() else folder


def _xml_files(folder: Path) -> dict[str, Path]:
    """Return the XML files by their names without suffix."""
    return {path.stem: path for path in _annotations(folder).glob("*.xml") if not path.name.startswith(".")}


def _listed(path: Path) -> list[str]:
    """Return the first word of each line of a text file; nothing if it does not exist. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {one_line(error)}", where=path) from error
    return [words[0] for line in lines if (words := line.split())]
