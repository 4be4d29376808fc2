"""Finding annotations in a folder: a file per part, one file for all, or the XML files of Pascal VOC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import DataError
from nas.training.detection.voc_files import IMAGES, is_voc, voc_sets
from nas.training.tasks.image_folders import MOST_NESTED, part_of
from nas.training.tasks.unused_files import is_system, subfolders

WHOLE = "whole"
"""The key of annotations that are for no part, and are split."""
FOLDERS = ("annotations", "annotation", "labels")
"""Folders for the annotation files of all parts, in any case."""
PREFERRED = ("instances", "coco", "annotation", "bbox")
"""Words in the names of annotation files, the best first: captions and key points lie in the same folder."""
UNSUITED = ("captions", "image_info", "panoptic")
"""How the names of COCO's files without boxes begin."""
FORMS = "one COCO file (.json) per part or for all images, or the XML files of Pascal VOC"


@dataclass(frozen=True)
class Source:
    """Annotations of one part.

    Attributes:
        path: A COCO file, or a VOC folder.
        folders: Where the images of a COCO file may lie, the best place first.
        stems: The images of a VOC folder by their names without suffix; None: all.
    """

    path: Path
    folders: tuple[Path, ...] = ()
    stems: tuple[str, ...] | None = None


def find_sources(folder: Path) -> tuple[dict[str, Source], list[str]]:
    """Return the annotations in a folder by "train", "val" and "test", or by "whole", and notes.

    Raises DataError if there are none, two for one part, or none for training.
    """
    places = part_folders(folder)
    sources = _in_part_folders(places) or _beside_part_folders(folder, places)
    if not sources and is_voc(folder):
        sources = {part: Source(folder, stems=tuple(stems)) for part, stems in voc_sets(folder).items()}
        sources = sources or {WHOLE: Source(folder)}
    if not sources:
        raise _nothing(folder)
    if WHOLE not in sources and "train" not in sources:
        found = ", ".join(source.path.name for source in sources.values())
        raise DataError(f"has annotations of other parts ({found}), but none for training", where=folder)
    notes = [
        f"{folder.name}: {path.name}/ is not used: it has no annotations"
        for part, paths in places.items()
        for path in paths[:1]
        if part not in sources and WHOLE not in sources
    ]
    return sources, notes


def source_of(path: Path) -> Source:
    """Return a COCO file with the folders where its images may lie."""
    root = path.parent.parent if path.parent.name.lower() in FOLDERS else path.parent
    return Source(path, _image_folders(root, part_of_file(path), part_folders(root)))


def part_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of each part: train/, train2017/, images/train/."""
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "images"):
        for name in subfolders(place) if place.is_dir() else []:
            part = part_of(name)
            if part is not None:
                found.setdefault(part, []).append(place / name)
    return found


def part_of_file(path: Path) -> str | None:
    """Return which part an annotation file is for: "instances_val2017.json" is for "val"; None for no or several."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    parts = {"train" if word == "trainval" else part_of(word) for word in words} - {None}
    return parts.pop() if len(parts) == 1 else None


def _in_part_folders(places: dict[str, list[Path]]) -> dict[str, Source]:
    """Return the annotations that lie in the folders of the parts."""
    sources: dict[str, Source] = {}
    for part, folders in places.items():
        for folder in folders:
            file = _best(_json_files(folder), folder)
            if file is None and not is_voc(folder):
                continue
            if part in sources:
                rule = f"two folders have annotations of one part: '{sources[part].path}' and '{folder}'"
                raise DataError(rule, where=folder.parent)
            inner = (folder, folder / "images")
            sources[part] = Source(folder) if file is None else Source(file, (*inner, *folders))
    return sources


def _beside_part_folders(folder: Path, places: dict[str, list[Path]]) -> dict[str, Source]:
    """Return the annotation files in annotations/, or else in the folder itself."""
    inner = [folder / name for name in subfolders(folder) if name.lower() in FOLDERS]
    for place in (*inner, folder):
        files = _json_files(place)
        by_part: dict[str, list[Path]] = {}
        for file in files:
            by_part.setdefault(part_of_file(file) or WHOLE, []).append(file)
        if not by_part:
            continue
        if set(by_part) - {WHOLE}:  # files for all images lie beside those of the parts
            by_part.pop(WHOLE, None)
        found = {part: best for part, each in by_part.items() if (best := _best(each, place))}
        return {part: Source(file, _image_folders(folder, part, places)) for part, file in found.items()}
    return {}


def _image_folders(root: Path, part: str | None, places: dict[str, list[Path]]) -> tuple[Path, ...]:
    """Return where the images of a part may lie. Without a part they may lie in the folders of all parts."""
    own = places.get(part or "", [])
    others = [] if own else [path for paths in places.values() for path in paths]
    return (*own, root / "images", root, root / IMAGES, *others)


def _best(files: Sequence[Path], folder: Path) -> Path | None:
    """Return the annotation file among JSON files of one part. Raises DataError if it is not clear which one."""
    for word in PREFERRED:
        chosen = [file for file in files if word in file.name.lower()]
        if chosen:
            break
    else:
        chosen = list(files)
    if len(chosen) > 1:
        names = ", ".join(f"'{file.name}'" for file in chosen[:4])
        raise DataError(f"has several annotation files of one part: {names}; keep one", where=folder)
    return chosen[0] if chosen else None


def _json_files(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=folder) from error
    suited = [file for file in files if not file.name.lower().startswith(UNSUITED) and not is_system(file.name)]
    return [file for file in suited if file.suffix.lower() == ".json" and file.is_file()]


def _nothing(folder: Path) -> DataError:
    """Return the error for a folder without annotations, with the folder below it that has some."""
    rule = f"has no annotations of boxes: needs {FORMS}"
    level = [folder]
    for _ in range(MOST_NESTED):
        level = [place / name for place in level for name in subfolders(place)[:20]]
        inside = next((place for place in level if _has_annotations(place)), None)
        if inside is not None:
            return DataError(rule, where=folder, nearest=f"; did you mean '{inside}'?")
    is_yolo = any(folder.glob("*.yaml")) or any(folder.glob("labels/**/*.txt"))
    return DataError(rule, where=folder, nearest="; convert the labels of YOLO to COCO" if is_yolo else "")


def _has_annotations(folder: Path) -> bool:
    try:
        return bool(_in_part_folders(part_folders(folder)) or _beside_part_folders(folder, {}) or is_voc(folder))
    except DataError:
        return False
