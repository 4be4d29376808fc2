"""Initial weights: what a training starts from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.networks.exported_folder import exported_in
from nas.networks.network import build_seeded
from nas.networks.pretrained import load_fitting
from nas.training.pretrained_network import read_pretrained


def initial_weights(arch: Architecture, init_from: str | None, name: str, seed: int) -> tuple[nn.Module, str]:
    """Return a network with its initial weights, and a description of them.

    Args:
        arch: The architecture.
        init_from: A run folder, an exported folder, a weights file, or "torchvision"; None: random weights. The network
            of a folder, and a shipped one of a file, may be another one: the common part of both is copied.
        name: The name of the network, to find its counterpart in torchvision.
        seed: The seed of random weights.

    Raises:
        WeightsError: The weights do not fit.
        RunError: The folder has no network.
    """
    model = build_seeded(arch, seed)
    if init_from is None:
        return model, f"fresh, of seed {seed}"
    source = Path(init_from).expanduser()
    weights = exported_in(source) / "model.safetensors" if source.is_dir() else source
    try:
        return model, load_fitting(model, str(weights), name)
    except WeightsError as error:
        own = WeightsError(str(error), where="--init-from")
        if not weights.is_file() and init_from != "torchvision":
            raise own from error
    try:
        found = read_pretrained(init_from, arch, "--init-from").initialize(model, arch)
    except WeightsError as error:
        raise (error if source.is_dir() else own) from error
    if found is None:
        raise WeightsError("no layer of the network has a counterpart", where="--init-from", value=init_from)
    return model, f"the network in {init_from} is another one: {found}"
