"""Small data sets with boxes for tests: COCO files and VOC folders with their images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog", "supercategory": "none"}]
SIZE = (40, 30)
"""Width and height of the images."""


def write_image(path: Path, size: tuple[int, int] = SIZE, orientation: int = 0) -> Path:
    """Write a gray picture, with an EXIF orientation if it is not 0."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], 99, np.uint8)).save(path, exif=exif)
    return path


def image(number: Any, name: str | None = None, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Return an image of a COCO file."""
    return {"id": number, "file_name": name or f"{number}.png", "width": size[0], "height": size[1]}


def annotation(number: Any, image_id: Any = 1, category_id: Any = 3, bbox: Any = (1, 2, 10, 8), **more: Any) -> Any:
    """Return an annotation of a COCO file."""
    box = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "iscrowd": 0, **more}


def write_coco(
    path: Path,
    images: Sequence[dict[str, Any]] | int = 2,
    annotations: Sequence[dict[str, Any]] | None = None,
    categories: Sequence[dict[str, Any]] = CATEGORIES,
    folder: Path | None = None,
) -> Path:
    """Write a COCO file, and the pictures of its images into `folder` or beside it.

    `images` may be a number of images. By default each image has a cat, and every second one also a dog.
    """
    images = [image(number) for number in range(1, images + 1)] if isinstance(images, int) else images
    if annotations is None:
        annotations = [annotation(2 * each["id"], each["id"]) for each in images]
        annotations += [annotation(2 * each["id"] + 1, each["id"], 7, (20, 5, 9, 9)) for each in images[::2]]
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in images:
        write_image((folder or path.parent) / each["file_name"])
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def voc_object(name: str = "cat", corners: Sequence[Any] = (1, 1, 10, 10), difficult: Any = 0) -> str:
    """Return an object of a VOC file."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def write_voc(root: Path, stem: str, *objects: str, size: tuple[int, int] = SIZE, flat: bool = False) -> Path:
    """Write an image and its XML file into a VOC folder, or both into `root` if `flat`. Return the XML file."""
    write_image(root / ("" if flat else "JPEGImages") / f"{stem}.jpg")
    path = root / ("" if flat else "Annotations") / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{stem}.jpg</filename>{told}{''.join(objects)}</annotation>")
    return path
