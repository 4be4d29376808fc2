"""A space at other input resolutions than those of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.errors import SpaceError, UsageError
from nas.networks.network import trace
from nas.spaces.search_space import Space


def at_resolutions(space: Space, sizes: Sequence[int]) -> Space:
    """Return the space with other input resolutions in pixels; without any, as it is.

    Raises:
        UsageError: A network of the space cannot be built for one of them.
    """
    for size in sizes:
        if problem := build_problem(space, size):
            rule = f"networks of '{space.name}' cannot be built for it ({problem})"
            raise UsageError(rule, key="resolution", value=size)
    return replace(space, resolution=tuple(sizes)) if sizes else space


def build_problem(space: Space, size: int) -> str:
    """Return why networks of a space cannot be built for inputs of `size` pixels; "" if they can."""
    for end in (0, -1):
        try:
            trace(space.decode({key: values[end] for key, values in space.choices.items()}).at(size))
        except SpaceError as error:
            return str(error)
    return ""
