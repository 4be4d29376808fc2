"""Scaling of a detector's neck and head: channels and cells of the neck, convolutions of the head."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import arguments, traits, widths
from nas.networks.network import placed, slot_role, trace, walk
from nas.scaling.sizes import DetectorSizes, Factors, Rounding, can_repeat, scaled_count, widen_block

Stages = tuple[tuple[BlockSpec, ...], ...]


def is_detector(arch: Architecture) -> bool:
    """Whether a network has taps or a neck."""
    return bool(arch.taps or arch.neck)


def cell_stages(arch: Architecture) -> list[int]:
    """Return the numbers of the neck's stages whose last block can be repeated: it keeps the shapes of its maps."""
    last = {}
    for number, block in walk(arch):
        if slot_role(number, len(arch.stages), len(arch.neck))[0] == "neck":
            last[number - len(arch.stages)] = block
    found = []
    for number, block in last.items():
        with contextlib.suppress(SpaceError):
            is_cell = placed(block.spec, block.maps, of="neck").maps == block.maps
            found += [number] if is_cell and can_repeat(arch.neck[number]) else []
    return found


def head_layers(head: BlockSpec) -> dict[str, int]:
    """Return the numbers of layers that a head sets, by keyword."""
    return {key: int(arguments(head)[key]) for key in traits(head.op).depth_keywords}


def sizes_of(arch: Architecture) -> dict[str, int | None] | None:
    """Return the sizes of neck and head, named as in `DetectorSizes`; None for a classifier.

    A size is None if the network does not have it.
    """
    if not is_detector(arch):
        return None
    channels = [value for stage in arch.neck for spec in stage for value in widths(spec).values()]
    cells = [len(arch.neck[number]) for number in cell_stages(arch)]
    layers = list(head_layers(arch.head).values())
    return {
        "neck_channels": channels[-1] if channels else None,
        "neck_cells": sum(cells) if cells else None,
        "head_layers": layers[0] if layers else None,
    }


def detector_sizes(arch: Architecture) -> DetectorSizes:
    """Return the sizes of neck and head. Raises SpaceError if the network lacks one; `key` is the part."""
    if not arch.neck:
        raise SpaceError("this network has no neck to scale; a detector such as 'efficientdet_d0' has one", key="neck")
    if len(cell_stages(arch)) != 1 or not any(widths(spec) for stage in arch.neck for spec in stage):
        ops = ", ".join(dict.fromkeys(spec.op for stage in arch.neck for spec in stage))
        raise SpaceError("must have channels and one repeated cell, such as 'bifpn'", key="neck", value=ops)
    if len(head_layers(arch.head)) != 1:
        rule = "must have a number of layers, as 'efficientdet_head' has"
        raise SpaceError(rule, key="head", value=arch.head.op)
    return DetectorSizes(**{key: value for key, value in (sizes_of(arch) or {}).items() if value is not None})


def rule_sizes(arch: Architecture) -> DetectorSizes | None:
    """Return the sizes that EfficientDet's rule scales; None if the network lacks one of them."""
    try:
        sizes = detector_sizes(arch)
    except SpaceError:
        return None
    return sizes if min(vars(sizes).values()) >= 1 else None


def backbone_macs(arch: Architecture) -> int:
    """Return the multiply-accumulates of the stages, without neck and head."""
    return sum(layer.macs for number, block in walk(arch) if number < len(arch.stages) for layer in block.layers)


def check_resolution(arch: Architecture, resolution: int) -> None:
    """Raise SpaceError, with the stage, if a detector cannot be built at a resolution in pixels.

    Its total stride does not decide: the last maps of SSD are made by convolutions without padding.
    """
    try:
        trace(arch.at(resolution))
    except SpaceError as error:
        raise SpaceError(f"{resolution} px cannot be built: {error}", key="resolution") from error


def scale_neck_and_head(base: Architecture, scaled: Architecture, factors: Factors, rounding: Rounding) -> Architecture:
    """Return the network `scaled`, whose backbone is scaled already, with neck and head scaled too.

    Args:
        base: The network before scaling.
        scaled: The network with the backbone and the input of the result, and with the neck and head of the base.
        factors: The factors. Their sizes of neck and head are set if they are given.
        rounding: How sizes are rounded.

    Raises:
        SpaceError: If a size is not available, or a block cannot be built. It names the stage and the dimension.
    """
    cells = cell_stages(base)
    if factors.detector:
        detector_sizes(base)  # raises
        neck, head = _with_sizes(base, cells[0], factors.detector)
    else:
        neck, head = _deeper(base, cells, factors.depth, rounding)
        if factors.width != 1:
            neck = tuple(tuple(widen_block(spec, factors.width, rounding.divisor) for spec in stage) for stage in neck)
    result = replace(scaled, neck=neck, head=head)
    try:
        trace(result)
    except SpaceError as error:
        dimension = "width" if factors.width != 1 or factors.detector else "depth"
        rule = f"{getattr(factors, dimension):g} times the base cannot be built: {error}"
        raise SpaceError(rule, key=dimension) from error
    return result


def _deeper(base: Architecture, cells: Sequence[int], factor: float, rounding: Rounding) -> tuple[Stages, BlockSpec]:
    """Return neck and head with the repeats of each cell and the layers of the head times `factor`."""
    if factor == 1:
        return base.neck, base.head
    neck = list(base.neck)
    for number in cells:
        count = scaled_count(factor, len(neck[number]), f"neck {number}", rounding)
        neck[number] = _repeated(neck[number], count)
    layers = {
        key: scaled_count(factor, value, "the head", rounding) for key, value in head_layers(base.head).items() if value
    }
    return tuple(neck), base.head.with_args(layers)


def _with_sizes(base: Architecture, cell: int, sizes: DetectorSizes) -> tuple[Stages, BlockSpec]:
    """Return neck and head with the given sizes; `cell` is the stage of the repeated cell."""
    for key, value in vars(sizes).items():
        if value < 1:
            raise SpaceError("must be at least 1", key=key, value=value)
    neck = [
        tuple(spec.with_args(dict.fromkeys(widths(spec), sizes.neck_channels)) for spec in stage) for stage in base.neck
    ]
    neck[cell] = _repeated(neck[cell], sizes.neck_cells)
    return tuple(neck), base.head.with_args(dict.fromkeys(head_layers(base.head), sizes.head_layers))


def _repeated(stage: tuple[BlockSpec, ...], count: int) -> tuple[BlockSpec, ...]:
    """Return `count` cells: the given ones, then repeats of the last one."""
    return (*stage[:count], *(stage[-1] for _ in range(count - len(stage))))
