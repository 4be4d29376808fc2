"""Independent implementations, by walking a space, of what `EncodedSpace` and `SpaceCosts` compute with arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nas.architecture import Architecture, Scalar
from nas.spaces.cost_tables import Codes, SpaceCosts
from nas.spaces.search_space import Choices, Space


def active(space: Space, choices: Choices) -> dict[str, Scalar]:
    """Return the active choices. Raises KeyError for a missing one."""
    return space.walk(lambda key, _: choices[key])[1]


def encode(space: Space, choices: Choices) -> tuple[int, ...]:
    """Return the index of every choice's value, -1 for an inactive one."""
    found = active(space, choices)
    return tuple(values.index(found[key]) if key in found else -1 for key, values in space.choices.items())


def neighbours(space: Space, choices: Choices) -> Iterator[dict[str, Scalar]]:
    """Yield choices with one active choice changed. Newly active choices take their first value."""
    given = active(space, choices)
    for key, value in given.items():
        for other in space.choices[key]:
            if other != value:
                changed = {**given, key: other}
                yield space.walk(lambda k, values, changed=changed: changed.get(k, values[0]))[1]  # type: ignore[misc]


def code_of(compiled: SpaceCosts, arch: Architecture) -> Codes:
    """Return the code, (tables,), of an architecture."""
    path = np.asarray(compiled.automaton.path(arch), np.intp)
    parts = np.split(path, np.cumsum([len(table.steps) for table in compiled.tables])[:-1])
    rows = [int(table.row(list(part))) for table, part in zip(compiled.tables, parts, strict=True)]
    return np.array(rows, compiled.dtype)
