"""Flags: the command line's view of settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nas.utils.settings import Setting, settings_of

Flags = dict[str, tuple[dict[str, Any], str]]
"""Options of `add_argument` and help text, by the flag's name without its dashes."""
TEXT: dict[str, Any] = {"metavar": "NAME"}
NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
REAL: dict[str, Any] = {"type": float, "metavar": "X"}
SWITCH: dict[str, Any] = {"action": "store_true"}


def flag_options(setting: Setting) -> dict[str, Any]:
    """Return the options of `add_argument` for a setting: how often it may be given, its type and metavar."""
    if "bool" in setting.types:
        return SWITCH
    numeric = NUMBER if "int" in setting.types else REAL if "float" in setting.types else TEXT
    options = {**numeric, **({"metavar": setting.metavar} if setting.metavar else {})}
    if setting.without_value is not None:
        options |= {"nargs": "?", "const": setting.without_value}
    return {**options, **({"action": "append"} if "list[str]" in setting.types else {})}


def flags_of(kind: type, *names: str, defaults: Mapping[str, str] | None = None) -> Flags:
    """Return the flags of a dataclass's settings.

    Args:
        kind: The dataclass.
        names: The names of the fields; none means all.
        defaults: How `--help` shows defaults that differ from those of the dataclass, by field; "" hides one.
    """
    found: Flags = {}
    for setting in settings_of(kind):
        name = setting.field.name
        if name in names or not names:
            shown = replace(setting, default_help=(defaults or {}).get(name, setting.default_help))
            found[name.replace("_", "-")] = flag_options(setting), shown.full_help.replace("%", "%%")
    return found


def groups_of(kind: type) -> dict[str, Flags]:
    """Return the flags of a dataclass's settings by the title of their group."""
    titles = dict.fromkeys(setting.group for setting in settings_of(kind))
    members = {title: [each.field.name for each in settings_of(kind) if each.group == title] for title in titles}
    return {title: flags_of(kind, *names) for title, names in members.items()}


def add_groups(parser: argparse.ArgumentParser, groups: Mapping[str, Flags]) -> None:
    """Add groups of flags to a parser. A flag that is not given is None, so that it changes no setting."""
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag, (options, text) in flags.items():
            group.add_argument(f"--{flag}", help=text, default=None, **options)
