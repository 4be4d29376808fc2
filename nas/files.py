"""Files that survive a crash: written whole or not at all, or appended line by line and cut back to whole lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def drop_cut_line(file: IO[bytes]) -> int:
    """Cut an open file back to its last whole line, go to its end, and return its length."""
    file.seek(0)
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return end
