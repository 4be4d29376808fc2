"""Pretrained weights: load checkpoints of torchvision and timm, whose layers have other names but the same order.

A layer is a module that owns tensors. Our layers are listed in the order in which a forward pass calls them, a
checkpoint's in the order in which its network defines them. Both orders agree for the networks in TORCHVISION
and for timm's mobile families. All shapes are checked before anything is copied.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import WeightsError, one_line
from nas.networks.standalone.state_names import internal_state
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
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
}
"""Maps our networks to their counterparts in torchvision."""

BATCH_NORM_EPS = 1e-5
"""The epsilon of torch's and timm's batch norms. It is assumed for every checkpoint except torchvision's."""

WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
"""The names under which training scripts nest the state dict, the preferred first."""

AVERAGED = "n_averaged"
"""The counter that torch's averages of weights have beside their tensors."""

_INVERTED = ("conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3")
_ATTENTION = ("norm", "query", "key", "value", "output", "attn", "layer_scale")
_REDUCED = ("down_conv", "norm", "proj")
_TIMM = (
    *("in_conv", "context_module", "local_module", "main", "qkv", "aggreg", "proj", "inverted_conv", "depth_conv"),
    *("spatial_conv", "point_conv", "conv_stem", "stem", "conv_dw", "conv_exp", "conv", "bn1", "bn", "blocks"),
    *("stages", "conv1", "conv2", "se"),
    *("dw_start", "pw_exp", "dw_mid", "pw_proj", "dw_end", "layer_scale", "gamma", "conv3", "downsample"),
    *("conv_pw", "conv_pwl", "conv_head", "norm_head", "bn2", "head", "classifier", "conv_reduce", "conv_expand"),
    *("conv_mid", "conv_concat", "attn", "fc1", "fc2", "fc", "norm", "weight", "bias", "running_mean", "running_var"),
)
"""timm's layer names in the order of definition; within some modules it is another one, see `_order`."""
_NUMBERED = re.compile(r"(?:s|b|res)?(\d+)")


@dataclass(frozen=True)
class _Layer:
    name: str
    tensors: dict[str, Tensor]


def load_weights(network: nn.Module, source: str, name: str, *, classifier: bool = True) -> str:
    """Load pretrained weights.

    Args:
        network: The network to load into.
        source: "torchvision" for its default ImageNet weights, or the path of a .pth or .safetensors file from
            torchvision, timm or this project.
        name: The name of our network, to find its counterpart in torchvision.
        classifier: Whether to load the last layer too. If not, it may have another number of classes.

    Returns:
        A description of the loaded weights.

    Raises:
        WeightsError: There is no counterpart, the file is not a checkpoint, or a layer differs.
    """
    if source == "torchvision":
        state, eps, loaded = torchvision_weights(name)
    else:
        state, loaded = read_checkpoint(Path(source)), source
        state, eps = restore_order(state, network, name, Path(source))
    try:
        copy_weights(state, network, eps=eps, classifier=classifier)
    except WeightsError as error:
        raise WeightsError(str(error), where=loaded) from error
    return loaded


def load_fitting(network: nn.Module, source: str, name: str) -> str:
    """Load weights as `load_weights` does, but keep the last layer fresh if only that one differs.

    A detector can take those of a classifier for its backbone, see `load_backbone`.

    Returns:
        A description of the loaded weights, which also reports what is fresh.

    Raises:
        WeightsError: As in `load_weights`.
    """
    try:
        return load_weights(network, source, name)
    except WeightsError as error:
        if hasattr(network, "taps"):
            from nas.networks.detectors.backbone_weights import load_backbone

            return load_backbone(network, source, name)
        try:
            return f"{load_weights(network, source, name, classifier=False)}, the classifier fresh"
        except WeightsError:
            raise error from None


def torchvision_weights(name: str) -> tuple[dict[str, Tensor], float, str]:
    """Return the weights of torchvision's counterpart of our network `name`, downloaded unless cached.

    Returns:
        The state dict, the epsilon of its batch norms, and a description.

    Raises:
        WeightsError: torchvision has no counterpart, or the download failed.
    """
    from torchvision.models import get_model_weights

    if name not in TORCHVISION:
        raise WeightsError(f"torchvision has no weights for '{name}'", nearest=nearest(name, TORCHVISION))
    counterpart = TORCHVISION[name]
    weights: Any = get_model_weights(counterpart).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"cannot be downloaded: {one_line(error)}", where=f"torchvision {counterpart}") from error
    return state, _eps(_on_meta(counterpart)), f"torchvision {counterpart} {weights.name}"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of a file from torch.save, without executing code from it.

    The state dict may be nested under one of `WRAPPERS`, an average of the weights first. A prefix "module." of its
    names is removed, those of an exported network become those of `Network`, and half precision becomes float32.
    Raises WeightsError if the file is not a checkpoint.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError("no such file", where=path) from None
    except pickle.UnpicklingError as error:
        raise WeightsError("not loaded: it contains more than tensors, which is unsafe", where=path) from error
    except Exception as error:  # parsers raise all kinds of errors for bytes that are not a checkpoint
        raise WeightsError(f"not a checkpoint: {one_line(error)}", where=path) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"not a state dict: {type(state).__name__}", where=path)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"'{key}' must be a tensor: {type(value).__name__}", where=path)
    tensors = {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key != AVERAGED
    }
    return internal_state(tensors)


def copy_weights(
    source: Mapping[str, Tensor], network: nn.Module, *, eps: float = BATCH_NORM_EPS, classifier: bool = True
) -> None:
    """Copy a state dict into a network, layer by layer in order. A 1x1 convolution matches a linear layer.

    Args:
        source: The state dict, in the order of its network's layers.
        network: The network to copy into.
        eps: Epsilon of the source's batch norms. If ours differs, the running variance is shifted by the
            difference, so that the output in eval mode stays the same.
        classifier: Whether to copy the last layer.

    Raises:
        WeightsError: A layer has no counterpart, a missing or extra tensor, or one of another shape. The error
            names the first such layer. Nothing is copied.
    """
    theirs, ours = layers_of(source), layers_in_call_order(network)
    if not classifier:
        theirs, ours = theirs[:-1], ours[:-1]
    pairs = []
    for mine, other in zip_longest(ours, theirs):
        if other is None:
            raise WeightsError(f"the checkpoint has no layer for '{mine.name}'")
        if mine is None:
            raise WeightsError(f"the network has no layer for '{other.name}'")
        pairs += matched_tensors(mine, other, network.get_submodule(mine.name), eps)
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)


def matched_tensors(mine: _Layer, other: _Layer, module: nn.Module, eps: float) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor of our layer with its new value."""
    for key in mine.tensors:
        if key not in other.tensors:
            raise WeightsError(f"'{other.name}' has no {key}, but '{mine.name}' needs one")
    for key in other.tensors:
        if key not in mine.tensors:
            raise WeightsError(f"'{other.name}' has a {key}, but '{mine.name}' has none")
    pairs = []
    for key, target in mine.tensors.items():
        value = other.tensors[key]
        if _shape(value) != _shape(target):
            raise WeightsError(
                f"'{other.name}.{key}' has the shape {tuple(value.shape)}, but "
                f"'{mine.name}.{key}' needs {tuple(target.shape)}"
            )
        if key == "running_var" and isinstance(module, nn.BatchNorm2d):
            value = value + (eps - module.eps)
        pairs.append((target, value.reshape(target.shape)))
    return pairs


def slice_parameter(whole: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a view of `shape`: the leading channels (dimensions 0 and 1) and the center of the kernel.

    The center of an even kernel is the element before its middle, as `Conv2x2` pads.
    """
    for dim, size in enumerate(shape):
        if (full_size := whole.shape[dim]) != size:
            whole = whole.narrow(dim, 0 if dim < 2 else (full_size - 1) // 2 - (size - 1) // 2, size)
    return whole


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor. A 1x1 convolution's weight has the shape of the equivalent linear layer."""
    shape = tuple(tensor.shape)
    return shape[:2] if shape[2:] == (1, 1) else shape


def layers_of(state: Mapping[str, Tensor]) -> list[_Layer]:
    """Return the layers of a state dict, in its order."""
    layers: dict[str, _Layer] = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if kind != "num_batches_tracked":
            layers.setdefault(name, _Layer(name, {})).tensors[kind] = tensor
    return list(layers.values())


def layers_in_call_order(network: nn.Module) -> list[_Layer]:
    """Return the layers of a network in the order in which a forward pass calls them."""
    shadow = copy.deepcopy(network).to("meta", torch.float32).eval()
    names: dict[str, None] = {}
    for name, module in shadow.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda _, __, name=name: names.setdefault(name))
    with torch.no_grad():
        channels = next((each.in_channels for each in shadow.modules() if isinstance(each, nn.Conv2d)), 3)
        shadow(torch.empty((1, channels, 224, 224), device="meta"))
    found = {layer.name: layer for layer in layers_of(network.state_dict(keep_vars=True))}
    return [found[name] for name in names]


def restore_order(
    state: dict[str, Tensor], network: nn.Module, name: str, path: Path
) -> tuple[dict[str, Tensor], float]:
    """Return a checkpoint's tensors in the order of its network's layers, and the epsilon of its batch norms.

    A .safetensors file does not keep the order. It is restored by the names, which may be ours, torchvision's
    or timm's.
    """
    known = [(network, [f"{layer.name}.{kind}" for layer in layers_in_call_order(network) for kind in layer.tensors])]
    if name in TORCHVISION:
        counterpart = _on_meta(TORCHVISION[name])
        known.append((counterpart, _without_counters(counterpart.state_dict())))
    for model, names in known:
        if 2 * len(state.keys() & set(names)) > len(names):
            return _ordered(state, names, path), _eps(model)
    words = {*_TIMM, *_INVERTED, *_ATTENTION, *_REDUCED}
    if all(_NUMBERED.fullmatch(part) or part in words for key in _without_counters(state) for part in key.split(".")):
        return timm_order(state), BATCH_NORM_EPS
    if path.suffix == ".safetensors":
        raise WeightsError(
            f"a .safetensors file has no order, and the name '{min(state)}' is unknown to this project, torchvision "
            "and timm; give a .pth file",
            where=path,
        )
    return state, BATCH_NORM_EPS


def _ordered(state: Mapping[str, Tensor], names: list[str], path: Path) -> dict[str, Tensor]:
    for key in names:
        if key not in state:
            raise WeightsError(f"the tensor '{key}' is missing", where=path)
    for key in _without_counters(state):
        if key not in names:
            raise WeightsError(f"the tensor '{key}' belongs to no layer", where=path, nearest=nearest(key, names))
    return {key: state[key] for key in names}


def timm_order(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one of timm's mobile networks in the order in which timm defines its layers."""
    children: dict[str, set[str]] = {}
    for key in state:
        parts = key.split(".")
        for index, part in enumerate(parts):
            children.setdefault(".".join(parts[:index]), set()).add(part)

    def position(key: str) -> list[tuple[int, int]]:
        parts = key.split(".")
        parents = (".".join(parts[:index]) for index in range(len(parts)))
        return [_place(part, children[parent]) for part, parent in zip(parts, parents, strict=True)]

    return {key: state[key] for key in sorted(_without_counters(state), key=position)}


def _place(part: str, siblings: set[str]) -> tuple[int, int]:
    """Return where a part of a timm name stands among its siblings. Numbers may have letters: s1, b12, res0."""
    if match := _NUMBERED.fullmatch(part):
        return _TIMM.index("stages"), int(match[1])
    return _order(siblings).index(part), 0


def _order(siblings: set[str]) -> tuple[str, ...]:
    """Return the order of the parts of a module: an inverted residual block, an attention block, its keys, others."""
    if siblings >= {"conv_dw", "conv_pwl"}:
        return _INVERTED
    if siblings >= {"norm", "attn"} or siblings >= {"query", "key"}:
        return _ATTENTION
    return _REDUCED if "down_conv" in siblings else _TIMM


def _without_counters(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.endswith("num_batches_tracked")]


def _on_meta(name: str) -> nn.Module:
    from torchvision.models import get_model

    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None)
    return model


def _eps(model: nn.Module) -> float:
    norms = (module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return next(norms, BATCH_NORM_EPS)
