"""Forms of an exported network beside those of the runtimes: what each gets, and what it says of its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nas.architecture import Architecture


@dataclass(frozen=True)
class Source:
    """A network that is exported.

    Attributes:
        arch: The architecture.
        model: Its network with weights, in eval mode.
        folder: The folder that the form is written to. It holds model.py and model.safetensors.
        card: The content of card.json.
    """

    arch: Architecture
    model: nn.Module
    folder: Path
    card: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A form that was written.

    Attributes:
        file: The name of the file or folder.
        not_checked: Why its output could not be compared with the network's here; "" if it was.
    """

    file: str
    not_checked: str = ""


Form = Callable[[Source], Written]
"""Writes a form of a network and compares its output. Raises ExportError if it differs, or cannot be expressed."""
