"""The identity of a run: compares the settings in its folder with those of a command.

A path is the same in every spelling. If both sides also have a digest of what is at the path, the digests decide: a
file that was only moved is the same. A digest that older run folders lack is compared only if both sides have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas.errors import RunError

IMAGES_KEY = "image_files"
"""The setting that identifies the content of a data set's files. Older runs lack it."""
RESOLUTION = "resolution"
"""The setting that holds the input resolutions of a search, if they are not those of the space's file."""
FORMER_VALUES = {
    "task": "classification", "metric": "accuracy", "class_weights": "none", "fit": "crop", "flip": "auto",
}  # fmt: skip
"""What settings were that runs leave out: they are from before the setting, or it has its default."""
FORMER_RECIPE: dict[str, Any] = {
    "decay_norms": True, "ema_share": 0.0, "average_last": 0.0, "crop_scale": 0.0, "first_size": 1.0,
    "branches": 0,
}  # fmt: skip
"""What settings of recipes were that trainings leave out, for the same reasons."""
TABLE_DIGEST = "table_digest"
"""The setting that identifies what a latency table predicts."""
TABLE_FILE = "table_file"
"""The setting that names the file of that table, for messages."""
PATHS: dict[str, tuple[str, ...]] = {
    "space": ("space_digest",),
    "source": ("source_digest", "source_content"),
    "accuracies": ("source_digest", "source_content"),
    "start_from": ("start_from_content",),
    "against": ("against_digest",),
    "published_table": (TABLE_DIGEST,),
    "tables": (TABLE_DIGEST,),
    "table": ("table_content",),
    "teacher": ("teacher_digest",),
    "init_from": ("init_from_digest",),
    "weights": ("weights_digest",),
}
"""Settings that are paths or names of files, with the settings that hold a digest of their content."""
FILES_OF = {
    "space_digest": ("--space", "space"),
    "source_digest": ("--accuracies or --supernet", "source"),
    "start_from_content": ("--start-from", "start_from"),
    "start_from_digest": ("--start-from", "start_from"),
    "against_digest": ("--against", "against"),
    "teacher_digest": ("--teacher", "teacher"),
    "init_from_digest": ("--init-from", "init_from"),
    "weights_digest": ("--weights", "weights"),
    TABLE_DIGEST: ("latency table", TABLE_FILE),
}
"""For each digest, the words for its file and the setting that names it."""
SOURCE_CODE = ("evaluator_source", "controller_source", "objective_source", "block_source")
"""Settings that hold the digests of the source files of plug-ins, by file."""
PROXY = (
    "proxy_resolution",
    "proxy_epochs",
    "proxy_images",
    "final_epochs",
    "final_images",
    "full_epochs",
    "final_branches",
)
"""Settings that are a part of `space_digest`. They are recorded so that a message can name them."""
OPTIONAL = {
    TABLE_DIGEST, "source_digest", "start_from_content", "against_digest", "against_chosen", "teacher_digest",
    "init_from_digest", *SOURCE_CODE, *PROXY,
}  # fmt: skip
"""Settings that older run folders lack. They are compared only if both sides have them."""
RETRIED_SOURCE = "retried_source"
"""The source of a user's evaluator that evaluates failed candidates again: it was corrected, so it may differ."""
NOT_COMPARED = {TABLE_FILE, "source_content", "table_content", RETRIED_SOURCE}
"""Settings that are only recorded, or only show that two paths hold the same."""
_FORMER = {**FORMER_VALUES, **FORMER_RECIPE}


def check_same_settings(folder: Path | str, stored: Mapping[str, Any], settings: Mapping[str, Any], flag: str) -> None:
    """Check that a folder holds results of the same settings.

    Args:
        folder: The folder or study, for the message.
        stored: The settings of the results in the folder.
        settings: The settings of this run.
        flag: The flag that selects another folder, for the message.

    Raises:
        RunError: A setting differs. The error names the first one, and its file if its content differs.
    """
    keys = {*stored, *settings} - NOT_COMPARED
    if IMAGES_KEY not in stored or IMAGES_KEY not in settings:
        keys -= {IMAGES_KEY}
    elif stored[IMAGES_KEY] == settings[IMAGES_KEY]:
        keys -= {"data"}  # the same images in a folder with another name
    for key in sorted(keys, key=lambda key: (key in FILES_OF, key in SOURCE_CODE, key)):
        if not same_setting(key, stored, settings):
            raise RunError(
                f"holds another experiment: {difference(key, stored, settings)}; give another {flag}", where=folder
            )


def same_setting(key: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Return whether a setting is the same on both sides: equal, or the same file, or a file with the same content."""
    there, now = (each.get(key, _FORMER.get(key)) for each in (stored, settings))
    if there == now or (key in OPTIONAL and not {key} <= stored.keys() & settings.keys()):
        return True
    if key == "start_from_digest":  # it contains the names
        return _same_digest("start_from_content", stored, settings)
    if key not in PATHS:
        return False
    return any(_same_digest(digest, stored, settings) for digest in PATHS[key]) or _resolved(there) == _resolved(now)


def with_new_settings(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings with the settings that an older version did not record."""
    return {**{key: value for key, value in settings.items() if key in OPTIONAL | NOT_COMPARED}, **stored}


def content_digest(files: Iterable[Path]) -> str:
    """Return sixteen hex digits of the SHA-256 of the bytes of the files, in their order. Raises OSError."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _same_digest(key: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return stored.get(key) is not None and stored.get(key) == settings.get(key)


def _resolved(value: Any) -> Any:
    """Return the absolute path of a text, or of each text in a list; any other value as it is."""
    if isinstance(value, list | tuple):
        return [_resolved(item) for item in value]
    return str(Path(value).expanduser().resolve()) if isinstance(value, str) and value else value


def difference(key: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return in words how a setting differs. A digest is not shown: the file is named instead."""
    there, now = (each.get(key, _FORMER.get(key)) for each in (stored, settings))
    if key == IMAGES_KEY:
        return "data: images were replaced, added or removed since this run began"
    if key in SOURCE_CODE and isinstance(there, Mapping) and isinstance(now, Mapping):
        return _changed_sources(key, there, now)
    if key in FILES_OF:
        words, file = FILES_OF[key]
        names = settings.get(file) or settings.get("accuracies")
        name = ", ".join(names) if isinstance(names, list | tuple) else str(names or "")
        if key == TABLE_DIGEST:
            return f"{key} is not the same: the {words} {name} is another one, or has changed since this run began"
        return f"{words}: {f'{name} ' if name else ''}has changed since this run began"
    if key == RESOLUTION:
        there, now = (", ".join(map(str, sizes)) if sizes else "the space's own" for sizes in (there, now))
        return f"{key} is {there} there and {now} now"
    return f"{key} is {there!r} there and {now!r} now"


def _changed_sources(key: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first source file that differs: changed, no longer used, or new."""
    changed = sorted(name for name in there.keys() & now.keys() if there[name] != now[name])
    name = (changed or sorted({*there} ^ {*now}))[0]
    verb = "has changed" if changed else "was added" if name in now else "was removed"
    return f"{key.replace('_', ' ')}: {name} {verb} since this run began"
