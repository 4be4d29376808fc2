"""Image folders: one folder per class, with or without split folders."""

from __future__ import annotations

from pathlib import Path

from nas.errors import DataError
from nas.training.tasks.splits import ImageData, Split, split_validation, stratified


def load_folder(folder: Path) -> ImageData:
    """Return the data set of an image folder. Raises DataError."""
    parts = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in parts:
        if parts:
            raise DataError(f"has {', '.join(parts)}/ but no train/", where=folder)
        classes, whole = _class_folders(folder)
        rest, test_indices = stratified(whole.labels, 0.2)
        train, validation = split_validation(whole.take(rest))
        return ImageData(folder.name, classes, train, validation, whole.take(test_indices))
    classes, train = _class_folders(parts["train"])
    held = {}
    for name in [name for name in ("val", "test") if name in parts]:
        others, held[name] = _class_folders(parts[name])
        if others != classes:
            odd = sorted(set(others) ^ set(classes))[0]
            raise DataError(f"must have the classes of train/: '{odd}' is only in one of them", where=parts[name])
    if len(held) == 2:
        return ImageData(folder.name, classes, train, held["val"], held["test"])
    test: Split | None = next(iter(held.values()), None)
    if test is None:
        rest, part = stratified(train.labels, 0.2)
        train, test = train.take(rest), train.take(part)
    train, validation = split_validation(train)
    return ImageData(folder.name, classes, train, validation, test)


def _class_folders(folder: Path) -> tuple[tuple[str, ...], Split]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"not an image folder: {str(error).splitlines()[0]}", where=folder) from error
    if len(found.classes) < 2:
        rule = f"needs at least two classes, one folder each: found only '{found.classes[0]}'"
        raise DataError(rule, where=folder)
    return tuple(found.classes), Split([path for path, _ in found.samples], tuple(found.targets))
