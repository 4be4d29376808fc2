"""Weight sharing: one bank of parameters for a whole space, of which every architecture takes its slices.

For each place of the space (stage, layer, operator) the bank holds every parameter that a block can have there, in the
largest shape that any choice gives it. A child reads the leading channels and the centre of the kernel (slimmable
networks, Yu et al. 2019; Once-for-All, Cai et al. 2020; BigNAS, Yu et al. 2020, section 3), so that any block of the
language shares weights without an elastic twin. Operators do not share with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.networks.network import Layer, Network, build, in_channels, initialize, make_block, trace
from nas.spaces.automaton import SpaceAutomaton, unroll
from nas.spaces.search_space import Space
from nas.utils.files import write_bytes

KEPT_BLOCKS = 2_000


class Supernet(nn.Module):
    """The bank of a space's parameters. `child` runs an architecture on it, `extract` copies one out of it.

    Begins as `nas.networks.network.build` begins networks, from torch's default generator.
    """

    def __init__(self, space: Space):
        super().__init__()
        self.space = space
        self._lattice = unroll(space)
        self._turns: dict[Any, SharedBlock] = {}
        largest = _largest_parameters(self._lattice)
        self.names = tuple(largest)
        """The name of every parameter of the bank, in order: "stage2/layer0/mbconv/project.0.weight"."""
        self._at = {name: index for index, name in enumerate(self.names)}
        self.bank = nn.ParameterList(largest.values())

    def child(self, arch: Architecture) -> Child:
        """Return `arch` as a module that trains the bank: by its `backward`, a loss's own reaches only the module.

        Children share their modules, and with them what batch norm saw last: to evaluate one, `extract` it.
        Raises SpaceError where the space does not hold it.
        """
        self._lattice.path(arch)
        return Child(self, arch)

    def forget_blocks(self) -> None:
        """Drop the modules that children took turns with: the training is over."""
        self._turns.clear()

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """Return a network of its own with a copy of its slices; its batch norms know no statistics yet.

        Raises SpaceError where the space does not hold it.
        """
        self._lattice.path(arch)
        with torch.random.fork_rng():
            network = build(arch).to(self.bank[0].device)
        for name, place in places(arch, network).items():
            parameter = network.get_parameter(name)
            parameter.copy_(part_of(self.whole(place, parameter.ndim), parameter.shape))
        return network

    def whole(self, place: str, ndim: int) -> nn.Parameter:
        """Return the bank's parameter at `place`."""
        return cast(nn.Parameter, self.bank[self._at[f"{place}:{ndim}"]])

    def turn(self, place: str, layer: Layer) -> SharedBlock:
        """Return the module of `layer` at `place`: children take turns with it."""
        key = (place, layer.spec, in_channels(layer))
        if key not in self._turns:
            with torch.random.fork_rng():
                block = make_block(layer.spec, in_channels(layer)).to(self.bank[0].device)
            block.to(memory_format=torch.channels_last)
            named = [(name, own) for name, own in block.named_parameters()]
            wholes = [self.whole(f"{place}/{layer.spec.op}/{name}", own.ndim) for name, own in named]
            if len(self._turns) >= KEPT_BLOCKS:
                self._turns.clear()
            self._turns[key] = SharedBlock(block, tuple(zip((own for _, own in named), wholes, strict=True)))
        return self._turns[key]


def part_of(whole: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the leading channels, and the centre of the kernel, of a tensor of the bank, as a view."""
    for dim, want in enumerate(shape):
        if (have := whole.shape[dim]) != want:
            whole = whole.narrow(dim, 0 if dim < 2 else (have - want) // 2, want)
    return whole


@dataclass(frozen=True)
class SharedBlock:
    """A block, and for each of its parameters the bank's that it is a part of."""

    block: nn.Module
    parameters: tuple[tuple[nn.Parameter, nn.Parameter], ...]


class Child(nn.Module):
    """An architecture that borrows its slices of a supernet's bank for a step: forward, then `backward`.

    Copying slices in and gradients out costs a fraction of slices within autograd (torch.func.functional_call), whose
    convolutions see weights with gaps and whose gradients are as large as the bank.
    """

    def __init__(self, supernet: Supernet, arch: Architecture):
        super().__init__()
        layers = iter(trace(arch))
        turns = [
            [supernet.turn(_place(stage, layer), next(layers)) for layer in range(len(specs))]
            for stage, specs in enumerate((*arch.stages, (arch.head,)))
        ]
        self.network = Network([[turn.block for turn in stage] for stage in turns[:-1]], turns[-1][0].block)
        self._borrowed = [pair for stage in turns for turn in stage for pair in turn.parameters]

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> what the architecture's head gives."""
        with torch.no_grad():
            for own, whole in self._borrowed:
                own.copy_(part_of(whole, own.shape))
        return self.network(x)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the bank's; parameters of the bank that had no part keep none."""
        loss.backward()  # type: ignore[no-untyped-call]
        for own, whole in self._borrowed:
            if own.grad is not None:
                if whole.grad is None:
                    whole.grad = torch.zeros_like(whole)
                part_of(whole.grad, own.shape).add_(own.grad)
                own.grad = None


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


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _layers(lattice: SpaceAutomaton) -> Iterator[tuple[str, Layer]]:
    """Yield every layer that the space can have, with its place; the head is the stage after the last."""
    position: dict[int, int] = {}
    for segment in lattice.positions[1:]:
        layer_number = position.setdefault(segment.slot, 0)
        position[segment.slot] += 1
        for step in segment.rows:
            if step.layer is not None:
                yield f"{_place(segment.slot, layer_number)}/{step.layer.spec.op}", step.layer


def _largest_parameters(lattice: SpaceAutomaton) -> dict[str, nn.Parameter]:
    """Return {"place/name:dimensions": a fresh parameter in the largest shape that any layer gives it}."""
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, tuple[type[nn.Module], str]] = {}
    for place, layer in _layers(lattice):
        with torch.device("meta"):
            block = make_block(layer.spec, in_channels(layer))
        for prefix, module in block.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                key = f"{place}/{_dotted(prefix, own)}:{parameter.ndim}"
                known = shapes.get(key, tuple(parameter.shape))
                shapes[key] = tuple(map(max, known, parameter.shape))
                owners[key] = (type(module), own)
    return {key: nn.Parameter(initialize(torch.empty(shape), *owners[key])) for key, shape in shapes.items()}
