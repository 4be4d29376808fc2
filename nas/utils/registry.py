"""Names to things: one plain dict per package, entry points of installed packages beside it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from nas.errors import NasError, UsageError

T = TypeVar("T")


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the entry of `known` that is spelled most like `name`, or None if none is similar."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.55)
    return close[0] if close else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or the list of them when none is close."""
    names = sorted(known)
    close = closest(name, names)
    if close is not None:
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(names)}" if names else ""


def lookup(table: Mapping[str, T], name: str, kind: str, where: str = "", error: type[NasError] = UsageError) -> T:
    """Return `table[name]`, or the entry point `name` of the group `nas.<kind>s`.

    `kind` is the singular ("block"), `where` the place of the name ("search_spaces/x.yaml, stage 3").
    Raises `error` with the nearest known name when nothing is called so.
    """
    if name in table:
        return table[name]
    plugin = _plugins(_group(kind))
    if name in plugin:
        loaded: T = plugin[name].load()
        return loaded
    place = f"{where}: " if where else ""
    raise error(f"{place}unknown {kind} {name!r}{nearest(name, [*table, *plugin])}")


def entries(table: Mapping[str, T], kind: str) -> dict[str, T]:
    """Return all that `lookup` finds: the entries of `table`, then those of installed packages, which are loaded."""
    plugin = _plugins(_group(kind))
    return {**table, **{name: point.load() for name, point in plugin.items() if name not in table}}


def _group(kind: str) -> str:
    return f"nas.{kind.replace(' ', '_')}s"


def _plugins(group: str) -> dict[str, Any]:
    """Return the entry points of installed packages by name."""
    from importlib.metadata import entry_points

    try:
        return {point.name: point for point in entry_points(group=group)}
    except TypeError:  # Python 3.9, on a device: its own runtimes are all there are
        return {}
