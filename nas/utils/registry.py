"""Registries: look up a name in a package's table or among the entry points of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from nas.errors import NasError, UsageError, one_line

T = TypeVar("T")


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that resembles `name` most, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.55)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name.

    This is "; did you mean 'x'?" with the closest known name. If none is similar, it lists the known names.
    """
    names = sorted(known)
    close = closest(name, names)
    if close is not None:
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(names)}" if names else ""


def lookup(table: Mapping[str, T], name: str, kind: str, where: str = "", error: type[NasError] = UsageError) -> T:
    """Return `table[name]`, or the entry point `name` of the group `nas.<kind>s`.

    Args:
        table: The names of this package.
        name: The name to find.
        kind: What it names, in the singular: "block".
        where: The place of the name in the user's input: "search_spaces/x.yaml, stage 3".
        error: The class of the error to raise.

    Raises:
        NasError: The name is unknown, or the installed package cannot be imported. The error is an instance of
            `error` and holds the nearest known name.
    """
    if name in table:
        return table[name]
    plugin = _plugins(_group(kind))
    if name in plugin:
        loaded: T = _load(plugin[name], kind, where, error)
        return loaded
    raise error(f"unknown {kind} {name!r}", where=where, nearest=nearest(name, [*table, *plugin]))


def entries(table: Mapping[str, T], kind: str, warn: Callable[[str], None]) -> dict[str, tuple[T, str]]:
    """Return everything that `lookup` can find, with its origin: "" for `table`, else "module:name of package".

    Args:
        table: The names of this package.
        kind: What they name, in the singular.
        warn: Receives a warning about each entry point that cannot be imported or that `table` hides.
    """
    found = {name: (thing, "") for name, thing in table.items()}
    for name, point in _plugins(_group(kind)).items():
        if name in table:
            warn(f"the {kind} '{name}' of {_origin(point)} is ignored: nas has a {kind} of this name")
            continue
        try:
            found[name] = (_load(point, kind, "cannot be imported", UsageError), _origin(point))
        except NasError as error:
            warn(str(error))
    return found


def _load(point: Any, kind: str, where: str, error: type[NasError]) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as cause:
        rule, plugged = f"{type(cause).__name__}: {one_line(cause)}", f", the {kind} of {_origin(point)}"
        raise error(rule, where=where, value=point.name, nearest=plugged) from cause


def _origin(point: Any) -> str:
    """Return where an entry point comes from: "module:name", and the installed package if it is known."""
    package = getattr(point, "dist", None)
    return f"{point.value} of {package.name} {package.version}" if package else str(point.value)


def plugin_module(table: Mapping[str, Any], name: str, kind: str) -> str | None:
    """Return the dotted name of the module from which `lookup` loads `name`; None for a name in `table`."""
    point = None if name in table else _plugins(_group(kind)).get(name)
    return point.module if point else None


def _group(kind: str) -> str:
    return f"nas.{kind.replace(' ', '_')}s"


def _plugins(group: str) -> dict[str, Any]:
    """Return the entry points of installed packages by name."""
    from importlib.metadata import entry_points

    try:
        return {point.name: point for point in entry_points(group=group)}
    except TypeError:  # Python 3.9 on a device does not support `group`; plug-ins are not needed there
        return {}
