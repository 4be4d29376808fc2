"""Initial weights: what a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture
from nas.errors import RunError, WeightsError
from nas.networks.export import exported_in, load_exported
from nas.networks.network import build
from nas.networks.pretrained import load_fitting
from nas.training.inherited_weights import inherit


def initial_weights(arch: Architecture, init_from: str | None, name: str, seed: int) -> tuple[nn.Module, str]:
    """Return a network with its initial weights, and a description of them.

    Args:
        arch: The architecture.
        init_from: A run folder, an exported folder, a weights file, or "torchvision"; None: random weights. The network
            of a folder may be another one: the common part of both is copied.
        name: The name of the network, to find its counterpart in torchvision.
        seed: The seed of random weights.

    Raises:
        WeightsError: The weights do not fit.
        RunError: The folder has no network.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(arch)
    if init_from is None:
        return model, f"fresh, of seed {seed}"
    source = Path(init_from).expanduser()
    weights = exported_in(source) / "model.safetensors" if source.is_dir() else source
    try:
        return model, load_fitting(model, str(weights), name)
    except WeightsError as error:
        if not (source.is_dir() and weights.is_file()):
            raise WeightsError(str(error), where="--init-from") from error
    source_arch, network, _ = read_exported(source, "--init-from")
    try:
        found = inherit(model, arch, network, source_arch)
    except WeightsError as error:
        raise WeightsError(str(error), where="--init-from", value=init_from) from error
    return model, f"the network in {init_from} is another one: {found}"


def read_exported(folder: Path, flag: str) -> tuple[Architecture, nn.Module, dict[str, Any]]:
    """Return the architecture, network and card of a run folder's winner or an exported folder.

    Raises RunError, which names `flag` unless it is empty.
    """
    try:
        return load_exported(exported_in(folder))
    except RunError as error:
        raise RunError(str(error), where=flag) from error
