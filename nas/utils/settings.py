"""Settings: dataclass fields that carry their help text, bounds and format.

A field is the only place that names a setting's default, type, bound and help. The flags of the command line
(`nas.cli.flags`), the checks of values and the types in YAML files are derived from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.errors import NasError, UsageError
from nas.utils.registry import lookup, nearest

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """One setting of a dataclass.

    Attributes:
        field: The dataclass field: its name, type and default.
        help: What the setting does, in one line.
        group: The title under which `--help` lists the flag.
        metavar: The placeholder of the value in `--help`; "" stands for N or NAME, by the type.
        minimum: The smallest valid number.
        choices: The valid texts.
        parse: Parses the text, or each of several. Called with the text and the setting's name. Raises UsageError.
        without_value: What the flag means when it is given without a value; None makes the value obligatory.
        default_help: How `--help` shows the default; "{}" stands for its value, "" hides it.
    """

    field: dataclasses.Field[Any]
    help: str
    group: str = ""
    metavar: str = ""
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str, str], object] | None = None
    without_value: str | None = None
    default_help: str = "{}"

    @property
    def flag(self) -> str:
        """The flag of the command line: "--proxy-epochs"."""
        return f"--{self.field.name.replace('_', '-')}"

    @property
    def types(self) -> tuple[str, ...]:
        """The names of the valid types: ("str", "list[str]", "None")."""
        return tuple(str(self.field.type).split(" | "))

    @property
    def full_help(self) -> str:
        """The help text, followed by the default where there is one."""
        default = self.field.default
        is_empty = default is None or default is False or default == ""
        if not self.default_help or (self.default_help == "{}" and is_empty):
            return self.help
        shown = f"{default:g}" if isinstance(default, float) else default
        return f"{self.help} (default: {self.default_help.format(shown)})"

    def check(self, value: Any) -> None:
        """Raise UsageError when a value is below the minimum, not among the choices, or not in the format."""
        name = self.field.name
        if self.minimum is not None and value < self.minimum:
            raise UsageError(f"must be at least {self.minimum:g}", key=name, value=value)
        if self.choices:
            lookup(dict.fromkeys(self.choices), value, name, self.flag)
        if self.parse:
            for text in [value] if isinstance(value, str) else value or ():
                if text:
                    self.parse(text, name)


def setting(default: Any, help: str, **options: Any) -> Any:  # noqa: A002 (argparse's word)
    """Return a dataclass field with a default and the facts that `Setting` documents."""
    return field(default=default, metadata={_KEY: {"help": help, **options}})


def settings_of(kind: type) -> Iterator[Setting]:
    """Yield the settings of a dataclass in the order of its fields."""
    for each in dataclasses.fields(kind):
        if _KEY in each.metadata:
            yield Setting(each, **each.metadata[_KEY])


def check_fields(settings: Any, without: tuple[str, ...] = ()) -> None:
    """Raise UsageError for the first field of a dataclass instance whose value is invalid.

    Args:
        settings: An instance of a dataclass whose fields `setting` has made.
        without: The names of fields that are not checked.
    """
    for each in settings_of(type(settings)):
        if each.field.name not in without:
            each.check(getattr(settings, each.field.name))


def check_types(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Raise NasError for the first of `values` that is no setting of `kind` or has another type.

    Args:
        kind: The dataclass of the settings.
        values: The values of a file by name.
        where: The file, for the message.
    """
    known = {each.field.name: each for each in settings_of(kind)}
    for key, value in values.items():
        if key not in known:
            raise NasError(f"unknown setting '{key}'{nearest(str(key), known)}", where=where)
        types = known[key].types
        if _type_name(value) not in (*types, *(["int"] if "float" in types else [])):
            raise NasError(f"{key} must be of type {types[0]}", where=where, value=value)


def _type_name(value: object) -> str:
    """Return the name of a value's type as a field spells it: "list[str]" for a list of texts."""
    names = {type(item).__name__ for item in value} if isinstance(value, list) else set()
    return f"list[{names.pop()}]" if len(names) == 1 else type(value).__name__
