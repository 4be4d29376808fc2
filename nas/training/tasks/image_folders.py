"""Image folders: one folder per class, with or without split folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nas.errors import DataError
from nas.training.tasks.splits import ImageData, Split, check_counts, split_validation, stratified
from nas.training.tasks.unused_files import IMAGE_SUFFIXES, UnusedFiles, is_image, is_system, subfolders

PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
"""Names of the split folders, in any case. "train_set", "TrainImages" and "train2017" are spellings of "train"."""
FILLERS = r"(data)?sets?|data|images?|imgs?|splits?|seg|folder"
"""What a name may hold beside the split: "seg_train", "train images"."""
MOST_NESTED = 3
"""How deep below a folder a data set is looked for, to name it in an error."""


def load_folder(folder: Path) -> ImageData:
    """Return the data set of an image folder. Raises DataError."""
    unused = UnusedFiles(folder)
    parts = find_parts(folder)
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    if "train" not in parts:
        if parts:
            raise DataError(f"has {', '.join(path.name for path in parts.values())}/ but no train/", where=folder)
        _check_nesting(folder)
        classes, whole = class_folders(folder, unused)
        check_counts(classes, whole.labels, 2, folder)
        rest, test_indices = stratified(whole.labels, 0.2)
        train, validation = split_validation(whole.take(rest))
        return ImageData(name, classes, train, validation, whole.take(test_indices), folder=folder, notes=unused.notes)
    unused.add_entries(folder, used=[path.name for path in parts.values()])
    classes, train = class_folders(parts["train"], unused)
    held = {}
    for part in [part for part in ("val", "test") if part in parts]:
        others, held[part] = class_folders(parts[part], unused)
        _check_same_classes(others, classes, parts[part], parts["train"].name)
    check_counts(classes, train.labels, 2 - len(held), parts["train"])
    notes = unused.notes
    if len(held) == 2:
        return ImageData(name, classes, train, held["val"], held["test"], folder=folder, notes=notes)
    test: Split | None = next(iter(held.values()), None)
    if test is None:
        rest, chosen = stratified(train.labels, 0.2)
        train, test = train.take(rest), train.take(chosen)
    train, validation = split_validation(train)
    return ImageData(name, classes, train, validation, test, folder=folder, notes=notes)


def part_of(name: str) -> str | None:
    """Return which split a folder's name stands for: "train", "val", "test", or None for any other name."""
    words = [re.sub(rf"({FILLERS})$", "", word) for word in re.findall(r"[a-z]+", name.lower())]
    words = [word for word in words if word]
    return next((part for part, names in PARTS.items() if len(words) == 1 and words[0] in names), None)


def find_parts(folder: Path) -> dict[str, Path]:
    """Return the split folders in a folder by "train", "val" and "test". Raises DataError for two of one split.

    A folder of another spelling than these three that holds images, and no folders, is a class, unless all folders are
    splits and one of them is the training split.
    """
    names = subfolders(folder)
    kinds = {part_of(name) for name in names}
    only_parts = "train" in kinds and None not in kinds
    found: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        if part is None or not (only_parts or name in PARTS or subfolders(folder / name)):
            continue
        if part in found:
            kind = {"train": "training", "val": "validation", "test": "test"}[part]
            rule = f"has two folders of {kind} images, '{found[part]}' and '{name}': keep or merge one"
            raise DataError(rule, where=folder)
        found[part] = name
    return {part: folder / found[part] for part in PARTS if part in found}


def class_folders(folder: Path, unused: UnusedFiles) -> tuple[tuple[str, ...], Split]:
    """Return the classes of a folder, and its images in the order of `torchvision.datasets.ImageFolder`.

    Raises DataError if there are fewer than two classes, or a class has no images.
    """
    classes = subfolders(folder)
    unused.add_entries(folder, used=classes)
    if not classes:
        images = sum(is_image(entry.name) for entry in _entries(folder))
        found = f"has {images} images but no class folders" if images else "has no class folders with images"
        raise DataError(f"not an image folder: {found}; each class needs a folder of its own", where=folder)
    if len(classes) < 2:
        inner = len(subfolders(folder / classes[0])) > 1
        hint = f"; if the classes are in {classes[0]}/, move them up" if inner else ""
        rule = f"needs at least two classes, one folder each: found only '{classes[0]}'"
        raise DataError(rule, where=folder, nearest=hint)
    _check_inner_folders(folder, classes)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not name.isprintable():
            raise DataError("the name of a class must be UTF-8 without control characters", where=folder, value=name)
        found_paths = _images_below(folder / name, unused)
        if not found_paths:
            known = ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"the class folder has no images; the known types are {known}", where=folder / name)
        paths += found_paths
        labels += [label] * len(found_paths)
    return tuple(classes), Split(paths, tuple(labels))


def _images_below(folder: Path, unused: UnusedFiles) -> list[str]:
    """Return the paths of a class's images, also in subfolders.

    Raises DataError for a folder named as an image, and for a link to a folder that holds the link.
    """
    walked = []

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot be read: {error.strerror}", where=error.filename) from error

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        for name in [name for name in folders if is_system(name)]:
            unused.add_system(Path(root) / name)
            folders.remove(name)
        for name in folders:
            _check_inner_folder(Path(root) / name)
        walked.append((root, files))
    found = []
    for root, files in sorted(walked):
        for name in sorted(files):
            if is_system(name):
                unused.add_system(Path(root) / name)
            elif is_image(name):
                found.append(os.path.join(root, name))  # noqa: PTH118 (millions of them: a Path each is slow)
            else:
                unused.add_other(name)
    return found


def _check_inner_folder(place: Path) -> None:
    """Raise DataError if a folder in a class is named as an image, or is a link to a folder that holds the link."""
    if is_image(place.name):
        raise DataError("is a folder, but is named as an image", where=place)
    if place.is_symlink() and place.resolve() in [each.resolve() for each in place.parents]:
        rule = f"is a link to '{place.readlink()}', a folder that holds the link; remove it"
        raise DataError(rule, where=place)


def _check_same_classes(classes: tuple[str, ...], expected: tuple[str, ...], folder: Path, train: str) -> None:
    """Raise DataError if a split folder has other classes than the training images."""
    if classes == expected:
        return
    odd = sorted(set(classes) ^ set(expected))[0]
    where = f"only in {train}/" if odd in expected else f"only in {folder.name}/"
    others = classes if odd in expected else expected
    same = next((name for name in others if name.lower() == odd.lower()), None)
    nearest = f"; '{same}' differs only in case: give both the same name" if same else ""
    raise DataError(f"must have the classes of {train}/: '{odd}' is {where}", where=folder, nearest=nearest)


def _check_inner_folders(folder: Path, classes: list[str]) -> None:
    """Raise DataError if every class holds only folders, and the same ones or split folders: which are the classes?"""
    inner = [subfolders(folder / name) for name in classes]
    if not all(inner) or any(is_image(entry.name) for name in classes for entry in _files(folder / name)):
        return
    are_parts = all(part_of(name) for names in inner for name in names)
    if not are_parts and any(names != inner[0] for names in inner):
        return
    shown = ", ".join(f"{name}/" for name in sorted({name for names in inner for name in names})[:4])
    rule = f"its folders {classes[0]}/ and {classes[1]}/ both hold folders and no images ({shown})"
    first = inner[0][0]
    move = f"move {classes[0]}/{first} to {first}/{classes[0]}, and so on"
    hint = "; put the images of a class in one folder; if these are the splits, name them train/, val/ and test/"
    hint = f"; the split folders must be outside: {move}" if are_parts else hint
    raise DataError(rule, where=folder, nearest=hint)


def _check_nesting(folder: Path) -> None:
    """Raise DataError, with the nearest path, if the data set is in a folder below this one."""
    place = folder
    for _ in range(MOST_NESTED):
        names = subfolders(place)
        inside = next((place / name for name in names if _has_split_classes(place / name)), None)
        if inside is not None:
            rule = f"has no train/ and no class folders, but {inside.relative_to(folder)}/ has train/"
            raise DataError(rule, where=folder, nearest=f"; did you mean '{inside}'?")
        if len(names) != 1 or any(is_image(entry.name) for entry in _files(place)):
            break
        place = place / names[0]
    if place != folder and len(subfolders(place)) > 1:
        rule = f"holds only the folder '{place.relative_to(folder)}'"
        raise DataError(rule, where=folder, nearest=f"; did you mean '{place}'?")


def _has_split_classes(folder: Path) -> bool:
    return any(part_of(name) == "train" and subfolders(folder / name) for name in subfolders(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_system(entry.name)]


def _files(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if not entry.is_dir()]
