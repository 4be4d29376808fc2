"""Architectures: small, immutable, hashable values that describe a network.

This module needs only the standard library, so that architectures can be read and stored without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from nas.errors import SpaceError

Scalar = bool | int | float | str
Shape = tuple[int, int, int]
"""(channels, height, width), without the batch."""
CHANNELS = {1: "gray", 3: "RGB", 4: "RGB and alpha"}
"""The numbers of channels that an input can have."""


@dataclass(frozen=True)
class InputFormat:
    """What a network's input is, apart from its height.

    Attributes:
        channels: One of `CHANNELS`.
        aspect: Width over height.
    """

    channels: int = 3
    aspect: Fraction = Fraction(1)

    def shape(self, height: int) -> Shape:
        """Return channels, height and width of an input of `height` pixels."""
        return self.channels, height, max(1, round(height * self.aspect))

    def exact(self, height: int) -> InputFormat:
        """Return the format whose aspect ratio is exactly that of an input of `height` pixels: its width is rounded."""
        if self.aspect == 1:
            return self
        _, _, width = self.shape(height)
        return replace(self, aspect=Fraction(width, height))

    def side(self, height: int) -> float:
        """Return the side in pixels of the square that has as many pixels as an input of `height` pixels."""
        _, height, width = self.shape(height)
        return math.sqrt(height * width)

    def size(self, height: int) -> int | str:
        """Return the size of an input as files and messages name it: 224 for a square, otherwise "192x256"."""
        _, height, width = self.shape(height)
        return height if height == width else f"{height}x{width}"


RGB_SQUARE = InputFormat()
SIZE = re.compile(r"\s*(\d{1,9})\s*[xX]\s*(\d{1,9})\s*", re.ASCII)
"""Height and width of an input, as "192x256"."""


@dataclass(frozen=True)
class BlockSpec:
    """One block.

    Attributes:
        op: The block's name in `nas.networks.blocks.BLOCKS`.
        args: The keywords that differ from the defaults of the block's class, sorted by name.
    """

    op: str
    args: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def of(cls, op: str, args: Mapping[str, Scalar]) -> BlockSpec:
        """Return the spec of the block `op` with `args` in canonical order."""
        return cls(op, tuple(sorted(args.items())))

    @cached_property
    def kwargs(self) -> dict[str, Scalar]:
        """The arguments as keywords of the block's class."""
        return dict(self.args)

    def with_args(self, args: Mapping[str, Scalar]) -> BlockSpec:
        """Return the same block with `args` added to its arguments or in place of them."""
        return BlockSpec.of(self.op, {**self.kwargs, **args})

    def __str__(self) -> str:
        return f"{self.op}({', '.join(f'{key}={value}' for key, value in self.args)})"

    def to_dict(self) -> dict[str, Scalar]:
        """Return {"block": op, **args}."""
        return {"block": self.op, **self.kwargs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "block") -> BlockSpec:
        """Return the spec from its `to_dict` form. Raises SpaceError if `data` is not one."""
        if not isinstance(data, Mapping) or not isinstance(data.get("block"), str):
            raise SpaceError("a block must be a mapping with a key 'block'", where=where, value=data)
        args = {key: value for key, value in data.items() if key != "block"}
        for key, value in args.items():
            if not isinstance(key, str) or not isinstance(value, Scalar):
                raise SpaceError(f"'{key}' must be a number, a word or true/false", where=where, value=value)
        return cls.of(data["block"], args)


@dataclass(frozen=True)
class Architecture:
    """A network.

    Attributes:
        resolution: Height of the input in pixels, and its width unless `input` says otherwise.
        stages: The blocks of each stage, in order.
        head: The block after the stages and the neck.
        taps: The numbers of the stages whose last feature maps are kept for neck and head, the last stage among them.
            Without taps, they read the last feature map.
        neck: The blocks of each stage of the neck, in order.
        input: The channels and the aspect ratio of the input.
    """

    resolution: int
    stages: tuple[tuple[BlockSpec, ...], ...]
    head: BlockSpec
    taps: tuple[int, ...] = ()
    neck: tuple[tuple[BlockSpec, ...], ...] = ()
    input: InputFormat = RGB_SQUARE

    @cached_property
    def digest(self) -> str:
        """The identifier of this architecture: 16 hex digits of the SHA-256 of its canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def input_shape(self) -> Shape:
        """Channels, height and width of the input."""
        return self.input.shape(self.resolution)

    @property
    def input_size(self) -> int | str:
        """The size of the input in pixels: 224 for a square, otherwise "192x256"."""
        return self.input.size(self.resolution)

    @property
    def slots(self) -> tuple[tuple[BlockSpec, ...], ...]:
        """The blocks of the stages, then of the stages of the neck, and the head alone."""
        return (*self.stages, *self.neck, (self.head,))

    def blocks(self) -> Iterator[BlockSpec]:
        """Yield the blocks of all stages and of the neck in order, without the head."""
        for stage in (*self.stages, *self.neck):
            yield from stage

    def at(self, resolution: int) -> Architecture:
        """Return the same network for inputs of another height, with the same aspect ratio but for rounding."""
        return replace(self, resolution=resolution, input=self.input.exact(resolution))

    def sized(self, size: int | str) -> Architecture:
        """Return the same network for inputs of another size: a height, see `at`, or height and width as "192x256"."""
        if isinstance(size, int):
            return self.at(size)
        height, aspect = height_and_aspect(size, "")
        return replace(self, resolution=height, input=replace(self.input, aspect=aspect))

    def with_input(self, input_format: InputFormat) -> Architecture:
        """Return the same network for inputs of the same height in another format."""
        return replace(self, input=input_format.exact(self.resolution))

    def for_classes(self, num_classes: int) -> Architecture:
        """Return the same network with a head for `num_classes` classes."""
        return replace(self, head=self.head.with_args({"num_classes": num_classes}))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: {"resolution", "stages": [[block, ...], ...], "neck", "head"[, "taps", "channels"]}.

        "resolution" is [height, width] if the input is no square, and "channels" is left out if there are three.
        """
        channels, height, width = self.input_shape
        return {
            "resolution": height if height == width else [height, width],
            "stages": _to_lists(self.stages),
            "neck": _to_lists(self.neck) if self.neck else None,  # the key is part of every digest
            "head": self.head.to_dict(),
            **({"taps": list(self.taps)} if self.taps else {}),
            **({} if channels == RGB_SQUARE.channels else {"channels": channels}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "architecture") -> Architecture:
        """Return the architecture from its `to_dict` form. Raises SpaceError if `data` is not one."""
        try:
            stages = _from_lists(data["stages"], f"{where}, stage")
            resolution, aspect = height_and_aspect(data["resolution"], where)
            return cls(
                resolution=resolution,
                stages=stages,
                head=BlockSpec.from_dict(data["head"], f"{where}, head"),
                taps=_checked_taps(data.get("taps") or (), len(stages), where),
                neck=_from_lists(data.get("neck") or (), f"{where}, neck"),
                input=InputFormat(checked_channels(data.get("channels", RGB_SQUARE.channels), where), aspect),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"not an architecture: {error!r}", where=where) from error


def height_and_aspect(size: Any, where: object) -> tuple[int, Fraction]:
    """Return the height of an input, and its width over its height.

    Args:
        size: Pixels of a square's side, [height, width], or "192x256".
        where: The file, as errors name it.

    Raises:
        SpaceError: The size is none of these, or a side is below 1.
    """
    given = SIZE.fullmatch(size) if isinstance(size, str) else None
    sides = [int(side) for side in given.groups()] if given else size if isinstance(size, list | tuple) else [size] * 2
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        is_number = isinstance(size, int) and not isinstance(size, bool)
        rule = "must be a whole number of at least 1" + ("" if is_number else ", or height and width as 192x256")
        raise SpaceError(rule, where=where, key="resolution", value=size)
    return sides[0], Fraction(sides[1], sides[0])


def checked_channels(channels: Any, where: object) -> int:
    """Return a number of channels. Raises SpaceError if it is not one of `CHANNELS`."""
    if isinstance(channels, bool) or not isinstance(channels, int) or channels not in CHANNELS:
        known = ", ".join(f"{number} ({name})" for number, name in CHANNELS.items())
        raise SpaceError(f"must be one of {known}", where=where, key="channels", value=channels)
    return channels


def _to_lists(stages: tuple[tuple[BlockSpec, ...], ...]) -> list[list[dict[str, Scalar]]]:
    return [[block.to_dict() for block in stage] for stage in stages]


def _from_lists(stages: Any, where: str) -> tuple[tuple[BlockSpec, ...], ...]:
    return tuple(
        tuple(BlockSpec.from_dict(block, f"{where} {index}, layer {position}") for position, block in enumerate(stage))
        for index, stage in enumerate(stages)
    )


def _checked_taps(taps: Any, stages: int, where: str) -> tuple[int, ...]:
    """Return the taps. Raises SpaceError unless they are the numbers of stages, in order, and end with the last."""
    found = tuple(int(tap) for tap in taps)
    if found and (list(found) != sorted(set(found)) or found[0] < 0 or found[-1] != stages - 1):
        rule = f"must be the numbers of stages in ascending order, and end with the last one, {stages - 1}"
        raise SpaceError(rule, where=where, key="taps", value=list(found))
    return found
