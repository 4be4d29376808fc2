"""Weights of torchvision's and timm's networks for ours: the same layers in order, under other names.

A layer is a module that owns tensors. Ours are listed in the order in which a forward pass calls them, a
checkpoint's in the order in which its network defines them, which is the same for the networks of TORCHVISION
and for timm's mobile families. Every shape is compared before one is written: a mismatch changes nothing.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import WeightsError
from nas.utils.registry import nearest

TORCHVISION = {
    "mobilenet_v2_1.0": "mobilenet_v2",
    "mobilenet_v3_large_1.0": "mobilenet_v3_large",
    "mobilenet_v3_small_1.0": "mobilenet_v3_small",
    "shufflenet_v2_0.5_torchvision": "shufflenet_v2_x0_5",
    "shufflenet_v2_1.0_torchvision": "shufflenet_v2_x1_0",
    "shufflenet_v2_1.5_torchvision": "shufflenet_v2_x1_5",
    "shufflenet_v2_2.0_torchvision": "shufflenet_v2_x2_0",
    "mnasnet_b1_0.5": "mnasnet0_5",
    "mnasnet_b1_0.75": "mnasnet0_75",
    "mnasnet_b1_1.0": "mnasnet1_0",
    "mnasnet_b1_1.3": "mnasnet1_3",
    **{f"efficientnet_b{index}": f"efficientnet_b{index}" for index in range(8)},
    "squeezenet_1.0": "squeezenet1_0",
    "squeezenet_1.1": "squeezenet1_1",
    "densenet121": "densenet121",
}
"""Our networks' names to those of their counterparts in torchvision."""

BATCH_NORM_EPS = 1e-5
"""What a checkpoint's batch norms are taken to have, as in torch and timm; torchvision's is looked up."""

_INVERTED = ("conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3")
_TIMM = (
    *("conv_stem", "stem", "conv_dw", "conv_exp", "conv", "bn1", "bn", "blocks", "stages", "se"),
    *("conv_pw", "conv_pwl", "conv_head", "bn2", "head", "classifier", "conv_reduce", "conv_expand"),
    *("conv_mid", "conv_concat", "attn", "fc", "weight", "bias", "running_mean", "running_var"),
)
"""timm's names of layers in the order of definition; within an inverted residual block, that of _INVERTED."""


@dataclass(frozen=True)
class _Layer:
    name: str
    tensors: dict[str, Tensor]


def load_weights(network: nn.Module, source: str, name: str, *, classifier: bool = True) -> str:
    """Load `source` into `network`, our network called `name`, and return what was loaded.

    `source` is "torchvision", for its default ImageNet weights, or the path of a .pth or .safetensors file of
    torchvision, timm or ourselves. Without `classifier` the last layer keeps its weights: it may have other
    classes. Raises WeightsError where there is no counterpart, the file is no checkpoint, or a layer differs.
    """
    if source == "torchvision":
        state, eps, loaded = torchvision_weights(name)
    else:
        state, loaded = read_checkpoint(Path(source)), source
        state, eps = _in_order(state, network, name, Path(source))
    try:
        copy_weights(state, network, eps=eps, classifier=classifier)
    except WeightsError as error:
        raise WeightsError(f"{loaded}: {error}") from error
    return loaded


def load_fitting(network: nn.Module, source: str, name: str) -> str:
    """Load `source` as `load_weights` does, but where only the last layer differs, as of other classes, leave that.

    Returns what was loaded, and says so where the classifier was not. Raises WeightsError.
    """
    try:
        return load_weights(network, source, name)
    except WeightsError as error:
        try:
            return f"{load_weights(network, source, name, classifier=False)}, the classifier fresh"
        except WeightsError:
            raise error from None


def torchvision_weights(name: str) -> tuple[dict[str, Tensor], float, str]:
    """Return the state dict of the counterpart of our network `name`, its batch norms' eps, and what it is.

    Downloads it where torch's hub folder does not have it. Raises WeightsError where torchvision has none.
    """
    from torchvision.models import get_model_weights

    if name not in TORCHVISION:
        raise WeightsError(f"torchvision has no weights for '{name}'{nearest(name, TORCHVISION)}")
    counterpart = TORCHVISION[name]
    weights: Any = get_model_weights(counterpart).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"torchvision {counterpart}: cannot be downloaded: {error}") from error
    return state, _eps(_on_meta(counterpart)), f"torchvision {counterpart} {weights.name}"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of what torch.save wrote, without running any of it.

    A state dict may stand under "state_dict" or "model", its names under "module.". Raises WeightsError.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds more than tensors, it is not loaded") from error
    except Exception as error:  # whatever a parser does with bytes that are no checkpoint
        raise WeightsError(f"{path}: not a checkpoint: {(str(error).splitlines() or [''])[0]}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path}: not a state dict: {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: '{key}' must be a tensor: {type(value).__name__}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def copy_weights(
    source: Mapping[str, Tensor], network: nn.Module, *, eps: float = BATCH_NORM_EPS, classifier: bool = True
) -> None:
    """Copy a state dict into `network`, layer by layer in order.

    A difference between `eps`, of the source's batch norms, and ours goes into the running variance, which
    leaves the output in eval mode as it was; a 1x1 convolution and a linear layer stand for each other.
    Without `classifier` the last layer of both is left out. Raises WeightsError with the first layer that has
    no counterpart, misses a tensor, has one too many, or has one of another shape; then nothing is copied.
    """
    theirs, ours = _layers(source), _called(network)
    if not classifier:
        theirs, ours = theirs[:-1], ours[:-1]
    pairs = []
    for mine, other in zip_longest(ours, theirs):
        if other is None:
            raise WeightsError(f"the checkpoint has no layer for '{mine.name}', it ends before")
        if mine is None:
            raise WeightsError(f"the network has no layer for '{other.name}', it ends before")
        pairs += _matched(mine, other, network.get_submodule(mine.name), eps)
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)


def _matched(mine: _Layer, other: _Layer, module: nn.Module, eps: float) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor of our layer with the value that it takes."""
    for key in mine.tensors:
        if key not in other.tensors:
            raise WeightsError(f"'{other.name}' has no {key}, '{mine.name}' needs one")
    for key in other.tensors:
        if key not in mine.tensors:
            raise WeightsError(f"'{other.name}' has a {key}, '{mine.name}' has none")
    pairs = []
    for key, target in mine.tensors.items():
        value = other.tensors[key]
        if _shape(value) != _shape(target):
            raise WeightsError(
                f"'{other.name}.{key}' has the shape {tuple(value.shape)}, "
                f"'{mine.name}.{key}' needs {tuple(target.shape)}"
            )
        if key == "running_var" and isinstance(module, nn.BatchNorm2d):
            value = value + (eps - module.eps)
        pairs.append((target, value.reshape(target.shape)))
    return pairs


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape, that of a 1x1 convolution's weight as of the linear layer that it is."""
    shape = tuple(tensor.shape)
    return shape[:2] if shape[2:] == (1, 1) else shape


def _layers(state: Mapping[str, Tensor]) -> list[_Layer]:
    layers: dict[str, _Layer] = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if kind != "num_batches_tracked":
            layers.setdefault(name, _Layer(name, {})).tensors[kind] = tensor
    return list(layers.values())


def _called(network: nn.Module) -> list[_Layer]:
    """Return the network's layers in the order in which a forward pass calls them."""
    shadow = copy.deepcopy(network).to("meta", torch.float32).eval()
    names: dict[str, None] = {}
    for name, module in shadow.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda _, __, name=name: names.setdefault(name))
    with torch.no_grad():
        shadow(torch.empty((1, 3, 224, 224), device="meta"))
    found = {layer.name: layer for layer in _layers(network.state_dict(keep_vars=True))}
    return [found[name] for name in names]


def _in_order(state: dict[str, Tensor], network: nn.Module, name: str, path: Path) -> tuple[dict[str, Tensor], float]:
    """Return a file's tensors in the order of its network's layers, and the eps of its batch norms.

    A .safetensors file keeps no order: it is found again by the names, whoever gave them.
    """
    known = [(network, [f"{layer.name}.{kind}" for layer in _called(network) for kind in layer.tensors])]
    if name in TORCHVISION:
        counterpart = _on_meta(TORCHVISION[name])
        known.append((counterpart, _named(counterpart.state_dict())))
    for model, names in known:
        if 2 * len(state.keys() & set(names)) > len(names):
            return _ordered(state, names, path), _eps(model)
    words = {*_TIMM, *_INVERTED}
    if all(part.isdigit() or part in words for key in _named(state) for part in key.split(".")):
        return timm_order(state), BATCH_NORM_EPS
    if path.suffix == ".safetensors":
        raise WeightsError(
            f"{path}: its tensors have no order, and the name '{min(state)}' is neither ours nor "
            "torchvision's nor timm's; give a .pth"
        )
    return state, BATCH_NORM_EPS


def _ordered(state: Mapping[str, Tensor], names: list[str], path: Path) -> dict[str, Tensor]:
    for key in names:
        if key not in state:
            raise WeightsError(f"{path}: the tensor '{key}' is missing")
    for key in _named(state):
        if key not in names:
            raise WeightsError(f"{path}: the tensor '{key}' is of no layer{nearest(key, names)}")
    return {key: state[key] for key in names}


def timm_order(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one of timm's mobile networks in the order in which timm defines the layers."""
    children: dict[str, set[str]] = {}
    for key in state:
        parts = key.split(".")
        for index, part in enumerate(parts):
            children.setdefault(".".join(parts[:index]), set()).add(part)

    def place(key: str) -> list[int]:
        parts = key.split(".")
        places = []
        for index, part in enumerate(parts):
            inverted = children[".".join(parts[:index])] >= {"conv_dw", "conv_pwl"}
            places.append(int(part) if part.isdigit() else (_INVERTED if inverted else _TIMM).index(part))
        return places

    return {key: state[key] for key in sorted(_named(state), key=place)}


def _named(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.endswith("num_batches_tracked")]


def _on_meta(name: str) -> nn.Module:
    from torchvision.models import get_model

    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None)
    return model


def _eps(model: nn.Module) -> float:
    norms = (module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return next(norms, BATCH_NORM_EPS)
