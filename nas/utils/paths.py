"""Paths of the files that ship with the project and of the user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def shipped(folder: str) -> Path:
    """Return the path of a shipped folder: "search_spaces", "latency_tables" or "experiments".

    Works both in a checkout and in an installed wheel.
    """
    package = Path(__file__).parent.parent
    installed = package / "_data" / folder
    return installed if installed.is_dir() else package.parent / folder


def user_cache() -> Path:
    """Return the folder for measurements and downloads: $NAS_CACHE, or the platform's cache (~/.cache/nas on Linux)."""
    from platformdirs import user_cache_path

    explicit = os.environ.get("NAS_CACHE")
    return Path(explicit).expanduser() if explicit else user_cache_path("nas", appauthor=False)
