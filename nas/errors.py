"""Errors in the user's input. The command line prints one line and exits with status 2, without a traceback."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

NOT_GIVEN: Any = object()
"""The value of an error that is not about one value."""


class NasError(ValueError):
    """Bad input, in one line: "where: key: rule: value; did you mean 'x'?". Parts that are not given are left out.

    Args:
        rule: What must hold, or what is wrong: "must be at least 1". A whole message is a rule too.
        where: The file, folder or device that holds the bad input.
        key: The setting or the key in the file.
        value: The bad value.
        nearest: The closest valid value, as `nas.utils.registry.nearest` spells it: "; did you mean 'x'?".
    """

    def __init__(
        self, rule: str, *, where: object = "", key: str = "", value: object = NOT_GIVEN, nearest: str = ""
    ) -> None:
        self.rule, self.where, self.key, self.value, self.nearest = rule, str(where), key, value, nearest
        shown = "" if value is NOT_GIVEN else repr(value)
        parts = (self.where, self.spelled_key, rule, shown)
        super().__init__(": ".join(part for part in parts if part) + nearest)

    @property
    def spelled_key(self) -> str:
        """The key as the message shows it."""
        return self.key


class UsageError(NasError):
    """A setting, or a combination of settings, is wrong. `key` is the setting's name: "proxy_epochs"."""

    @property
    def spelled_key(self) -> str:
        """The key as the flag of the command line: "--proxy-epochs"."""
        return f"--{self.key.replace('_', '-')}" if self.key else ""


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
