"""The weights of a classifier for the backbone of a detector."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nas.errors import WeightsError
from nas.networks.pretrained import (
    BATCH_NORM_EPS,
    TORCHVISION,
    layers_in_call_order,
    layers_of,
    matched_tensors,
    read_checkpoint,
    restore_order,
    torchvision_weights,
)

BACKBONES = {
    **{f"efficientdet_d{index}": f"efficientnet_b{index}" for index in range(7)},
    "efficientdet_d7": "efficientnet_b6",
    "efficientdet_d7x": "efficientnet_b7",
    **{f"mobilenet_v2_ssdlite_{classes}_r320": "mobilenet_v2_1.0" for classes in ("c81", "c91", "voc21")},
    "mobilenet_v3_large_ssdlite_r320": "mobilenet_v3_large_1.0",
    "mobilenet_v3_small_ssdlite_r320": "mobilenet_v3_small_1.0",
}
"""The classifier whose backbone a reference detector has."""


def load_backbone(network: nn.Module, source: str, name: str) -> str:
    """Load the first layers of a classifier into the backbone of a detector, up to the first one that differs.

    Args:
        network: The detector.
        source: "torchvision" for the weights of the classifier in `BACKBONES`, or the path of a checkpoint.
        name: The name of the detector.

    Returns:
        What was loaded, and what is fresh.

    Raises:
        WeightsError: There is no counterpart, the file is not a checkpoint, or not even the first layers fit.
    """
    if source == "torchvision":
        state, eps, loaded = torchvision_weights(BACKBONES.get(name, name))
    else:
        state, loaded = read_checkpoint(Path(source)), source
        state, eps = _ordered(state, network, BACKBONES.get(name, name), Path(source))
    ours = [layer for layer in layers_in_call_order(network) if layer.name.startswith("stages.")]
    pairs: list[tuple[Tensor, Tensor]] = []
    count, reason = 0, ""
    for mine, other in zip(ours, layers_of(state), strict=False):
        try:
            pairs += matched_tensors(mine, other, network.get_submodule(mine.name), eps)
        except WeightsError as error:
            reason = f"; then {error}"
            break
        count += 1
    if not count:
        raise WeightsError(f"fits no layer of the backbone{reason}", where=loaded)
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)
    rest = "" if count == len(ours) else reason
    return f"{loaded}: {count} of {len(ours)} layers of the backbone; neck and head are fresh{rest}"


def _ordered(state: dict[str, Tensor], network: nn.Module, name: str, path: Path) -> tuple[dict[str, Tensor], float]:
    """Return a checkpoint's tensors in the order of its layers, and the epsilon of its batch norms."""
    own = [f"{layer.name}.{kind}" for layer in layers_in_call_order(network) for kind in layer.tensors]
    shared = [key for key in own if key in state]
    if any(key.startswith("stages.") for key in shared):
        return {key: state[key] for key in shared}, BATCH_NORM_EPS
    if name not in TORCHVISION and path.suffix == ".safetensors":
        raise WeightsError("a .safetensors file has no order, and its names are unknown; give a .pth file", where=path)
    return restore_order(state, network, name, path)
