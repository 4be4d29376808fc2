"""Weight sharing: one bank of parameters for a whole space, of which every architecture takes its slices.

For each place of the space (stage, layer, operator) the bank holds every parameter that a block can have there, in the
largest shape that any choice gives it. A child reads the leading channels and the centre of the kernel (slimmable
networks, Yu et al. 2019; Once-for-All, Cai et al. 2020; BigNAS, Yu et al. 2020, section 3), so that any block of the
language shares weights without an elastic twin. Operators do not share with each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.files import write_bytes
from nas.lattice import Lattice, unroll
from nas.network import Layer, Network, build, in_channels, initialize, make_block
from nas.space import Space

CACHED_CHILDREN = 64


class Supernet(nn.Module):
    """The bank of a space's parameters. `child` runs an architecture on it, `extract` copies one out of it.

    Begins as `nas.network.build` begins networks, from torch's default generator.
    """

    def __init__(self, space: Space):
        super().__init__()
        self.space = space
        self._lattice = unroll(space)
        self._children: OrderedDict[str, Child] = OrderedDict()
        largest = _largest_parameters(self._lattice)
        self.names = tuple(largest)
        """The name of every parameter of the bank, in order: "stage2/layer0/mbconv/project.0.weight"."""
        self._at = {name: index for index, name in enumerate(self.names)}
        self.bank = nn.ParameterList(largest.values())

    def child(self, arch: Architecture) -> Child:
        """Return `arch` as a module whose parameters are slices of the bank: to train it is to train the bank.

        Raises SpaceError where the space does not hold it.
        """
        found = self._children.pop(arch.digest, None)
        if found is None:
            self._lattice.path(arch)
            found = Child(self, arch)
        self._children[arch.digest] = found
        if len(self._children) > CACHED_CHILDREN:
            self._children.popitem(last=False)
        return found

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """Return a network of its own with a copy of its slices; its batch norms know no statistics yet.

        Raises SpaceError where the space does not hold it.
        """
        self._lattice.path(arch)
        network = build_apart(arch).to(self.bank[0].device)
        for name, place in places(arch, network).items():
            parameter = network.get_parameter(name)
            parameter.copy_(self.slice(place, tuple(parameter.shape)))
        return network

    def slice(self, place: str, shape: tuple[int, ...]) -> Tensor:
        """Return the leading channels, and the centre of the kernel, of the bank's parameter at `place`."""
        whole: Tensor = self.bank[self._at[f"{place}:{len(shape)}"]]
        if tuple(whole.shape) == shape:
            return whole
        starts = [0 if dim < 2 else (whole.shape[dim] - want) // 2 for dim, want in enumerate(shape)]
        return whole[tuple(slice(start, start + want) for start, want in zip(starts, shape, strict=True))]


class Child(nn.Module):
    """An architecture that runs on slices of a supernet's bank. Batch-norm statistics are its own."""

    def __init__(self, supernet: Supernet, arch: Architecture):
        super().__init__()
        self.network = build_apart(arch).to(supernet.bank[0].device)
        self._slices = [
            (name, place, tuple(self.network.get_parameter(name).shape))
            for name, place in places(arch, self.network).items()
        ]
        self.network.requires_grad_(False)
        self._bank = (supernet,)  # in a tuple: the bank is not this module's to save, move or count

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> what the architecture's head gives."""
        (supernet,) = self._bank
        return functional_call(
            self.network, {name: supernet.slice(place, shape) for name, place, shape in self._slices}, (x,)
        )


def save_bank(supernet: Supernet, path: Path) -> None:
    """Write the bank by the names of its parameters, whole or not at all. Raises WeightsError."""
    tensors = {
        name: whole.detach().cpu().contiguous() for name, whole in zip(supernet.names, supernet.bank, strict=True)
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors))
    except OSError as error:
        raise WeightsError(f"{path}: the supernet cannot be written: {error.strerror or error}") from error


@torch.no_grad()
def load_bank(supernet: Supernet, path: Path) -> None:
    """Fill the bank from what `save_bank` wrote. Raises WeightsError for a broken file or another space's."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a supernet's weights: {error}") from error
    odd = sorted(tensors.keys() ^ set(supernet.names))
    odd += [name for name, whole in zip(supernet.names, supernet.bank, strict=True)
            if name in tensors and tensors[name].shape != whole.shape]  # fmt: skip
    if odd:
        raise WeightsError(f"{path}: is of another space than '{supernet.space.name}': '{odd[0]}' differs")
    for name, whole in zip(supernet.names, supernet.bank, strict=True):
        whole.copy_(tensors[name])


def build_apart(arch: Architecture) -> Network:
    """Return `build(arch)` without a step of torch's random state: its weights will be replaced."""
    with torch.random.fork_rng():
        return build(arch)


def places(arch: Architecture, network: Network) -> dict[str, str]:
    """Return {name of the parameter in the network: its place in the bank}."""
    named = [
        (f"stages.{stage}.{layer}", f"{_place(stage, layer)}/{spec.op}")
        for stage, specs in enumerate(arch.stages)
        for layer, spec in enumerate(specs)
    ]
    named.append(("head", f"{_place(len(arch.stages), 0)}/{arch.head.op}"))
    return {
        f"{module}.{name}": f"{place}/{name}"
        for module, place in named
        for name, _ in network.get_submodule(module).named_parameters()
    }


def _place(slot: int, layer: int) -> str:
    return f"stage{slot}/layer{layer}"


def _layers(lattice: Lattice) -> Iterator[tuple[str, Layer]]:
    """Yield every layer that the space can have, with its place; the head is the stage after the last."""
    position: dict[int, int] = {}
    for segment in lattice.segments[1:]:
        layer_number = position.setdefault(segment.slot, 0)
        position[segment.slot] += 1
        for step in segment.rows:
            if step.layer is not None:
                yield f"{_place(segment.slot, layer_number)}/{step.layer.spec.op}", step.layer


def _largest_parameters(lattice: Lattice) -> dict[str, nn.Parameter]:
    """Return {"place/name:dimensions": a fresh parameter in the largest shape that any layer gives it}."""
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, tuple[type[nn.Module], str]] = {}
    for place, layer in _layers(lattice):
        with torch.device("meta"):
            block = make_block(layer.spec, in_channels(layer))
        for prefix, module in block.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                key = f"{place}/{prefix + '.' if prefix else ''}{own}:{parameter.ndim}"
                known = shapes.get(key, tuple(parameter.shape))
                shapes[key] = tuple(map(max, known, parameter.shape))
                owners[key] = (type(module), own)
    return {key: nn.Parameter(initialize(torch.empty(shape), *owners[key])) for key, shape in shapes.items()}
