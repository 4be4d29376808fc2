"""Where the files that ship with the project lie, from a checkout and from an installed wheel alike."""

from __future__ import annotations

import os
from pathlib import Path


def shipped(folder: str) -> Path:
    """Return the folder "search_spaces", "latency_tables" or "experiments" that came with this install."""
    package = Path(__file__).parent.parent
    installed = package / "_data" / folder
    return installed if installed.is_dir() else package.parent / folder


def user_cache() -> Path:
    """Return the folder of what was measured or downloaded here: $NAS_CACHE, or ~/.cache/nas."""
    explicit = os.environ.get("NAS_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "nas"
