"""Data sets with boxes: the embedded one, folders with annotations, and single COCO files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas.errors import DataError
from nas.training.detection.annotated_images import BoxFile, counted
from nas.training.detection.annotation_search import WHOLE, Source, find_sources, source_of
from nas.training.detection.boxes import BoxData, BoxSplit, hold_out, hold_out_validation
from nas.training.detection.canvases import digit_canvases
from nas.training.detection.coco_files import read_coco
from nas.training.detection.voc_files import describe_voc, read_voc, voc_classes
from nas.training.tasks.class_report import list_some
from nas.utils.registry import nearest
from nas.utils.reporting import Reporter

BOX_DATA_SETS: dict[str, Callable[[], BoxData]] = {"digit_canvases": digit_canvases}
"""The named data sets."""
NAMES = {"train": "training", "val": "validation", "test": "test"}
MOST_SHOWN = 5
Splits = tuple[BoxSplit, BoxSplit, BoxSplit]


def load_boxes(name: str, root: str | None = None, reporter: Reporter | None = None) -> BoxData:
    """Return a named data set, a folder with annotations, or a COCO file.

    A folder has a COCO file in each of train/, val/ and test/, a file for each part in annotations/, one file for all
    images, or XML files of Pascal VOC. Missing parts are split off the others: a fifth for the test; a fifth for the
    validation, or a tenth of 5,000 images or more.

    Args:
        name: A key of `BOX_DATA_SETS`, or the path of a folder or a COCO file.
        root: The folder of the named data sets. The embedded one needs none.
        reporter: Shows the progress for many images.

    Raises:
        DataError: The data set is unknown or broken.
    """
    if name in BOX_DATA_SETS:
        return BOX_DATA_SETS[name]()
    if not name:
        raise DataError("must not be empty: give a data set, a folder or a COCO file", where="--data")
    path = Path(name).expanduser()
    if path.is_dir():
        sources, notes = find_sources(path)
        return _loaded(path.resolve().name, path, sources, notes, reporter)
    if path.is_file() and path.suffix.lower() == ".json":
        return _loaded(path.stem, path.parent, {WHOLE: source_of(path)}, [], reporter)
    if path.exists():
        raise DataError("not a folder and not a COCO file (.json)", where="--data", value=name)
    rule = f"unknown data set, folder or COCO file '{name}'"
    raise DataError(rule, where="--data", nearest=nearest(name, BOX_DATA_SETS))


def _loaded(
    name: str, folder: Path, sources: dict[str, Source], notes: list[str], reporter: Reporter | None
) -> BoxData:
    files = _read(sources, reporter)
    first = files.get(WHOLE) or files["train"]
    for part, file in files.items():
        _check_categories(file, first, sources[part].path, (sources.get(WHOLE) or sources["train"]).path)
        _check_boxes(file.split, NAMES.get(part, ""), sources[part].path)
    train, validation, test = _completed(files, folder)
    for part, split in zip(NAMES, (train, validation, test), strict=True):
        _check_boxes(split, NAMES[part], folder)
    notes += [note for file in files.values() for note in file.notes]
    notes += _notes(name, first.classes, (train, validation, test))
    return BoxData(name, first.classes, first.category_ids, train, validation, test, folder=folder, notes=tuple(notes))


def _read(sources: dict[str, Source], reporter: Reporter | None) -> dict[str, BoxFile]:
    """Return what the annotations of each part hold. All VOC folders have the classes of all of them."""
    folders = {part: source for part, source in sources.items() if source.path.is_dir()}
    described = {part: describe_voc(source.path, source.stems) for part, source in folders.items()}
    classes = voc_classes([image for each in described.values() for image in each]) if described else ()
    return {
        part: read_voc(source.path, described[part], classes, reporter)
        if part in described
        else read_coco(source.path, source.folders, reporter)
        for part, source in sources.items()
    }


def _completed(files: dict[str, BoxFile], folder: Path) -> Splits:
    """Return training, validation and test images. Missing parts are split off, as for image folders."""
    splits = {part: file.split for part, file in files.items()}
    if WHOLE in splits:
        train, test = hold_out(splits[WHOLE], 0.2, folder)
        return (*hold_out_validation(train, folder), test)
    train = splits["train"]
    if "val" in splits and "test" in splits:
        return train, splits["val"], splits["test"]
    if len(splits) == 1:
        train, test = hold_out(train, 0.2, folder)
    else:
        test = splits["val"] if "val" in splits else splits["test"]
    return (*hold_out_validation(train, folder), test)


def _check_categories(file: BoxFile, expected: BoxFile, path: Path, train: Path) -> None:
    """Raise DataError, with the odd category, if a part has other categories than the training images."""
    own = dict(zip(file.category_ids, file.classes, strict=True))
    other = dict(zip(expected.category_ids, expected.classes, strict=True))
    if own == other:
        return
    odd = next(number for number in sorted(own.keys() | other.keys()) if own.get(number) != other.get(number))
    rule = f"must have the categories of {train}"
    if odd in own and odd in other:
        rule += f": the id {odd} is '{own[odd]}' here, but '{other[odd]}' there"
    else:
        rule += f": '{own.get(odd) or other[odd]}' (id {odd}) is only {'here' if odd in own else 'there'}"
    raise DataError(rule, where=path, key="categories")


def _check_boxes(split: BoxSplit, part: str, where: Path) -> None:
    """Raise DataError if no image has a box that counts. Crowds and difficult objects do not count."""
    if split.negatives == len(split):
        images = counted(len(split), f"{part} image".strip())
        raise DataError(f"no boxes in {images}: none can be learned or found", where=where, key="annotations")


def _notes(name: str, classes: tuple[str, ...], splits: Splits) -> list[str]:
    """Return what to say about images without boxes, classes without boxes, and images in two parts."""
    notes = []
    negatives = [split.negatives for split in splits]
    if any(negatives):
        each = ", ".join(f"{count:,} {part}" for count, part in zip(negatives, NAMES.values(), strict=True))
        notes.append(f"{name}: {counted(sum(negatives), 'image')} without boxes, kept as negatives: {each}")
    empty = [classes[label] for label in (splits[0].class_counts(len(classes)) == 0).nonzero()[0]]
    if empty:
        shown = list_some([f"'{each}'" for each in empty], MOST_SHOWN)
        kinds = "class has" if len(empty) == 1 else "classes have"
        notes.append(f"{name}: {len(empty)} {kinds} no boxes in the training images: {shown}")
    files = [set(map(str, split.images)) for split in splits]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = files[one] & files[other]
        if same:
            first, second = list(NAMES.values())[one], list(NAMES.values())[other]
            example = Path(min(same)).name
            notes.append(
                f"{name}: {counted(len(same), 'image')} both in the {first} and the {second} images, such as {example}"
            )
    return notes
