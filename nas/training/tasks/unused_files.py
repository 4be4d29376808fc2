"""Files and folders of an image folder that are not used, and what to say about them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nas.errors import DataError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",  # those of torchvision's ImageFolder
    ".apng", ".dib", ".gif", ".jfif", ".jpe", ".pbm", ".pnm",
)  # fmt: skip
"""The types of files that are images."""
SYSTEM_NAMES = {
    "__macosx", "__pycache__", "@eadir", "$recycle.bin", "recycler", "#recycle", "@recycle", "#snapshot", "lost+found",
    "system volume information", "network trash folder", "temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "icon\r",
}  # fmt: skip
"""Files and folders that operating systems and tools create, in lower case. So are all names that begin with a dot."""
MOST_SHOWN = 5


def is_system(name: str) -> bool:
    """Return whether a file or folder belongs to an operating system or a tool: ".DS_Store", "__MACOSX"."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without those of the system. Raises DataError."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not is_system(entry.name))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=folder) from error


class UnusedFiles:
    """Collects what is not used of a data set's folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._system: list[str] = []
        self._beside: list[str] = []
        self._others: Counter[str] = Counter()

    def add_system(self, path: Path) -> None:
        """Add a file or folder of the system."""
        self._system.append(str(path.relative_to(self._folder)))

    def add_other(self, name: str) -> None:
        """Add a file in a class folder that is no image."""
        self._others[Path(name).suffix.lower() or "no extension"] += 1

    def add_entries(self, folder: Path, used: Iterable[str]) -> None:
        """Add all entries of a folder but those that are `used`."""
        loose = 0
        for path in sorted(folder.iterdir()):
            if is_system(path.name):
                self.add_system(path)
            elif path.is_dir() and path.name not in used:
                images = sum(is_image(name) for _, _, names in os.walk(path) for name in names)
                self._beside.append(
                    f"{path.relative_to(self._folder)}/ ({images} {'image' if images == 1 else 'images'})"
                )
            elif path.name not in used and is_image(path.name):
                loose += 1
            elif path.name not in used:
                self._beside.append(str(path.relative_to(self._folder)))
        if loose:
            place = "" if folder == self._folder else f" in {folder.relative_to(self._folder)}/"
            self._beside.append(f"{loose} {'image' if loose == 1 else 'images'}{place} outside of the class folders")

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say about the files: at most one line for each kind."""
        name = self._folder.name or str(self._folder)
        notes = []
        if self._beside:
            notes.append(f"{name}: not used: {_listed(self._beside)}")
        if self._system:
            count = "1 file or folder" if len(self._system) == 1 else f"{len(self._system)} files and folders"
            notes.append(f"{name}: skipped {count} of the system: {_listed(self._system)}")
        if self._others:
            total = self._others.total()
            kinds = [f"{suffix} ({count})" for suffix, count in self._others.most_common()]
            count = "1 file that is" if total == 1 else f"{total} files that are"
            notes.append(f"{name}: skipped {count} no images of a known type: {_listed(kinds)}")
        return tuple(notes)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MOST_SHOWN} more" if len(items) > MOST_SHOWN else ""
    return ", ".join(items[:MOST_SHOWN]) + more
