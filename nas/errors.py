"""Exceptions: one class per kind of invalid input. The command line prints one line and exits with status 2."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_GIVEN: Any = object()
"""The value of an error that is not about one value."""
LONGEST = 300
"""Characters of a foreign error message to show."""


class NasError(ValueError):
    """Invalid input. The message is one line: "where: key: rule: value; did you mean 'x'?", without empty parts.

    Args:
        rule: What must hold, or what is wrong: "must be at least 1". It can also be the whole message.
        where: The file, folder or device that holds the invalid input.
        key: The setting, or the key in the file.
        value: The invalid value.
        nearest: The end of the message, with the closest valid value; see `nas.utils.registry.nearest`.
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
    """A setting, or a combination of settings, is invalid. `key` is the setting's name: "proxy_epochs"."""

    @property
    def spelled_key(self) -> str:
        """The key as a command-line flag: "--proxy-epochs"."""
        return f"--{self.key.replace('_', '-')}" if self.key else ""


class SpaceError(NasError):
    """A search-space file, a block or an architecture is invalid."""


class DataError(NasError):
    """A data set or a table of accuracies is missing, broken or does not fit the space."""


class TableError(NasError):
    """A latency table is broken, belongs to another device, or does not cover a requested network."""


class DeviceError(NasError):
    """A device or one of its runtimes is unusable."""


class LostError(DeviceError):
    """The connection to a device, or its worker, ended unexpectedly. A retry may succeed."""


class RunError(NasError):
    """A run folder belongs to another experiment, is in use, or is unreadable."""


class ExportError(NasError):
    """An exported network does not run, or its output differs from the original's."""


class WeightsError(NasError):
    """A checkpoint is missing, unreadable, or belongs to another network."""


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """Add the file that an architecture or a space comes from to every SpaceError that does not name it."""
    try:
        yield
    except SpaceError as error:
        if error.where.startswith(str(where)):
            raise
        raise _at(f"{where}, {error.where}" if error.where else where, error) from error


@contextlib.contextmanager
def naming_file(name: str | None) -> Iterator[None]:
    """Add the name of a YAML or JSON file, or of a run folder, to SpaceErrors about the networks that it describes.

    `where` is then "my.yaml, stage 1, layer 0". Does nothing for the name of a shipped space or network.
    """
    try:
        yield
    except SpaceError as error:
        path = Path(name or "")
        place = error.where.removeprefix(f"{path.stem}, ")
        is_file = path.suffix in (".yaml", ".yml", ".json") or (name and path.is_dir())
        if not is_file or not re.match(r"(stage|head)\b", place):
            raise
        raise _at(f"{name}, {place}", error) from error


def _at(where: object, error: SpaceError) -> SpaceError:
    """Return the same error at another place."""
    return SpaceError(error.rule, where=where, key=error.key, value=error.value, nearest=error.nearest)


def one_line(error: BaseException | str) -> str:
    """Return the message of an error, or a text, in one line of at most 300 characters."""
    message = " ".join(str(error).split())
    return message if len(message) <= LONGEST else f"{message[: LONGEST - 3]}..."


def reason(error: BaseException) -> str:
    """Return an error in one line: a NasError's message, or the type, message and place of any other."""
    message = one_line(error)
    if isinstance(error, NasError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{place}" if message else f"{type(error).__name__}{place}"
