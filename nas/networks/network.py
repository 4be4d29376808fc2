"""Networks: trace an architecture (shapes and costs per layer), build it, and prepare it for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.architecture import Architecture, BlockSpec, Shape
from nas.errors import SpaceError, one_line, reason
from nas.networks.block_schema import block_spec, simplify, takes_maps
from nas.networks.blocks import find_block, is_ours
from nas.networks.blocks.layers import DropConnect
from nas.networks.cost_counter import Convolution, CostCounter
from nas.networks.first_weights import with_first_weights

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Layer:
    """One block of a network with its shapes and costs. (spec, in_shape) is its key in a latency table.

    Attributes:
        spec: The block.
        in_shape: Input shape (C, H, W). Heads and necks have a tuple of shapes.
        out_shape: Output shape.
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
    out_shape: Shape | tuple[int, ...]
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


def trace(arch: Architecture) -> tuple[Layer, ...]:
    """Return the layers of `arch` in order, with the head last.

    Raises:
        SpaceError: A block cannot be built, or a stride leaves no pixels. The error names stage and layer.
    """
    layers = []
    shape: Shape = (IMAGE_CHANNELS, arch.resolution, arch.resolution)
    for index, stage in enumerate(arch.stages):
        for position, spec in enumerate(stage):
            layer = traced(spec, shape, f"stage {index}, layer {position}")
            layers.append(layer)
            shape = layer.out_shape  # type: ignore[assignment]
    layers.append(traced(arch.head, (shape,), "head"))
    return tuple(layers)


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
    if not isinstance(out, Tensor):
        raise SpaceError("forward must return a tensor", where=_described(spec.op), value=type(out).__name__)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Layer(
        spec=spec,
        in_shape=in_shape,
        out_shape=tuple(out.shape[1:]),
        params=params,
        macs=cost.macs,
        memory_access=cost.memory_access,
        activations=cost.activations,
        element_wise_access=cost.element_wise_access,
        peak_activation=cost.peak_activation,
        convolutions=tuple(cost.convolutions),
    )


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
    specs = iter([layer.spec for layer in trace(arch)])
    stages = tuple(tuple(next(specs) for _ in stage) for stage in arch.stages)
    return Architecture(arch.resolution, stages, next(specs))


def build(arch: Architecture) -> Network:
    """Return the network of `arch` with fresh weights from torch's default generator, see `first_weights`."""
    modules = (make_block(layer.spec, in_channels(layer)) for layer in trace(arch))
    blocks = [[next(modules) for _ in stage] for stage in arch.stages]
    return with_first_weights(Network(blocks, next(modules)))


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


def as_shapes(in_shape: Any) -> tuple[Shape, ...]:
    """Return `in_shape`, one shape or a tuple of shapes, as a tuple of shapes."""
    return in_shape if isinstance(in_shape[0], tuple) else (in_shape,)


def deploy(model: nn.Module) -> nn.Module:
    """Return a copy for inference: eval mode, each module's `deploy()` and batch norm folded into convolutions."""
    model = _deployed(copy.deepcopy(model).eval())
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norm(module)
    return model.requires_grad_(False)


def _deployed(module: nn.Module) -> nn.Module:
    own: Callable[[], nn.Module] | None = getattr(module, "deploy", None)
    if own is not None:
        return own()
    for name, child in module.named_children():
        setattr(module, name, _deployed(child))
    return module


def _fold_batch_norm(sequence: nn.Sequential) -> None:
    children = list(sequence)
    for index in range(len(children) - 1):
        conv, norm = children[index], children[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = fuse_conv_bn_eval(conv, norm)
            sequence[index + 1] = nn.Identity()
