"""Shared weights: a bank of parameters for a whole space, from which every architecture uses slices.

For each place of the space (stage, layer, operator), the bank contains every parameter that a block can have there, in
the largest shape that any choice requires. An architecture uses the leading channels and the center of the kernel
(slimmable networks, Yu et al. 2019; Once-for-All, Cai et al. 2020; BigNAS, Yu et al. 2020, section 3). So every block
type can share weights without a special elastic version. Different operators do not share parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.networks.blocks import find_block
from nas.networks.first_weights import initialize, with_first_weights
from nas.networks.network import Layer, Network, assemble, build, in_channels, make_block, module_names, walk
from nas.networks.pretrained import slice_parameter
from nas.spaces.automaton import SpaceAutomaton, unroll
from nas.spaces.search_space import Space
from nas.utils.files import write_bytes

MAX_BLOCKS = 2_000
"""How many blocks a supernet caches."""


class Supernet(nn.Module):
    """The parameter bank of a space. `child` trains an architecture in it, `extract` copies one out of it.

    Parameters are initialized as in `nas.networks.network.build`, from torch's default generator.
    """

    def __init__(self, space: Space):
        super().__init__()
        self.space = space
        self._automaton = unroll(space)
        self._blocks: dict[Any, SharedBlock] = {}
        largest = _largest_parameters(self._automaton)
        self.names = tuple(largest)
        """The names of the bank's parameters, in order: "stage2/layer0/mbconv/project.0.weight:4" (4 dimensions)."""
        self._index = {name: index for index, name in enumerate(self.names)}
        self.bank = nn.ParameterList(largest.values())

    def child(self, arch: Architecture) -> Child:
        """Return an architecture as a module that trains the bank.

        Call its `backward(loss)`; `loss.backward()` would not reach the bank. Children share modules, including
        batch-norm statistics, so use `extract` for evaluations.

        Raises:
            SpaceError: The architecture is not in the space.
        """
        self._automaton.path(arch)
        return Child(self, arch)

    def forget_blocks(self) -> None:
        """Release the cached blocks of children after the training."""
        self._blocks.clear()

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """Return an independent network with a copy of its slices. Its batch norms have no statistics yet.

        Raises:
            SpaceError: The architecture is not in the space.
        """
        self._automaton.path(arch)
        with torch.random.fork_rng():
            network = build(arch).to(self.bank[0].device)
        for name, place in places(arch, network).items():
            parameter = network.get_parameter(name)
            parameter.copy_(slice_parameter(self.whole(place, parameter.ndim), parameter.shape))
        return network

    @torch.no_grad()
    def fill(self, arch: Architecture, change: Callable[[Network, Architecture], Any]) -> None:
        """Change the parameters of a network of the space, in place, and copy them to their slices of the bank."""
        network = self.extract(arch)
        change(network, arch)
        for name, place in places(arch, network).items():
            parameter = network.get_parameter(name)
            slice_parameter(self.whole(place, parameter.ndim), parameter.shape).copy_(parameter)

    def whole(self, place: str, ndim: int) -> nn.Parameter:
        """Return the parameter of the bank at a place, such as "stage0/layer0/conv/conv.0.weight"."""
        return cast(nn.Parameter, self.bank[self._index[f"{place}:{ndim}"]])

    def shared_block(self, place: str, layer: Layer) -> SharedBlock:
        """Return the cached block of a layer at a place. All children with this layer use it."""
        key = (place, layer.spec, in_channels(layer))
        if key not in self._blocks:
            with torch.random.fork_rng():
                block = make_block(layer.spec, in_channels(layer)).to(self.bank[0].device)
            block.to(memory_format=torch.channels_last)
            named = [(name, own) for name, own in block.named_parameters()]
            wholes = [self.whole(f"{place}/{layer.spec.op}/{name}", own.ndim) for name, own in named]
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = SharedBlock(block, tuple(zip((own for _, own in named), wholes, strict=True)))
        return self._blocks[key]


@dataclass(frozen=True)
class SharedBlock:
    """A block that borrows its parameters from the bank.

    Attributes:
        block: The block.
        parameters: Pairs of a parameter of the block and the parameter of the bank that contains it.
    """

    block: nn.Module
    parameters: tuple[tuple[nn.Parameter, nn.Parameter], ...]


class Child(nn.Module):
    """An architecture that borrows its parameters from the bank for one step: `forward`, then `backward`.

    Slices are copied in and gradients are copied out. This is several times faster than slicing within autograd
    (torch.func.functional_call), where convolutions use non-contiguous weights and gradients are as large as the bank.
    """

    def __init__(self, supernet: Supernet, arch: Architecture):
        super().__init__()
        shared: list[SharedBlock] = []
        place_of = module_places(arch)

        def share(name: str, layer: Layer) -> nn.Module:
            shared.append(supernet.shared_block(place_of[name], layer))
            return shared[-1].block

        self.network = assemble(arch, share)
        self._borrowed = [pair for block in shared for pair in block.parameters]

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> the output of the head."""
        with torch.no_grad():
            for own, whole in self._borrowed:
                own.copy_(slice_parameter(whole, own.shape))
        return self.network(x)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the bank. Parameters that were not used get no gradient."""
        loss.backward()  # type: ignore[no-untyped-call]
        for own, whole in self._borrowed:
            if own.grad is not None:
                if whole.grad is None:
                    whole.grad = torch.zeros_like(whole)
                slice_parameter(whole.grad, own.shape).add_(own.grad)
                own.grad = None


def save_bank(supernet: Supernet, path: Path) -> None:
    """Write the bank atomically, as tensors by name. Raises WeightsError if the file cannot be written."""
    tensors = {
        name: whole.detach().cpu().contiguous() for name, whole in zip(supernet.names, supernet.bank, strict=True)
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors))
    except OSError as error:
        raise WeightsError(f"the supernet cannot be written ({error.strerror or error})", where=path) from error


@torch.no_grad()
def load_bank(supernet: Supernet, path: Path) -> None:
    """Load the bank from a file. Raises WeightsError if the file is broken or belongs to another space."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"not the weights of a supernet ({error})", where=path) from error
    bank = dict(zip(supernet.names, supernet.bank, strict=True))
    different = sorted(tensors.keys() ^ bank.keys())
    different += [name for name in bank if name in tensors and tensors[name].shape != bank[name].shape]
    if different:
        rule = f"belongs to another space than '{supernet.space.name}': the parameter '{different[0]}' differs"
        raise WeightsError(rule, where=path)
    for name, whole in bank.items():
        whole.copy_(tensors[name])


def places(arch: Architecture, network: Network) -> dict[str, str]:
    """Return the place in the bank of each parameter of a network, by the name of the parameter."""
    blocks = zip(walk(arch), module_names(arch), strict=True)
    ops = {name: block.spec.op for (_, block), names in blocks for name in names}
    return {
        f"{module}.{name}": f"{place}/{ops[module]}/{name}"
        for module, place in module_places(arch).items()
        for name, _ in network.get_submodule(module).named_parameters()
    }


def module_places(arch: Architecture) -> dict[str, str]:
    """Return the place in the bank of each module of a network, by the name of the module."""
    found, last, layer = dict[str, str](), -1, 0
    for (slot, _), names in zip(walk(arch), module_names(arch), strict=True):
        layer, last = (layer + 1 if slot == last else 0), slot
        found |= {name: _place(slot, layer, number, len(names)) for number, name in enumerate(names)}
    return found


def _place(slot: int, layer: int, number: int = 0, maps: int = 1) -> str:
    """Return the place of a layer; several layers of one block, one for each feature map, have places of their own."""
    return f"stage{slot}/layer{layer}" + (f"/map{number}" if maps > 1 else "")


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _layers(automaton: SpaceAutomaton) -> Iterator[tuple[str, Layer]]:
    """Yield every possible layer of the space with its place. The neck and the head count as stages after the last."""
    position: dict[int, int] = {}
    for segment in automaton.positions[1:]:
        layer_number = position.setdefault(segment.slot, 0)
        position[segment.slot] += 1
        for step in segment.rows:
            for number, layer in enumerate(step.layers):
                yield f"{_place(segment.slot, layer_number, number, len(step.layers))}/{layer.spec.op}", layer


def _largest_parameters(automaton: SpaceAutomaton) -> dict[str, nn.Parameter]:
    """Return {"place/name:dimensions": an initialized parameter with the largest shape that any layer needs}."""
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, tuple[type[nn.Module], str]] = {}
    biases: dict[str, Tensor] = {}
    for place, layer in _layers(automaton):
        biases |= {f"{place}/{name}:1": value for name, value in _first_biases(layer).items()}
        with torch.device("meta"):
            block = make_block(layer.spec, in_channels(layer))
        for prefix, module in block.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                key = f"{place}/{_dotted(prefix, own)}:{parameter.ndim}"
                known = shapes.get(key, tuple(parameter.shape))
                shapes[key] = tuple(map(max, known, parameter.shape))
                owners[key] = (type(module), own)
    found = {key: nn.Parameter(initialize(torch.empty(shape), *owners[key])) for key, shape in shapes.items()}
    for key, values in biases.items():
        found[key].data[: len(values)] = values
    return found


def _first_biases(layer: Layer) -> dict[str, Tensor]:
    """Return the biases, by name, that a block sets to values of its own, see `with_first_weights`."""
    if not hasattr(find_block(layer.spec.op), "set_first_biases"):
        return {}
    with torch.random.fork_rng():
        block = with_first_weights(make_block(layer.spec, in_channels(layer)))
    named = [(name, each.data) for name, each in block.named_parameters() if name.rpartition(".")[2] == "bias"]
    return {name: each for name, each in named if each.any()}
