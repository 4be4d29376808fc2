"""From an architecture to a network, and the one walk over it that serves shapes, parameters, MACs and latency."""

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
from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, simplify, takes_maps
from nas.networks.blocks import BLOCKS
from nas.networks.blocks.layers import DropConnect
from nas.networks.cost_counter import Convolution, CostCounter
from nas.utils.registry import lookup

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Layer:
    """One block at its place. (spec, in_shape) is the key of a latency table.

    `params` counts nn.Parameter elements, `macs` the multiply-accumulates of convolutions and linear layers
    at batch 1, `memory_access` the elements read and written when batch norm and activations are fused
    (ShuffleNetV2, section 2, G1; here also over element-wise additions, pooling and concatenation).
    `activations`, `element_wise_access`, `peak_activation` (elements) and `convolutions` are those of
    `CostCounter`. Heads and necks take a tuple of shapes.
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
    """The costs of a whole network: sums over its layers, `peak_activation` the largest. In elements."""

    params: int
    macs: int
    activations: int
    memory_access: int
    element_wise_access: int
    peak_activation: int

    @property
    def arithmetic_intensity(self) -> float:
        """Multiply-accumulates per element read or written (Williams et al. 2009, in elements for bytes)."""
        return self.macs / self.memory_access


class Network(nn.Module):
    """Stages of blocks in series and a head on the last feature map."""

    def __init__(self, stages: list[list[nn.Module]], head: nn.Module):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> what the head gives; logits (B, num_classes) for a classifier."""
        for stage in self.stages:
            x = stage(x)
        return self.head([x])


def trace(arch: Architecture) -> tuple[Layer, ...]:
    """Return the layers of `arch` in order, the head last.

    Raises SpaceError with stage and layer where a block cannot be built or a stride leaves no pixels.
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
    """Return what the layers of a network cost together."""
    sums = {
        name: sum(getattr(layer, name) for layer in layers)
        for name in ("params", "macs", "activations", "memory_access", "element_wise_access")
    }
    return Totals(**sums, peak_activation=max(layer.peak_activation for layer in layers))


def traced(spec: BlockSpec, in_shape: Shape | tuple[Shape, ...], where: str = "block") -> Layer:
    """Return the layer that `spec` makes at `in_shape`, cached. Raises SpaceError as `trace` does."""
    try:
        return _layer(_simplified(spec, in_shape), in_shape)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error


@lru_cache(maxsize=200_000)
def _simplified(spec: BlockSpec, in_shape: Any) -> BlockSpec:
    spec = block_spec(spec.op, spec.kwargs)
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
            raise SpaceError(f"{spec}: {str(error).splitlines()[0]}") from error
    params = sum(parameter.numel() for parameter in module.parameters())
    return Layer(
        spec, in_shape, tuple(out.shape[1:]), params, cost.macs, cost.memory_access, cost.activations,
        cost.element_wise_access, cost.peak_activation, tuple(cost.convolutions),
    )  # fmt: skip


def make_block(spec: BlockSpec, in_channels: tuple[int, ...]) -> nn.Module:
    """Return the module of `spec`. Raises SpaceError where its rules forbid it."""
    kind = lookup(BLOCKS, spec.op, "block", error=SpaceError)
    try:
        return kind(in_channels if takes_maps(spec.op) else in_channels[0], **spec.kwargs)
    except (ValueError, TypeError) as error:
        raise SpaceError(f"{spec.op}: {error}") from error


def canonical(arch: Architecture) -> Architecture:
    """Return the same network in the one spelling that all its equivalents share."""
    specs = iter([layer.spec for layer in trace(arch)])
    stages = tuple(tuple(next(specs) for _ in stage) for stage in arch.stages)
    return Architecture(arch.resolution, stages, next(specs))


def build(arch: Architecture) -> Network:
    """Return the network of `arch` with fresh weights from torch's default generator.

    Convolutions start from He's normal distribution over the fan-out (He et al. 2015), linear layers from
    a normal with deviation 0.01, as torchvision's mobile networks do.
    """
    layers = iter(trace(arch))
    blocks = [[_built(next(layers)) for _ in stage] for stage in arch.stages]
    network = Network(blocks, _built(next(layers)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                initialize(parameter, type(module), name)
    return network


@torch.no_grad()
def initialize(parameter: Tensor, owner: type[nn.Module], name: str) -> Tensor:
    """Fill the parameter `name` of an `owner` with fresh values, as `build` does, and return it."""
    if name == "bias":
        return parameter.zero_()
    if issubclass(owner, nn.Conv2d):
        return nn.init.kaiming_normal_(parameter, mode="fan_out")
    if issubclass(owner, nn.Linear):
        return nn.init.normal_(parameter, std=0.01)
    return parameter.fill_(1.0)  # the weight of a norm


def set_drop_connect(network: Network, rate: float) -> None:
    """Let the blocks after the stem drop their residual branch in training, 0 at the first, `rate` past the last.

    Linear in depth (EfficientNet, section 5; Huang et al. 2016). Raises ValueError outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the drop-connect rate must lie in [0, 1): {rate}")
    blocks = [block for stage in network.stages for block in cast(nn.Sequential, stage)][1:]
    for index, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(module, DropConnect):
                module.rate = rate * index / len(blocks)


def _built(layer: Layer) -> nn.Module:
    return make_block(layer.spec, in_channels(layer))


def in_channels(layer: Layer) -> tuple[int, ...]:
    """Return the channels of each feature map that the layer reads."""
    return tuple(shape[0] for shape in input_shapes(layer))


def input_shapes(layer: Layer) -> tuple[Shape, ...]:
    """Return the shapes that the layer reads, one for a block of a stage."""
    return as_shapes(layer.in_shape)


def as_shapes(in_shape: Any) -> tuple[Shape, ...]:
    """Return the shapes of a layer's `in_shape`, which is one shape or a tuple of them."""
    return in_shape if isinstance(in_shape[0], tuple) else (in_shape,)


def deploy(model: nn.Module) -> nn.Module:
    """Return a copy for inference: eval mode, each block's own `deploy()`, batch norm folded into convolutions."""
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
