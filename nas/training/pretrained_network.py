"""A pretrained network, whose weights other networks start from: that of a folder, of a file, or of torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.errors import RunError, WeightsError
from nas.networks.blocks import find_block
from nas.networks.exported_folder import exported_in, load_exported
from nas.networks.network import build, totals, trace
from nas.networks.pretrained import TORCHVISION, load_weights, read_checkpoint
from nas.spaces.yaml_format import load_architecture, load_space, space_names
from nas.training.checkpoint import fingerprint
from nas.training.inherited_weights import Inherited, inherit

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The tensors of a batch norm that are no parameters."""


@dataclass(frozen=True, eq=False)
class PretrainedNetwork:
    """A trained network.

    Attributes:
        name: What it is called: the folder or file, or its name in torchvision.
        architecture: Its architecture.
        network: The network with its weights.
    """

    name: str
    architecture: Architecture
    network: nn.Module

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that the architecture and the weights decide."""
        return f"{self.architecture.digest[:8]}{fingerprint(self.network.state_dict())[:8]}"

    def initialize(self, network: nn.Module, arch: Architecture) -> Inherited | None:
        """Copy what corresponds into another network, in place; see `inherit`. None: nothing corresponds."""
        try:
            return inherit(network, arch, self.network, self.architecture)
        except WeightsError:
            return None

    def describe(self, arch: Architecture) -> str:
        """Return in words what a network would inherit."""
        with torch.random.fork_rng():
            inherited = self.initialize(build(arch), arch)
        return str(inherited) if inherited else "nothing, because no layer has a counterpart"


@cache
def read_pretrained(given: str, like: Architecture, flag: str = "--weights") -> PretrainedNetwork:
    """Return the network that a flag names.

    Args:
        given: A run folder, an exported folder, a weights file of a shipped network, a name of a network of which
            torchvision has weights, or "torchvision" for the one of these that has most in common with `like`.
        like: A network that is to inherit.
        flag: The flag, for messages.

    Raises:
        WeightsError: There is no such file, it belongs to no shipped network, or the download failed.
        RunError: The folder has no network.
    """
    source = Path(given).expanduser()
    if source.is_dir():
        arch, network, _ = read_exported(source, flag)
        return PretrainedNetwork(given, arch, network)
    try:
        if given == "torchvision" or (given in TORCHVISION and not source.exists()):
            name = most_common(like) if given == "torchvision" else given
            return _loaded(name, load_architecture(name), "torchvision")
        return _from_file(source)
    except WeightsError as error:
        raise WeightsError(str(error), where=flag) from error


def most_common(like: Architecture) -> str:
    """Return the name of the network in torchvision of whose parameters a network inherits most. Nothing is loaded."""

    def inherited(name: str) -> int:
        arch = load_architecture(name)
        with torch.device("meta"):
            ours, theirs = build(like), build(arch)
        try:
            return inherit(ours, like, theirs, arch).parameters
        except WeightsError:
            return 0

    return max(TORCHVISION, key=inherited)


def _loaded(name: str, arch: Architecture, source: str) -> PretrainedNetwork:
    with torch.random.fork_rng():
        network = build(arch)
    loaded = load_weights(network, source, name)
    return PretrainedNetwork(loaded if source == "torchvision" else f"{loaded} ({name})", arch, network)


def _from_file(path: Path) -> PretrainedNetwork:
    """Return the shipped network whose weights a file holds. Raises WeightsError."""
    state = read_checkpoint(path)
    count = sum(value.numel() for key, value in state.items() if key.rpartition(".")[2] not in STATISTICS)
    reasons = []
    for name, arch in _networks_with(count, _possible_classes(state)):
        try:
            return _loaded(name, arch, str(path))
        except WeightsError as error:
            reasons.append(str(error))
    if reasons:
        raise WeightsError(reasons[0])
    advice = "give the folder that `nas export NETWORK.yaml --weights FILE --out DIR` writes"
    raise WeightsError(f"has {count:,} parameters, which no shipped network has; {advice}", where=path)


def _networks_with(params: int, classes: list[int]) -> Iterator[tuple[str, Architecture]]:
    """Yield the shipped networks that have a number of parameters, with one of these numbers of classes."""
    for space in map(load_space, space_names()):
        if space.is_network:
            arch = space.decode({})
            has_classes = "num_classes" in signature(find_block(arch.head.op)).parameters
            for given in (arch, *(map(arch.for_classes, classes) if has_classes else ())):
                if totals(trace(given)).params == params:
                    yield space.name, given
                    break


def _possible_classes(state: dict[str, Tensor]) -> list[int]:
    """Return the numbers of outputs of the linear layers in a checkpoint, each once."""
    found = (len(value) for key, value in state.items() if value.ndim == 2 and key.endswith(".weight"))
    return list(dict.fromkeys(found))


def read_exported(folder: Path, flag: str) -> tuple[Architecture, nn.Module, dict[str, Any]]:
    """Return the architecture, network and card of a run folder's winner or an exported folder.

    Raises RunError, which names `flag` unless it is empty.
    """
    try:
        return load_exported(exported_in(folder))
    except RunError as error:
        raise RunError(str(error), where=flag) from error
