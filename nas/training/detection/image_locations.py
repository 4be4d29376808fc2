"""Where the images of annotation files lie: names are looked up in several folders."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from nas.errors import DataError
from nas.training.tasks.unused_files import is_image
from nas.utils.registry import closest

MOST_COMPARED = 400
"""Names that are compared with a missing one: all of a small folder, or the neighbors in alphabetical order."""


class ImageLocations:
    """Finds image files in several folders.

    Args:
        folders: Where to look, the best place first. Folders that do not exist are left out.
        where: The annotation file, for errors.
    """

    def __init__(self, folders: Sequence[Path], where: Path):
        self._folders = [str(folder) for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._where = where

    def find(self, name: str) -> str | None:
        """Return the path of the image `name`, or None. It may hold folders that do not exist here."""
        names = [name]
        if "\\" in name:
            names.append(name.replace("\\", "/"))
        if "/" in name or "\\" in name:
            names.append(PureWindowsPath(name).name)
        for each in names:
            for folder in self._folders:
                path = os.path.join(folder, each)  # noqa: PTH118 (118,000 of them: a Path each is slow)
                if os.path.isfile(path):  # noqa: PTH113
                    return path
        return None

    def missing(self, name: str, key: str, count: int) -> DataError:
        """Return the error for an image that is not found.

        Args:
            name: The file's name in the annotations.
            key: The image in the annotations: "image 7".
            count: The number of missing images.
        """
        more = f"; {count - 1:,} more are missing" if count > 1 else ""
        places = ", ".join(f"{folder}/" for folder in self._folders[:3]) or "any known folder"
        near = self._closest(PureWindowsPath(name).name)
        hint = f"; did you mean '{near}'?" if near else ""
        rule = f"the image file is not in {places}{more}"
        return DataError(rule, where=self._where, key=key, value=name, nearest=hint)

    def _closest(self, name: str) -> str | None:
        known = sorted({entry for folder in self._folders for entry in _image_names(folder)})
        stem = os.path.splitext(name)[0].lower()  # noqa: PTH122
        same = [entry for entry in known if os.path.splitext(entry)[0].lower() == stem]  # noqa: PTH122
        if same:
            return same[0]
        middle = bisect.bisect(known, name)
        half = MOST_COMPARED // 2
        return closest(name, known if len(known) <= MOST_COMPARED else known[max(0, middle - half) : middle + half])


def _image_names(folder: str) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            return tuple(entry.name for entry in entries if is_image(entry.name))
    except OSError:
        return ()
