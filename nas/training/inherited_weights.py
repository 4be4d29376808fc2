"""Inherited weights: a network starts from those of another one, as far as their layers have something in common."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.networks.network import module_names, output_shapes, slot_role, walk
from nas.networks.pretrained import slice_parameter

WIDE = {"expand": 0, "depthwise": 0, "se.reduce": 1, "se.expand": 0, "project": 1}
"""The layers of an inverted bottleneck that have its hidden channels, and the dimension that these are in."""


@dataclass(frozen=True)
class Inherited:
    """What a network inherits.

    Attributes:
        blocks: The number of blocks that inherit something.
        of_blocks: The number of all blocks.
        parameters: The number of parameters that come along.
        of_parameters: The number of all parameters.
        fresh: The names of the blocks that inherit nothing, in order.
    """

    blocks: int
    of_blocks: int
    parameters: int
    of_parameters: int
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        share = self.parameters / max(1, self.of_parameters)
        text = f"{self.blocks} of {self.of_blocks} blocks, {self.parameters:,} parameters ({share:.0%})"
        return f"{text}; fresh: {', '.join(self.fresh)}" if self.fresh else text


@dataclass(frozen=True)
class _Block:
    name: str
    place: tuple[str, int]
    op: str
    module: nn.Module


@torch.no_grad()
def inherit(network: nn.Module, arch: Architecture, source: nn.Module, source_arch: Architecture) -> Inherited:
    """Copy weights and batch norm statistics of another network, in place.

    Blocks of the backbone correspond if their outputs are reduced alike, in their order: the first one to the first,
    further ones to further ones, and those that the source lacks to its last one (Net2Net, Chen et al. 2016, for
    depth). Tensors of the same name correspond as far as both reach: the leading channels and the center of the kernel.
    A kernel that is larger has zeros around. If an inverted bottleneck has fewer hidden channels, those with the
    largest weights are kept (Once-for-All, Cai et al. 2020, section 3.3). The last layer is fresh if its classes
    differ. The layer that reads the image is changed as `_recolored` says if the numbers of channels differ.

    Args:
        network: The network that inherits.
        arch: Its architecture.
        source: The network whose weights are copied.
        source_arch: Its architecture.

    Raises:
        WeightsError: Nothing corresponds.
    """
    theirs, channels = defaultdict(list), (source_arch.input.channels, arch.input.channels)
    for block in _blocks(source_arch, source):
        theirs[block.place].append(block)
    seen: dict[tuple[str, int], int] = defaultdict(int)
    counts, fresh = list[int](), list[str]()
    blocks = _blocks(arch, network)
    for block in blocks:
        candidates = theirs[block.place]
        index = min(seen[block.place], len(candidates) - 1)
        seen[block.place] += 1
        image = channels if block is blocks[0] else None
        count = _copy(block, candidates[index], image) if candidates else 0
        counts.append(count)
        if not count and any(True for _ in block.module.parameters()):
            fresh.append(block.name)
    if not any(counts):
        raise WeightsError("no layer of the network has a counterpart")
    total = sum(parameter.numel() for parameter in network.parameters())
    return Inherited(sum(map(bool, counts)), len(blocks), sum(counts), total, tuple(fresh))


def _blocks(arch: Architecture, network: nn.Module) -> list[_Block]:
    """Return the blocks of a network with their places: the role, and how often the output is halved or the number."""
    found = []
    for (slot, placed), names in zip(walk(arch), module_names(arch), strict=True):
        role, _ = slot_role(slot, len(arch.stages), len(arch.neck))
        for number, (name, layer) in enumerate(zip(names, placed.layers, strict=True)):
            at = round(math.log2(arch.resolution / output_shapes(layer)[0][-2])) if role == "block" else number
            found.append(_Block(name, (role, at), layer.spec.op, network.get_submodule(name)))
    return found


def _copy(block: _Block, other: _Block, image: tuple[int, int] | None) -> int:
    """Copy what corresponds and return the number of parameters.

    Args:
        block: The block that inherits.
        other: Its counterpart.
        image: The channels of the image that the counterpart and the block read; None for later blocks.
    """
    if block.place[0] != "block" and block.op != other.op:
        return 0
    theirs = _narrowed(dict(other.module.state_dict()), dict(block.module.state_dict()))
    parameters, count = dict(block.module.named_parameters()), 0
    last = [name for name, module in block.module.named_modules() if isinstance(module, nn.Linear)][-1:]
    for name, tensor in block.module.state_dict().items():
        value = theirs.get(name)
        if value is None or value.ndim != tensor.ndim or not tensor.is_floating_point():
            continue
        if [name.rpartition(".")[0]] == last and len(value) != len(tensor):
            continue
        if image and value.ndim == 4 and (value.shape[1], tensor.shape[1]) == image:
            value = _recolored(value, image[1])
        copied = _copy_overlap(tensor, value.to(tensor.device))
        count += copied if name in parameters else 0
    return count


def _recolored(weight: Tensor, channels: int) -> Tensor:
    """Return the weight (N, C, k, k) of a convolution of images for other channels: gray, RGB, or RGB and alpha.

    The weight for gray is the sum of the three, so that a gray image gives about the same (as in timm); the weights for
    RGB are thirds of the one for gray. Alpha has zeros.
    """
    if weight.shape[1] == channels:
        return weight
    colors = weight[:, :3] if weight.shape[1] >= 3 else weight.expand(-1, 3, -1, -1) / 3
    if channels == 1:
        return colors.sum(1, keepdim=True)
    return colors if channels == 3 else torch.cat([colors, torch.zeros_like(colors[:, :1])], 1)


def _narrowed(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a block with its most important hidden channels first, if ours has fewer of them."""
    project, mine = theirs.get("project.0.weight"), ours.get("project.0.weight")
    if project is None or mine is None or mine.ndim != 4 or mine.shape[1] >= project.shape[1]:
        return theirs
    order = project.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    found = dict(theirs)
    for name, value in theirs.items():
        dim = next((at for layer, at in WIDE.items() if name.startswith(f"{layer}.")), None)
        if dim is not None and value.ndim > dim and value.shape[dim] == len(order):
            found[name] = value.index_select(dim, order)
    return found


def _copy_overlap(tensor: Tensor, value: Tensor) -> int:
    """Copy the leading channels and the center of the kernel, and return the number of copied elements."""
    shape = [min(sizes) for sizes in zip(tensor.shape, value.shape, strict=True)]
    if tensor.shape[2:] != value.shape[2:]:
        slice_parameter(tensor, [*shape[:2], *tensor.shape[2:]]).zero_()
    overlap = slice_parameter(tensor, shape)
    overlap.copy_(slice_parameter(value, shape))
    return overlap.numel()
