"""What can be wrong with what a user gave: one line, exit status 2, never a traceback."""

from __future__ import annotations

import traceback
from pathlib import Path


class NasError(ValueError):
    """A mistake in the input. The message names the file or flag, the key, the rule and the value."""


class UsageError(NasError):
    """A flag of the command line, or a combination of flags, is wrong."""


class SpaceError(NasError):
    """A search-space file, a block or an architecture is wrong."""


class DataError(NasError):
    """A data set or a table of accuracies is missing, broken or does not fit the space."""


class TableError(NasError):
    """A latency table is broken, of another device, or does not cover what was asked."""


class DeviceError(NasError):
    """A device or one of its runtimes cannot be used."""


class LostError(DeviceError):
    """The connection to a device, or its worker, ended in the middle: another try may succeed."""


class RunError(NasError):
    """A run folder is of another experiment, in use, or unreadable."""


class ExportError(NasError):
    """An exported network does not compute what the searched one computes."""


class WeightsError(NasError):
    """A checkpoint is unreadable, of another network, or does not exist."""


def reason(error: BaseException) -> str:
    """Return in one line what went wrong: a mistake that we name as it is, anything else with its type and place."""
    message = " ".join(str(error).split())
    message = message if len(message) <= 300 else f"{message[:297]}..."
    if isinstance(error, NasError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{place}" if message else f"{type(error).__name__}{place}"
