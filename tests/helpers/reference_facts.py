"""What the independent counts in ../shared/facts say differently from the files of this project."""

from __future__ import annotations

from typing import Any

WITH_BACKGROUND = ("ssd", "dsod")
"""Parts of the names of detectors whose classes the facts count with the background."""


def foreground(model: dict[str, Any]) -> int:
    """Return the number of classes of a model in the facts, without the background that the head adds itself."""
    classes = int(model["num_classes"])
    return (
        classes - 1
        if any(part in model["id"] for part in WITH_BACKGROUND) and "backbone" not in model["id"]
        else classes
    )
