"""Scaling of an architecture: multiply its depth, width and resolution by given factors.

Repeats, channels and pixels are whole numbers. `Rounding` sets how each is rounded, and `nas.scaling.family` reports
the effect. A factor of 1 changes nothing, so the first network of a family equals the base to the bit. Neck and head
of a detector are scaled with its backbone, see `nas.scaling.detectors`; a tapped map stays the last of its group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from nas.architecture import Architecture, BlockSpec, Shape
from nas.errors import SpaceError
from nas.networks.block_schema import arguments, traits, widths
from nas.networks.blocks.layers import make_divisible
from nas.networks.network import in_channels, trace, traced, walk
from nas.scaling.detectors import cell_stages, check_resolution, head_layers, is_detector, scale_neck_and_head
from nas.scaling.sizes import DIMENSIONS, Factors, Rounding, can_repeat, checked_product, scaled_count, widen_block

MAX_STEP_MULTIPLE = 32
"""Channel steps up to this multiple of the divisor are tried until the blocks can be built."""


def scale(arch: Architecture, factors: Factors, rounding: Rounding | None = None) -> Architecture:
    """Return the architecture with its repeats, channels and input multiplied by the factors and rounded.

    Args:
        arch: The base.
        factors: The factors; those of 1 leave their dimension unchanged.
        rounding: How sizes are rounded; the default is `Rounding()`.

    Raises:
        SpaceError: If the network lacks a dimension, if rounding leaves no layers or channels, if no multiple of the
            divisor gives valid blocks, or if the input is smaller than the total stride. `key` is the dimension. Sizes
            of a neck or a head that the network does not have are an error too.
    """
    rounding = rounding or Rounding()
    for dimension in DIMENSIONS:
        factor = getattr(factors, dimension)
        if not 0 < factor < math.inf:
            raise SpaceError("the factor must be above zero and finite", key=dimension, value=factor)
    for dimension, reason in missing_dimensions(arch).items():
        if getattr(factors, dimension) != 1:
            raise SpaceError(f"this network has no {dimension} to scale: {reason}", key=dimension)
    deeper = replace(arch, stages=_scale_depth(arch, factors.depth, rounding))
    resolution = _scale_resolution(arch, factors.resolution, rounding)
    scaled = _scale_width(deeper, resolution, factors.width, rounding)
    return scale_neck_and_head(arch, scaled, factors, rounding) if is_detector(arch) or factors.detector else scaled


def default_resolution_step(resolution: int) -> int:
    """Return the largest power of two that is at most 2 % of a resolution in pixels: 4 for 224, 1 for 32."""
    return int(2 ** max(0, math.floor(math.log2(resolution / 50))))


def missing_dimensions(arch: Architecture) -> dict[str, str]:
    """Return the dimensions that a network does not have, each with the reason. Most networks have all three."""
    missing = {}
    groups = repeat_groups(arch.stages, arch.taps)
    has_cells = bool(arch.neck and cell_stages(arch)) or any(head_layers(arch.head).values())
    if not has_cells and not any(_repeatable(arch.stages, group) for group in groups):
        ops = ", ".join(dict.fromkeys(spec.op for spec in arch.blocks()))
        missing["depth"] = f"no stage can be repeated ({ops})"
    if not any(widths(spec) for spec in (*arch.blocks(), arch.head)):
        missing["width"] = "no block sets its number of channels"
    return missing


def total_stride(arch: Architecture) -> int:
    """Return the factor by which the stages reduce the resolution."""
    blocks = [block for number, block in walk(arch) if number < len(arch.stages)]
    size = blocks[-1].maps[-1][1] if blocks else arch.resolution
    return max(1, round(arch.resolution / size))


def repeat_groups(stages: Sequence[Sequence[BlockSpec]], taps: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Return the indices of the stages that repeat together.

    A first unit and its repeats may be written as two stages; they form one group. A group ends at a tap, so that the
    tapped map stays the last one of its group.
    """
    found: list[tuple[int, ...]] = []
    for index, stage in enumerate(stages):
        if not stage:
            continue
        last = found[-1][-1] if found else 0
        previous = stages[last] if found else ()
        is_split = any(last <= tap < index for tap in taps)
        if not is_split and len(previous) == 1 and _is_repeat(previous[0], stage[0]):
            found[-1] = (*found[-1], index)
        else:
            found.append((index,))
    return found


def _is_repeat(previous: BlockSpec, block: BlockSpec) -> bool:
    """Whether a block has the operator and channels of the previous block, and stride 1."""
    same = previous.op == block.op and widths(previous) == widths(block)
    return same and bool(widths(block)) and arguments(block).get("stride", 1) == 1


def _repeatable(stages: Sequence[Sequence[BlockSpec]], group: Sequence[int]) -> bool:
    """Whether the depth may repeat a group: not the stem, and not a layer that only connects two stages."""
    if group[0] == next(index for index, stage in enumerate(stages) if stage):
        return False
    return can_repeat([spec for index in group for spec in stages[index]])


def _scale_depth(arch: Architecture, factor: float, rounding: Rounding) -> tuple[tuple[BlockSpec, ...], ...]:
    """Return the stages with the repeats of each group times `factor`; layers are added or dropped at its end."""
    stages = arch.stages
    if factor == 1:
        return stages
    scaled, groups = list(stages), repeat_groups(stages, arch.taps)
    for group in groups[2:-1] if rounding.ends == "fixed" else groups:
        if not _repeatable(stages, group):
            continue
        layers = [spec for index in group for spec in stages[index]]
        count = scaled_count(factor, len(layers), f"stage {group[0]}", rounding)
        extended = iter(_extend_pattern(layers, count))
        for index in group[:-1]:
            scaled[index] = tuple(islice(extended, len(stages[index])))
        scaled[group[-1]] = tuple(extended)
    return tuple(scaled)


def _extend_pattern(layers: Sequence[BlockSpec], count: int) -> list[BlockSpec]:
    """Return `count` layers: the given ones, then repeats of the shortest period of all layers but the first."""
    if count <= len(layers):
        return list(layers[:count])
    pattern = [_without_stride(spec) for spec in layers]
    rest = pattern if _alternates(pattern) else pattern[1:] or pattern
    period = next(p for p in range(1, len(layers) + 1) if all(a == b for a, b in _pairs_at_distance(rest, p)))
    extended = list(layers)
    while len(extended) < count:
        extended.append(_without_stride(extended[-min(period, len(extended))]))
    return extended


def _alternates(pattern: Sequence[BlockSpec]) -> bool:
    """Whether these are two layers that differ only in keywords that alternate from layer to layer."""
    if len(pattern) != 2 or pattern[0].op != pattern[1].op:
        return False
    first, second = (arguments(spec) for spec in pattern)
    return {key for key in first if first[key] != second[key]} <= set(traits(pattern[0].op).alternating_keywords)


def _pairs_at_distance(items: Sequence[BlockSpec], distance: int) -> Iterator[tuple[BlockSpec, BlockSpec]]:
    return zip(items, items[distance:], strict=False)


def _without_stride(spec: BlockSpec) -> BlockSpec:
    return BlockSpec.of(spec.op, {key: value for key, value in spec.args if key != "stride"})


def _scale_resolution(arch: Architecture, factor: float, rounding: Rounding) -> int:
    if factor == 1:
        return arch.resolution
    step, stride = rounding.resolution_step or default_resolution_step(arch.resolution), total_stride(arch)
    resolution = int(checked_product("resolution", factor, arch.resolution, "px") / step + 0.5) * step
    if is_detector(arch):
        check_resolution(arch, resolution)
    elif min(arch.input.shape(resolution)[1:]) < stride:
        raise SpaceError(
            f"{resolution} px ({factor:.3g} times {arch.resolution}, in steps of {step}) is below the total stride of "
            f"{stride}: must be at least {stride} px",
            key="resolution",
        )
    return resolution


def _scale_width(arch: Architecture, resolution: int, factor: float, rounding: Rounding) -> Architecture:
    """Return the network at `resolution` with its channels times `factor`."""
    if factor == 1:
        return arch.at(resolution)
    read = iter([in_channels(layer)[0] for layer in trace(arch)])
    groups = [
        _ChannelGroup([(spec, next(read)) for index in group for spec in arch.stages[index]], f"stage {group[0]}")
        for group in repeat_groups(arch.stages, arch.taps)
    ]
    if rounding.ends == "fixed":
        groups[0] = replace(groups[0], is_fixed=True)
    widened = iter(_widen_groups(groups, arch.input.shape(resolution), factor, rounding, {}))
    stages = tuple(tuple(next(widened) for _ in stage) for stage in arch.stages)
    return replace(arch, stages=stages, head=_widen_head(arch.head, factor, rounding), resolution=resolution)


@dataclass(frozen=True)
class _ChannelGroup:
    """Layers that share one channel step.

    Attributes:
        layers: Each block with its number of input channels in the base.
        where: The stage, for error messages.
        is_fixed: Whether the channels remain.
    """

    layers: Sequence[tuple[BlockSpec, int]]
    where: str
    is_fixed: bool = False


def _widen_groups(
    groups: Sequence[_ChannelGroup],
    shape: Shape,
    factor: float,
    rounding: Rounding,
    failed: dict[tuple[int, Shape], SpaceError],
) -> list[BlockSpec]:
    """Return the widened layers of all groups, each group with the smallest channel step that works.

    A step works if the group and all groups after it can be built: a stage of three groups may need a stem whose
    channels are a multiple of three. `failed` holds the errors of combinations that were tried, by the number of
    remaining groups and the input shape.
    """
    if not groups:
        return []
    if (len(groups), shape) in failed:
        raise failed[len(groups), shape]
    first_error: SpaceError | None = None
    seen: set[tuple[BlockSpec, ...]] = set()
    for multiple in range(1, MAX_STEP_MULTIPLE + 1):
        try:
            layers, out_shape = _widen_group(groups[0], shape, factor, rounding, multiple)
            if tuple(layers) not in seen:
                seen.add(tuple(layers))
                return layers + _widen_groups(groups[1:], out_shape, factor, rounding, failed)
        except SpaceError as error:
            first_error = first_error or error
    assert first_error is not None
    if first_error.key != "width":
        rule = f"{factor:g} times the channels fits no multiple of {rounding.divisor}"
        first_error = SpaceError(f"{rule}: {groups[0].where}: {first_error}", key="width")
    failed[len(groups), shape] = first_error
    raise first_error


def _widen_group(
    group: _ChannelGroup, shape: Shape, factor: float, rounding: Rounding, multiple: int
) -> tuple[list[BlockSpec], Shape]:
    """Return a group's layers with channels in steps of `multiple` times the divisor, and their output shape."""
    widened = []
    for spec, base_channels in group.layers:
        fixed = widths(spec) if group.is_fixed else ()
        wide = widen_block(spec, factor, rounding.divisor * multiple, fixed, nearest=multiple > 1)
        widened.append(_round_expansion(wide, spec, base_channels, shape[0], rounding.divisor))
        shape = traced(widened[-1], shape).out_shape  # type: ignore[assignment]
    return widened, shape


def _widen_head(head: BlockSpec, factor: float, rounding: Rounding) -> BlockSpec:
    """Return the head with its channels times `factor`; `rounding.head` governs the last of them."""
    keep_last = rounding.head == "fixed" or (rounding.head == "never narrower" and factor < 1)
    return widen_block(head, factor, rounding.divisor, list(widths(head))[-1:] if keep_last else ())


def _round_expansion(wide: BlockSpec, spec: BlockSpec, base_channels: int, channels: int, divisor: int) -> BlockSpec:
    """Return an inverted bottleneck whose expanded channels are a multiple of `divisor`, as they were in the base.

    MobileNetV3 gives its expansions in channels and rounds each one; a ratio of the input may fall in between.
    """
    ratio = arguments(spec).get("expand_ratio")
    if not isinstance(ratio, float) or ratio == int(ratio) or round(base_channels * ratio) % divisor:
        return wide
    return wide.with_args({"expand_ratio": make_divisible(channels * ratio, divisor) / channels})
