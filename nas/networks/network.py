"""Networks: trace an architecture (shapes and costs per layer) and build it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from nas.architecture import Architecture, BlockSpec, Shape
from nas.errors import SpaceError, one_line, reason
from nas.networks.block_schema import Role, arguments, block_spec, role, simplify, takes_maps
from nas.networks.blocks import find_block, is_ours
from nas.networks.blocks.layers import DropConnect
from nas.networks.cost_counter import Convolution, CostCounter
from nas.networks.first_weights import with_first_weights

Maps = tuple[Shape, ...]
"""The shapes of the feature maps that later blocks can read: in a stage, those of the taps, and last its own."""


@dataclass(frozen=True)
class Layer:
    """One block of a network with its shapes and costs. (spec, in_shape) is its key in a latency table.

    Attributes:
        spec: The block.
        in_shape: Input shape (C, H, W). Heads and necks have a tuple of shapes.
        out_shape: Output shape. Necks, and heads with several outputs, have a tuple of shapes.
        params: Number of parameter elements.
        macs: Multiply-accumulates of convolutions and linear layers at batch 1.
        memory_access: Elements read and written, with fused batch norm and activations (ShuffleNetV2, section 2,
            G1). It includes element-wise additions, pooling and concatenation.
        activations: See `CostCounter`, as for all following attributes.
        element_wise_access: Elements read and written by operators without weights.
        peak_activation: Most feature-map elements of one operator.
        convolutions: The convolutions in the block.
    """

    spec: BlockSpec
    in_shape: Shape | tuple[Shape, ...]
    out_shape: Shape | tuple[int, ...] | tuple[tuple[int, ...], ...]
    params: int
    macs: int
    memory_access: int
    activations: int
    element_wise_access: int
    peak_activation: int
    convolutions: tuple[Convolution, ...]


@dataclass(frozen=True)
class Totals:
    """The costs of a whole network, named as in `Layer`: sums over the layers, but the maximum of `peak_activation`."""

    params: int
    macs: int
    activations: int
    memory_access: int
    element_wise_access: int
    peak_activation: int

    @property
    def arithmetic_intensity(self) -> float:
        """Multiply-accumulates per element read or written (Williams et al. 2009, who count bytes)."""
        return self.macs / self.memory_access


class Network(nn.Module):
    """Stages of blocks in series, and a head on the last feature map."""

    def __init__(self, stages: list[list[nn.Module]], head: nn.Module):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> the head's output: logits (B, num_classes) for a classifier."""
        for stage in self.stages:
            x = stage(x)
        return self.head([x])


class MultiMapNetwork(Network):
    """A network whose neck and head read the last feature maps of several stages, the finest first.

    Attributes:
        taps: The numbers of these stages; none: they read the last feature map.
        outputs: The number of output tensors.
    """

    def __init__(
        self, stages: list[list[nn.Module]], head: nn.Module, taps: tuple[int, ...], neck: list[list[nn.Module]]
    ):
        super().__init__(stages, head)
        self.taps, self.outputs = taps, 1
        self.neck = nn.ModuleList(nn.Sequential(*blocks) for blocks in neck)

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> the head's output: boxes (B, N, 4) and classes (B, N, C) for a detector."""
        maps: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self.taps:
                maps.append(x)
        maps = maps or [x]
        for stage in self.neck:
            maps = stage(maps)
        return self.head(maps)


class EachMap(nn.ModuleList):
    """A block of the neck that reads one feature map: a module of its own for each map."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C, H, W), ...] -> the output of each module."""
        found = []
        for number, block in enumerate(self):  # torch.jit.script cannot read a comprehension over modules
            found.append(block(maps[number]))
        return found


@dataclass(frozen=True)
class Placed:
    """A block at its place in a network.

    Attributes:
        spec: The one spelling that all equivalent blocks share at this place.
        layers: The layers that it makes: several for a block of the neck that reads one map.
        maps: The feature maps after it.
        for_each_map: Whether it is a block of the neck that reads one map, with weights of its own for each map.
    """

    spec: BlockSpec
    layers: tuple[Layer, ...]
    maps: Maps
    for_each_map: bool = False


def placed(spec: BlockSpec, maps: Maps, where: str = "block", of: Role = "block") -> Placed:
    """Return a block at its place. Raises SpaceError as `trace` does.

    Args:
        spec: The block.
        maps: The feature maps before it.
        where: The place, for errors.
        of: What the block is a part of: "block" for a stage, "neck" or "head".
    """
    if of == "block":
        layer = traced(spec, maps[-1], where)
        return Placed(layer.spec, (layer,), (*maps[:-1], layer.out_shape))  # type: ignore[arg-type]
    if of == "neck" and not takes_maps(spec.op):
        layers = tuple(traced(spec, shape, f"{where}, map {number}") for number, shape in enumerate(maps))
        return Placed(_common(spec, layers), layers, tuple(layer.out_shape for layer in layers), True)  # type: ignore[misc]
    layer = traced(spec, maps, where)
    return Placed(layer.spec, (layer,), as_shapes(layer.out_shape) if of == "neck" else ())


def _common(spec: BlockSpec, layers: Sequence[Layer]) -> BlockSpec:
    """Return the spelling of a block for several maps: a keyword changes only if it does so at every map."""
    given, *found = (arguments(each) for each in (spec, *(layer.spec for layer in layers)))
    changes = {key: found[0][key] for key in given if all(each[key] == found[0][key] != given[key] for each in found)}
    return block_spec(spec.op, {**given, **changes}, where="")


def after_stage(maps: Maps, is_tapped: bool, is_last: bool) -> Maps:
    """Return the feature maps after a stage: a tapped one keeps its map, and the last one ends the stages.

    With taps, neck and head read the tapped maps only.
    """
    maps = (*maps, maps[-1]) if is_tapped else maps
    return maps[:-1] if is_last and len(maps) > 1 else maps


def walk(arch: Architecture) -> Iterator[tuple[int, Placed]]:
    """Yield the number of the slot and the block at its place, for each block of a network; the head is last.

    Raises:
        SpaceError: A block cannot be built, or a stride leaves no pixels. The error names stage and layer.
    """
    maps: Maps = (arch.input_shape,)
    for number, blocks in enumerate(arch.slots):
        of, place = slot_role(number, len(arch.stages), len(arch.neck))
        for position, spec in enumerate(blocks):
            found = placed(spec, maps, place if of == "head" else f"{place}, layer {position}", of)
            yield number, found
            maps = found.maps
        if of == "block":
            maps = after_stage(maps, number in arch.taps, number == len(arch.stages) - 1)


def slot_role(number: int, stages: int, neck: int) -> tuple[Role, str]:
    """Return what the slot with a number is a part of, and its name: "stage 3", "neck 0" or "head"."""
    if number < stages:
        return "block", f"stage {number}"
    return ("neck", f"neck {number - stages}") if number < stages + neck else ("head", "head")


def trace(arch: Architecture) -> tuple[Layer, ...]:
    """Return the layers of `arch` in order, with the head last.

    Raises:
        SpaceError: A block cannot be built, or a stride leaves no pixels. The error names stage and layer.
    """
    return tuple(layer for _, block in walk(arch) for layer in block.layers)


def layer_slots(arch: Architecture) -> list[str]:
    """Return the name of the slot of each layer that `trace` returns: "stage3", "neck0" or "head"."""
    parts = len(arch.stages), len(arch.neck)
    return [slot_role(number, *parts)[1].replace(" ", "") for number, block in walk(arch) for _ in block.layers]


def totals(layers: Sequence[Layer]) -> Totals:
    """Return the total costs of the layers of a network."""
    sums = {
        name: sum(getattr(layer, name) for layer in layers)
        for name in ("params", "macs", "activations", "memory_access", "element_wise_access")
    }
    return Totals(**sums, peak_activation=max(layer.peak_activation for layer in layers))


def traced(spec: BlockSpec, in_shape: Shape | tuple[Shape, ...], where: str = "block") -> Layer:
    """Return the layer of `spec` at the input `in_shape`. The result is cached. Raises SpaceError as `trace` does."""
    try:
        return _layer(_simplified(spec, in_shape), in_shape)
    except SpaceError as error:
        raise SpaceError(str(error), where=where) from error


@lru_cache(maxsize=200_000)
def _simplified(spec: BlockSpec, in_shape: Any) -> BlockSpec:
    spec = block_spec(spec.op, spec.kwargs, where="")
    return spec if takes_maps(spec.op) else simplify(spec, in_shape[0])


@lru_cache(maxsize=200_000)
def _layer(spec: BlockSpec, in_shape: Shape | tuple[Shape, ...]) -> Layer:
    shapes = as_shapes(in_shape)
    stride = spec.kwargs.get("stride", 1)
    height, width = shapes[0][1:]
    if isinstance(stride, int) and stride > min(height, width):
        raise SpaceError(f"a stride of {stride} leaves no pixels of {height}x{width}")
    most = getattr(find_block(spec.op), "MOST_POSITIONS", height * width)
    if height * width > most:
        rule = f"reads maps of at most {most} positions, because its cost grows with the square of their number"
        raise SpaceError(rule, where=_described(spec.op), value=f"{height}x{width}")
    in_channels = tuple(shape[0] for shape in shapes)
    with torch.device("meta"):
        module = make_block(spec, in_channels).eval()
        maps = [torch.empty((1, *shape)) for shape in shapes]
    with torch.no_grad(), CostCounter() as cost:
        try:
            out = module(maps if takes_maps(spec.op) else maps[0])
        except RuntimeError as error:
            raise SpaceError(one_line(error), where=spec if is_ours(spec.op) else _described(spec.op)) from error
        except Exception as error:
            raise SpaceError(reason(error), where=_described(spec.op)) from error
    out_shape = _out_shape(out, spec.op)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Layer(
        spec=spec,
        in_shape=in_shape,
        out_shape=out_shape,
        params=params,
        macs=cost.macs,
        memory_access=cost.memory_access,
        activations=cost.activations,
        element_wise_access=cost.element_wise_access,
        peak_activation=cost.peak_activation,
        convolutions=tuple(cost.convolutions),
    )


def _out_shape(out: object, op: str) -> Any:
    """Return the shape of an output, or the shapes of several, without the batch."""
    if isinstance(out, Tensor) and role(op) != "neck":
        return tuple(out.shape[1:])
    expected: Any = {"block": Tensor, "neck": list, "head": list | tuple}[role(op)]
    if not isinstance(out, expected) or not out or not all(isinstance(each, Tensor) for each in out):
        rule = {"block": "a tensor", "neck": "a list of tensors", "head": "a tensor or a tuple of tensors"}[role(op)]
        raise SpaceError(f"forward must return {rule}", where=_described(op), value=type(out).__name__)
    return tuple(tuple(each.shape[1:]) for each in out)


def make_block(spec: BlockSpec, in_channels: tuple[int, ...]) -> nn.Module:
    """Return the module of `spec`. Raises SpaceError if its arguments are invalid for these input channels."""
    kind = find_block(spec.op)
    try:
        return kind(in_channels if takes_maps(spec.op) else in_channels[0], **spec.kwargs)
    except (ValueError, TypeError) as error:
        raise SpaceError(one_line(error), where=_described(spec.op)) from error
    except Exception as error:  # the code of another package
        raise SpaceError(reason(error), where=_described(spec.op)) from error


def _described(op: str) -> str:
    """Return the name of a block, with its class if it is of another package."""
    block = find_block(op)
    return op if is_ours(op) else f"block '{op}' ({block.__module__}.{block.__qualname__})"


def canonical(arch: Architecture) -> Architecture:
    """Return the one spelling that all equivalent architectures share."""
    specs = iter([block.spec for _, block in walk(arch)])
    stages, neck = (tuple(tuple(next(specs) for _ in stage) for stage in part) for part in (arch.stages, arch.neck))
    return replace(arch, stages=stages, head=next(specs), neck=neck)


def build(arch: Architecture) -> Network:
    """Return the network of `arch` with fresh weights from torch's default generator, see `first_weights`."""
    return with_first_weights(assemble(arch, lambda _, layer: make_block(layer.spec, in_channels(layer))))


def build_seeded(arch: Architecture, seed: int) -> Network:
    """Return what `build` does, with the random weights of a seed. torch's global random state does not change."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(arch)


def assemble(arch: Architecture, make: Callable[[str, Layer], nn.Module]) -> Network:
    """Return the network of an architecture.

    Args:
        arch: The architecture.
        make: Returns the module of a layer, given its name in the network, see `module_names`.
    """
    slots: list[list[nn.Module]] = [[] for _ in arch.slots]
    for (number, block), names in zip(walk(arch), module_names(arch), strict=True):
        modules = [make(name, layer) for name, layer in zip(names, block.layers, strict=True)]
        slots[number].append(EachMap(modules) if block.for_each_map else modules[0])
    stages, neck, (head,) = slots[: len(arch.stages)], slots[len(arch.stages) : -1], slots[-1]
    if is_plain(arch):
        return Network(stages, head)
    network = MultiMapNetwork(stages, head, arch.taps, neck)
    network.outputs = len(output_shapes(block.layers[0]))
    return network


def is_plain(arch: Architecture) -> bool:
    """Return whether a network is a series of blocks with one output: it has neither taps nor a neck."""
    return not arch.taps and not arch.neck and len(output_shapes(trace(arch)[-1])) == 1


def module_names(arch: Architecture) -> list[list[str]]:
    """Return the names, in the network, of the modules of each block: several for one that each map has its own of."""
    found, last, position = list[list[str]](), -1, 0
    for number, block in walk(arch):
        position, last = (position + 1 if number == last else 0), number
        of, _ = slot_role(number, len(arch.stages), len(arch.neck))
        name = {"block": f"stages.{number}.{position}", "neck": f"neck.{number - len(arch.stages)}.{position}"}
        whole = name.get(of, "head")
        found.append([f"{whole}.{each}" for each in range(len(block.layers))] if block.for_each_map else [whole])
    return found


def set_drop_connect(network: Network, rate: float) -> None:
    """Set the drop-connect rate of each block after the stem.

    The rate grows linearly with depth from 0 at the first block, and would reach `rate` after the last one
    (EfficientNet, section 5; Huang et al. 2016). Raises ValueError if `rate` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the drop-connect rate must be in [0, 1): {rate}")
    blocks = [block for stage in network.stages for block in cast(nn.Sequential, stage)][1:]
    for index, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(module, DropConnect):
                module.rate = rate * index / len(blocks)


def in_channels(layer: Layer) -> tuple[int, ...]:
    """Return the channels of each input feature map of a layer."""
    return tuple(shape[0] for shape in input_shapes(layer))


def input_shapes(layer: Layer) -> tuple[Shape, ...]:
    """Return the input shapes of a layer. A block of a stage has one."""
    return as_shapes(layer.in_shape)


def output_shapes(layer: Layer) -> tuple[tuple[int, ...], ...]:
    """Return the output shapes of a layer."""
    return as_shapes(layer.out_shape)


def output_maps(layer: Layer) -> Maps:
    """Return the shapes of the feature maps that a layer outputs."""
    return tuple(shape for shape in output_shapes(layer) if len(shape) == 3)


def as_shapes(in_shape: Any) -> tuple[Shape, ...]:
    """Return `in_shape`, one shape or a tuple of shapes, as a tuple of shapes."""
    return in_shape if isinstance(in_shape[0], tuple) else (in_shape,)
