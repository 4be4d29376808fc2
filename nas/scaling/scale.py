"""Depth, width and resolution of an architecture times a factor each, with every rounding explicit.

Repeats, channels and pixels are whole: how each is rounded is a value (`Rounding`), and what it costs is told
(`nas.scaling.family`). A factor of 1 changes nothing, so the family's first network is the base to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from nas.architecture import Architecture, BlockSpec, Shape
from nas.errors import SpaceError
from nas.networks.block_schema import arguments, traits, widths
from nas.networks.blocks.layers import make_divisible
from nas.networks.network import IMAGE_CHANNELS, in_channels, trace, traced

DIMENSIONS = ("depth", "width", "resolution")
STEPS = 32
"""Up to so many times the divisor is tried as a step, where groups ask for it."""
MOST = {"depth": 1_000, "width": 100_000, "resolution": 20_000}
"""Layers of a stage, channels of a block and pixels of the input, beyond which a factor is a slip of the hand."""
SLACK = 1e-9
"""1.1 ** 3 times 10 must not be 14 because the product is 13.310000000000002."""

Head = Literal["scaled", "never narrower", "fixed"]


@dataclass(frozen=True)
class Rounding:
    """How factors become whole numbers.

    Channels go to the nearest multiple of `divisor`, or of a multiple of it where groups need that, and never more
    than 10 % down (TF-slim's make_divisible). Repeats of a stage go up ("ceil", EfficientNet) or to the nearest
    ("round", Dollar et al. 2021). The input goes to the nearest multiple of `resolution_step` pixels (0: `fine_step`).
    `head` tells what becomes of the last channels before the classes: MobileNetV2 and V3 never make them narrower.
    """

    divisor: int = 8
    repeats: Literal["ceil", "round"] = "ceil"
    resolution_step: int = 0
    head: Head = "scaled"


@dataclass(frozen=True)
class Factors:
    """What depth, width and resolution are multiplied with."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    @property
    def growth(self) -> float:
        """Return by how much MACs grow before rounding: depth * width^2 * resolution^2 (EfficientNet, section 3.3)."""
        return self.depth * self.width**2 * self.resolution**2


def scale(arch: Architecture, factors: Factors, rounding: Rounding | None = None) -> Architecture:
    """Return `arch` with the repeats of its stages, its channels and its input times the factors, rounded.

    Raises SpaceError, naming the dimension, where one does not exist in the network, where rounding leaves nothing
    of it, where no multiple of the divisor lets a block be built, and where the input would be smaller than the
    network's total stride.
    """
    rounding = rounding or Rounding()
    for dimension in DIMENSIONS:
        if not 0 < getattr(factors, dimension) < math.inf:
            raise SpaceError(f"{dimension}: a factor must be above zero and finite: {getattr(factors, dimension)}")
    for dimension, why in missing_dimensions(arch).items():
        if getattr(factors, dimension) != 1:
            raise SpaceError(f"{dimension}: this network has none to scale: {why}")
    deeper = replace(arch, stages=_repeated(arch.stages, factors.depth, rounding))
    resolution = _resolution(arch, factors.resolution, rounding)
    return _widened(deeper, resolution, factors.width, rounding)


def fine_step(resolution: int) -> int:
    """Return a power of two of pixels of at most 2 % of an input: 4 at 224, 1 at 32."""
    return int(2 ** max(0, math.floor(math.log2(resolution / 50))))


def missing_dimensions(arch: Architecture) -> dict[str, str]:
    """Return the dimensions that do not exist in a network, each with the reason; none for most."""
    found = {}
    if not any(_repeatable(arch.stages, group) for group in groups(arch.stages)):
        ops = ", ".join(dict.fromkeys(spec.op for spec in arch.blocks()))
        found["depth"] = f"no stage of it could be repeated ({ops})"
    if not any(widths(spec) for spec in (*arch.blocks(), arch.head)):
        found["width"] = "no block of it has channels of its own"
    return found


def total_stride(arch: Architecture) -> int:
    """Return by how much the stages shrink the input."""
    size = trace(arch)[-2].out_shape[1] if any(arch.stages) else arch.resolution
    return max(1, round(arch.resolution / size))


def groups(stages: Sequence[Sequence[BlockSpec]]) -> list[tuple[int, ...]]:
    """Return the indices of stages by what repeats together: a unit and its repeats may be written as two stages."""
    found: list[tuple[int, ...]] = []
    for index, stage in enumerate(stages):
        if not stage:
            continue
        before = stages[found[-1][-1]] if found else ()
        if len(before) == 1 and _goes_on(before[0], stage[0]):
            found[-1] = (*found[-1], index)
        else:
            found.append((index,))
    return found


def repeats(stages: Sequence[Sequence[BlockSpec]]) -> list[int]:
    """Return how many layers each group has."""
    return [sum(len(stages[index]) for index in group) for group in groups(stages)]


def _goes_on(before: BlockSpec, block: BlockSpec) -> bool:
    """Whether a block repeats the one before it: the same operator with as many channels, and no stride."""
    same = before.op == block.op and widths(before) == widths(block)
    return same and bool(widths(block)) and arguments(block).get("stride", 1) == 1


def _repeatable(stages: Sequence[Sequence[BlockSpec]], group: Sequence[int]) -> bool:
    """Whether the depth may repeat a group: not the stem, and not what only leads from one stage to the next."""
    if group[0] == next(index for index, stage in enumerate(stages) if stage):
        return False
    layers = [spec for index in group for spec in stages[index]]
    if not all(traits(spec.op).repeatable for spec in layers):
        return False
    has_skip = layers[0].kwargs.get("skip", "none") != "none"
    return len(layers) > 1 or has_skip or traits(layers[0].op).repeats_alone


def _repeated(
    stages: tuple[tuple[BlockSpec, ...], ...], factor: float, rounding: Rounding
) -> tuple[tuple[BlockSpec, ...], ...]:
    """Return the stages with the repeats of each group times `factor`; what is added or dropped stands at its end."""
    if factor == 1:
        return stages
    changed = list(stages)
    for group in groups(stages):
        if not _repeatable(stages, group):
            continue
        layers = [spec for index in group for spec in stages[index]]
        exact = _within("depth", factor, len(layers), "layers")
        count = math.ceil(exact - SLACK) if rounding.repeats == "ceil" else int(exact + 0.5)
        if count < 1:
            raise SpaceError(f"depth: {factor:g} times the {len(layers)} layers of stage {group[0]} leaves none")
        grown = iter(_continued(layers, count))
        for index in group[:-1]:
            changed[index] = tuple(islice(grown, len(stages[index])))
        changed[group[-1]] = tuple(grown)
    return tuple(changed)


def _continued(layers: Sequence[BlockSpec], count: int) -> list[BlockSpec]:
    """Return the first `count` layers of the pattern: the shortest period of what follows the first layer goes on."""
    if count <= len(layers):
        return list(layers[:count])
    pattern = [_unstrided(spec) for spec in layers]
    rest = pattern if _take_turns(pattern) else pattern[1:] or pattern
    period = next(p for p in range(1, len(layers) + 1) if all(a == b for a, b in _apart(rest, p)))
    grown = list(layers)
    while len(grown) < count:
        grown.append(_unstrided(grown[-min(period, len(grown))]))
    return grown


def _take_turns(pattern: Sequence[BlockSpec]) -> bool:
    """Whether these are two layers that differ in nothing but whose turn it is."""
    if len(pattern) != 2 or pattern[0].op != pattern[1].op:
        return False
    before, after = (arguments(spec) for spec in pattern)
    return {key for key in before if before[key] != after[key]} <= set(traits(pattern[0].op).alternating_keywords)


def _apart(items: Sequence[BlockSpec], distance: int) -> Iterator[tuple[BlockSpec, BlockSpec]]:
    return zip(items, items[distance:], strict=False)


def _unstrided(spec: BlockSpec) -> BlockSpec:
    return BlockSpec.of(spec.op, {key: value for key, value in spec.args if key != "stride"})


def _within(dimension: str, factor: float, value: int, unit: str) -> float:
    """Return the product. Raises SpaceError beyond what a network can be."""
    if factor * value > MOST[dimension]:
        raise SpaceError(f"{dimension}: {factor:g} times {value} {unit} is over {MOST[dimension]:,}")
    return factor * value


def _resolution(arch: Architecture, factor: float, rounding: Rounding) -> int:
    if factor == 1:
        return arch.resolution
    step, stride = rounding.resolution_step or fine_step(arch.resolution), total_stride(arch)
    resolution = int(_within("resolution", factor, arch.resolution, "px") / step + 0.5) * step
    if resolution < stride:
        raise SpaceError(
            f"resolution: {resolution} px ({factor:.3g} times {arch.resolution}, in steps of {step}) is under the "
            f"total stride of {stride}: at least {stride} px"
        )
    return resolution


def _widened(arch: Architecture, resolution: int, factor: float, rounding: Rounding) -> Architecture:
    """Return the network at `resolution` with its channels times `factor`, each group built before the next."""
    if factor == 1:
        return arch.at(resolution)
    read = iter([in_channels(layer)[0] for layer in trace(arch)])
    each = [
        Group([(spec, next(read)) for index in group for spec in arch.stages[index]], f"stage {group[0]}")
        for group in groups(arch.stages)
    ]
    widened = iter(_fitting(each, (IMAGE_CHANNELS, resolution, resolution), factor, rounding, {}))
    stages = tuple(tuple(next(widened) for _ in stage) for stage in arch.stages)
    return replace(arch, stages=stages, head=_widened_head(arch.head, factor, rounding), resolution=resolution)


@dataclass(frozen=True)
class Group:
    """Layers that share a step of channels: blocks with the channels that each reads in the base."""

    layers: Sequence[tuple[BlockSpec, int]]
    where: str


def _fitting(
    each: Sequence[Group], shape: Shape, factor: float, rounding: Rounding, failed: dict[tuple[int, Shape], SpaceError]
) -> list[BlockSpec]:
    """Return the layers of all groups, each with the finest step that lets it and all after it be built.

    A stage of three groups may need a stem of a multiple of three: where nothing fits behind a group, it takes its
    next step. `failed` holds what was tried in vain.
    """
    if not each:
        return []
    if (len(each), shape) in failed:
        raise failed[len(each), shape]
    why: SpaceError | None = None
    seen: set[tuple[BlockSpec, ...]] = set()
    for times in range(1, STEPS + 1):
        try:
            found, after = _stepped(each[0], shape, factor, rounding, times)
            if tuple(found) not in seen:
                seen.add(tuple(found))
                return found + _fitting(each[1:], after, factor, rounding, failed)
        except SpaceError as error:
            why = why or error
    rule = f"width: {factor:g} times the channels fits no multiple of {rounding.divisor}: "
    text = str(why)
    failed[len(each), shape] = SpaceError(text if text.startswith("width") else f"{rule}{each[0].where}: {text}")
    raise failed[len(each), shape]


def _stepped(
    group: Group, shape: Shape, factor: float, rounding: Rounding, times: int
) -> tuple[list[BlockSpec], Shape]:
    """Return a group's layers with channels of so many times the divisor, and the shape that they give."""
    found = []
    for spec, read in group.layers:
        wide = _times(spec, factor, rounding.divisor * times, nearest=times > 1)
        found.append(_whole_hidden(wide, spec, read, shape[0], rounding.divisor))
        shape = traced(found[-1], shape).out_shape  # type: ignore[assignment]
    return found, shape


def _times(spec: BlockSpec, factor: float, step: int, fixed: Collection[str] = (), nearest: bool = False) -> BlockSpec:
    """Return a block with its own channels times `factor`, to multiples of `step`; those of `fixed` stay.

    `nearest` leaves out the rule of 10 %, which is about small steps.
    """
    wide = {}
    for key, value in widths(spec).items():
        if key in fixed:
            continue
        exact = _within("width", factor, int(value), key)
        if exact < 1:
            raise SpaceError(f"width: {factor:g} times the {value} {key} of '{spec.op}' leaves none")
        wide[key] = max(step, int(exact / step + 0.5) * step) if nearest else make_divisible(exact, step)
        if wide[key] > MOST["width"]:
            raise SpaceError(f"width: {wide[key]:,} channels are over {MOST['width']:,}")
        if factor < 1:  # the least is one step: narrower networks do not become wider by it
            wide[key] = min(wide[key], int(value))
        elif wide[key] < int(value):  # nor wider ones narrower by a large step
            wide[key] += step
    return spec.with_args(wide)


def _widened_head(head: BlockSpec, factor: float, rounding: Rounding) -> BlockSpec:
    """Return the head with its own channels times `factor`; the last of them are what the rule for heads is about."""
    stays = rounding.head == "fixed" or (rounding.head == "never narrower" and factor < 1)
    return _times(head, factor, rounding.divisor, list(widths(head))[-1:] if stays else ())


def _whole_hidden(wide: BlockSpec, spec: BlockSpec, read: int, reads: int, divisor: int) -> BlockSpec:
    """Return an inverted bottleneck whose expansion is a multiple of `divisor`, as it was in the base.

    MobileNetV3 names its expansions in channels and rounds each; as a ratio of the input one may fall between.
    """
    ratio = arguments(spec).get("expand_ratio")
    if not isinstance(ratio, float) or ratio == int(ratio) or round(read * ratio) % divisor:
        return wide
    return wide.with_args({"expand_ratio": make_divisible(reads * ratio, divisor) / reads})
