"""The input resolutions of a space: reading them, and a space at other ones than those of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from nas.architecture import RGB_SQUARE, height_and_aspect
from nas.errors import SpaceError, UsageError
from nas.networks.network import trace
from nas.spaces.search_space import Space

Size = int | str
"""An input in pixels: 224 for a square, or "192x256", height and width."""


def sizes_of(space: Space) -> list[Size]:
    """Return the input sizes of a space as files and messages name them."""
    return [space.input.size(height) for height in space.resolution]


def with_sizes(space: Space, sizes: Sequence[Size]) -> Space:
    """Return the space with the input sizes `sizes`. A number is a height whose width keeps the space's aspect ratio.

    Sizes that `sizes_of` gives for a space of this aspect ratio keep it, although their widths are rounded.

    Raises:
        SpaceError: The sizes differ in aspect ratio.
    """
    if not sizes:
        return space
    numbers = tuple(size if isinstance(size, int) else height_and_aspect(size, space.name)[0] for size in sizes)
    kept = replace(space, resolution=numbers)
    if all(isinstance(size, int) or size == own for size, own in zip(sizes, sizes_of(kept), strict=True)):
        return kept
    heights, aspect = one_aspect(list(sizes), space.name)
    return replace(space, resolution=heights, input=replace(space.input, aspect=aspect))


def one_aspect(sizes: Any, where: object) -> tuple[tuple[int, ...], Fraction]:
    """Return the heights of one or several sizes, and the aspect ratio that they share.

    Args:
        sizes: One size or a list of sizes. A size is a whole number, "192x256", or in a list also [192, 256].
        where: The file, as errors name it.

    Raises:
        SpaceError: One is no size, is there twice, or has another aspect ratio than the first.
    """
    given = sizes if isinstance(sizes, list) else [sizes]
    if not given:
        raise SpaceError("a choice needs at least one value", where=where, key="resolution", value=[])
    found = [height_and_aspect(size, where) for size in given]
    if len(set(found)) < len(found):
        raise SpaceError("a choice must not offer a value twice", where=where, key="resolution", value=sizes)
    if len({aspect for _, aspect in found}) > 1:
        rule = "all sizes of a space must have the same aspect ratio"
        raise SpaceError(rule, where=where, key="resolution", value=sizes)
    return tuple(height for height, _ in found), found[0][1]


def as_rectangle(space: Space) -> Space:
    """Return the network of a file whose only choice is `resolution: [height, width]`; others as they are.

    In the file of a space, two numbers are a choice of two squares. One network has no choices.
    """
    if set(space.choices) != {"resolution"} or len(space.resolution) != 2 or space.input.aspect != RGB_SQUARE.aspect:
        return space
    height, width = space.resolution
    return replace(space, resolution=(height,), input=replace(space.input, aspect=Fraction(width, height)))


def at_resolutions(space: Space, sizes: Sequence[Size]) -> Space:
    """Return the space at other input sizes; without any, as it is. See `with_sizes`.

    Raises:
        UsageError: The sizes differ in aspect ratio, or a network of the space cannot be built for one of them.
    """
    try:
        resized = with_sizes(space, sizes)
    except SpaceError as error:
        raise UsageError(error.rule, key="resolution", value=",".join(map(str, sizes))) from error
    for height in resized.resolution if sizes else ():
        if problem := build_problem(resized, height):
            rule = f"networks of '{space.name}' cannot be built for it ({problem})"
            raise UsageError(rule, key="resolution", value=resized.input.size(height))
    return resized


def build_problem(space: Space, height: int) -> str:
    """Return why networks of a space cannot be built for inputs of so many pixels; "" if they can."""
    for end in (0, -1):
        try:
            trace(space.decode({key: values[end] for key, values in space.choices.items()}).at(height))
        except SpaceError as error:
            return str(error)
    return ""
