"""The record of a run's image files, by which a later command notices that they were replaced."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas.errors import RunError
from nas.training.tasks.base import Task, TaskData
from nas.training.tasks.fit import continued_fit
from nas.training.tasks.image_datasets import shown_progress
from nas.training.tasks.image_files import file_digest
from nas.training.tasks.registry import load_task
from nas.utils.files import IMAGE_RECORD, read_json, write_bytes
from nas.utils.reporting import Reporter
from nas.utils.run_identity import IMAGES_KEY


@dataclass(frozen=True)
class ImageRecord:
    """The content of a data set's image files. A copy of the folder has the same record.

    Attributes:
        name: The name of the data set.
        digests: The digest of each file's content by its path in the folder. Empty for a named data set.
    """

    name: str
    digests: dict[str, str]

    @classmethod
    def read(cls, data: TaskData, reporter: Reporter) -> ImageRecord:
        """Return the record of a data set. Raises DataError for a file that cannot be read."""
        if data.folder is None:
            return cls(data.name, {})
        files = [str(file) for split in (data.train, data.validation, data.test) for file in split.images]
        digests = {}
        with shown_progress(len(files), reporter, "reading") as advance:
            for file in files:
                digests[os.path.relpath(file, data.folder)] = file_digest(file)
                advance(1)
        return cls(data.name, digests)

    @property
    def identity(self) -> dict[str, Any]:
        """The part of a run's identity that the content of the files decides; {} for a named data set."""
        if not self.digests:
            return {}
        text = "".join(f"{name} {digest}\n" for name, digest in sorted(self.digests.items()))
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]  # names may be no UTF-8
        return {IMAGES_KEY: f"{len(self.digests)} files, {digest}"}

    def check(self, folder: Path, flag: str) -> str:
        """Return the name under which the run in `folder` has these images; without such a run, their own.

        A run from before there were records is not compared.

        Args:
            folder: The run's folder.
            flag: The flag that selects another folder, for the message.

        Raises:
            RunError: The run had other images under the same name. The error counts and names them.
        """
        path = folder / IMAGE_RECORD
        if not path.is_file() or not self.digests:
            return self.name
        stored = read_json(path)
        digests = stored.get("digests")
        if not isinstance(digests, Mapping):
            raise RunError("not the record of a run's images: delete the file if they are the same", where=path)
        changes = describe_changes(digests, self.digests)
        if not changes:
            return str(stored.get("name"))
        if stored.get("name") == self.name:
            rule = f"{changes} since this run began; restore the images, or give another {flag}"
            raise RunError(rule, where=folder, key="data")
        return self.name

    def check_supernet(self, source: str | None) -> None:
        """Raise RunError if the run that trained the supernet in the folder `source` had other images."""
        for folder in (Path(source), Path(source).parent) if source else ():
            self.check(folder, "--supernet")

    def write(self, folder: Path) -> None:
        """Write the record into a run's folder, unless it is there or the data set is a named one."""
        path = folder / IMAGE_RECORD
        if self.digests and not path.exists():
            write_bytes(path, json.dumps({"name": self.name, "digests": self.digests}, indent=0).encode())


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return how many files were replaced, added and removed, and the first of them; "" if none was."""
    names = {
        "replaced": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
    }
    found = {kind: each for kind, each in names.items() if each}
    if not found:
        return ""
    counts = [f"{len(each)}" for each in found.values()]
    counts[0] += f" of {len(before)} images {'was' if counts[0] == '1' else 'were'}"
    changes = ", ".join(f"{count} {kind}" for count, kind in zip(counts, found, strict=True))
    return f"{changes} (first: {next(iter(found.values()))[0]})"


@dataclass(frozen=True)
class RunPlace:
    """Where a run is stored.

    Attributes:
        folder: The run's folder.
        flag: The flag that selects another folder.
        stored: The settings of the run in the folder; None if there is none.
    """

    folder: Path
    flag: str
    stored: Mapping[str, Any] | None


class DataSettings(Protocol):
    """The settings of a command that say which images it uses, and how."""

    @property
    def data(self) -> str:
        """A named data set or an image folder."""

    @property
    def data_root(self) -> str | None:
        """The folder of the named data sets; None: the user's cache."""

    @property
    def task(self) -> str:
        """What the networks learn: a key of `TASKS`."""

    @property
    def metric(self) -> str:
        """What ranks networks, by a name that the task knows."""

    @property
    def class_weights(self) -> str:
        """How the training loss weighs the classes: a key of `CLASS_WEIGHTS`."""

    @property
    def fit(self) -> str:
        """A key of `FITS`, or "auto": the fit of the run that continues, else the one that the images need."""

    @property
    def flip(self) -> str:
        """Whether training images are mirrored: "auto", "on" or "off"."""


def load_for_run(settings: DataSettings, place: RunPlace, reporter: Reporter) -> tuple[Task, ImageRecord]:
    """Return the task of a new or continued run, and the record of its images.

    Args:
        settings: Which images, and how.
        place: Where the run is stored.
        reporter: Shows the progress of reading the files.

    Raises:
        DataError: The data set is unknown or invalid.
        UsageError: The metric, the class weights, the fit or the flip is unknown.
        RunError: The images of the run were replaced.
    """
    how = {
        "task": settings.task,
        "metric": settings.metric,
        "class_weights": settings.class_weights,
        "fit": continued_fit(settings.fit, place.stored),
        "flip": settings.flip,
    }
    task = load_task(settings.data, settings.data_root, how)
    record = ImageRecord.read(task.data, reporter)
    return task.renamed(record.check(place.folder, place.flag)), record  # a copy of the images is the same data
