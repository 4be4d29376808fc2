"""Flags: the command line's view of settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nas.utils.settings import Setting, settings_of

Flags = dict[str, tuple[dict[str, Any], str]]
"""Options of `add_argument` and help text, by the flag's name without its dashes."""
TEXT: dict[str, Any] = {"metavar": "NAME"}
NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
REAL: dict[str, Any] = {"type": float, "metavar": "X"}
SWITCH: dict[str, Any] = {"action": "store_true"}
IN_EVERY_HELP = {"--json", "--quiet", "--help", "--help-all"}
"""The flags that a short help shows besides the most used ones."""


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


class ShortHelp(argparse.Action):
    """`--help` of a command with many flags: prints examples, the most used flags, and how to list the others."""

    names: Sequence[str] = ()
    examples: Sequence[str] = ()

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the short help and exit with status 0."""
        print(short_help(parser, self.names, self.examples), end="")
        parser.exit()


def add_short_help(parser: argparse.ArgumentParser, names: Sequence[str], examples: Sequence[str]) -> None:
    """Add `--help`, which prints the most used flags, and `--help-all`, which prints all.

    Args:
        parser: The parser of a command, made without argparse's own `--help`.
        names: The most used flags by destination: "target_latency". Those that the command lacks are ignored.
        examples: Command lines to print.
    """
    action = parser.add_argument(
        "-h", "--help", action=ShortHelp, nargs=0, dest=argparse.SUPPRESS, help="show the most used flags and exit"
    )
    action.names, action.examples = names, examples  # type: ignore[attr-defined]
    parser.add_argument("--help-all", action="help", help="show all flags and exit")


def short_help(parser: argparse.ArgumentParser, names: Sequence[str], examples: Sequence[str]) -> str:
    """Return the help of a command with few of its flags. Arguments as for `add_short_help`."""
    by_name = {action.dest: action for action in parser._actions if action.option_strings}
    flags = [by_name[name] for name in names if name in by_name]
    flags += [action for action in parser._actions if IN_EVERY_HELP & {*action.option_strings}]
    positionals = [action for action in parser._actions if not action.option_strings]
    shown = [f"[{each.metavar}]" if each.nargs == "?" else str(each.metavar) for each in positionals]
    title, most_used = parser._get_formatter(), parser._get_formatter()
    title.add_usage(" ".join(["%(prog)s", *shown, "[flags]"]), (), ())
    title.add_text(parser.description)
    most_used.start_section(f"most used of {len(parser._actions) - len(shown)} flags; --help-all shows all")
    most_used.add_arguments(flags)
    most_used.end_section()
    lines = "".join(f"  {example}\n" for example in examples)
    return f"{title.format_help()}\nexamples:\n{lines}\n{most_used.format_help()}"
