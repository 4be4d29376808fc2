"""timm's form of a network: block strings for timm's EfficientNet or MobileNetV3, and the weights under its names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from nas.architecture import Architecture
from nas.errors import NOT_GIVEN, ExportError, reason
from nas.networks.block_schema import arguments
from nas.networks.blocks.layers import make_divisible
from nas.networks.exported_folder import check_input
from nas.networks.exported_outputs import check_close
from nas.networks.forms.base import Source, Written
from nas.networks.network import totals, trace, walk
from nas.networks.pretrained import copy_weights, layers_in_call_order
from nas.networks.standalone.specialize import formatted
from nas.utils.units import format_count

PYTHON, WEIGHTS = "timm_model.py", "timm.safetensors"
TOLERANCE = 1e-4
"""Largest allowed difference of an output of timm's network, relative to the largest output."""
KINDS = {"conv": "cn", "separable": "dsa", "mbconv": "ir", "fbnet_block": "ir", "fused_mbconv": "er", "uib": "uir"}
KINDS |= {"multi_query_attention": "mqa", "classifier": "cn"}
"""timm's words for our blocks; of the head, for the 1x1 convolution before its mean."""
UNEXPANDED = {"mbconv": "ds", "fused_mbconv": "cn"}
"""The same for blocks without an expansion: ours have one convolution less."""
ACTIVATIONS = {"relu": "nre", "relu6": "nr6", "hard_swish": "nhs", "swish": "nsw"}
STEM = {"kernel_size": 3, "stride": 2, "groups": 1, "se_ratio": 0.0, "skip": "none"}
REDUCTION = 32
"""Where a stride would make the map more than 32 times smaller, timm dilates. Its EfficientNet takes another limit."""
TEMPLATE = '''"""{about}

Written by nas, of the distribution hwnas. It needs torch and timm, but not nas.
"""

from pathlib import Path
from typing import Any

from timm.layers import get_act_layer
from timm.models import {kind}
from timm.models._efficientnet_builder import decode_arch_def
{imports}

ARCH_DEF = {strings}
ARGUMENTS: dict[str, Any] = {arguments}


def build(num_classes: int = {classes}) -> {kind}:
    """Return the network with fresh weights."""
    arguments = {{**ARGUMENTS, "act_layer": get_act_layer(ARGUMENTS["act_layer"])}}
    {squeeze}
    arguments["round_chs_fn"] = int  # keeps widths that are no multiples of 8
    return {kind}(decode_arch_def(ARCH_DEF), num_classes=num_classes, **arguments)


def load(path: str | Path | None = None) -> {kind}:
    """Return the network in eval mode, with the weights beside this file."""
    from safetensors.torch import load_file

    network = build()
    network.load_state_dict(load_file(path or Path(__file__).with_name("{weights}")))
    return network.eval()
'''
IMPORTS = """from functools import partial
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import round_channels"""
SQUEEZE = """arguments["se_layer"] = partial(
    SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer="relu", rd_round_fn=round_channels)"""


class _Common(NamedTuple):
    """What all blocks of one of timm's networks share; `activation` is the default of the block strings."""

    is_mobilenet_v3: bool
    activation: str
    se_from: str
    layer_scale: bool


class _Block(NamedTuple):
    """A block with its place, all of its keywords and the channels that it reads."""

    where: str
    op: str
    args: dict[str, Any]
    channels: int

    def check(self, is_fine: bool, rule: str, key: str = "") -> None:
        """Raise an ExportError that names this block, and the keyword `key` with its value, unless `is_fine`."""
        if not is_fine:
            value = self.args[key] if key else NOT_GIVEN
            raise ExportError(rule, where=f"{self.where}: block '{self.op}'", key=key, value=value)

    @property
    def hidden(self) -> int:
        """The channels after the expansion."""
        exact = self.channels * self.args.get("expand_ratio", 1.0)
        return make_divisible(exact) if self.op == "uib" else round(exact)

    @property
    def kind(self) -> str:
        """timm's word for this block. Raises ExportError if it has none."""
        self.check(self.op in KINDS, "timm's EfficientNet and MobileNetV3 have no such block")
        return UNEXPANDED.get(self.op, KINDS[self.op]) if self.hidden == self.channels else KINDS[self.op]


def write_timm(source: Source) -> Written:
    """timm's block strings, as timm_model.py and timm.safetensors; needs timm.

    Raises ExportError as `write`.
    """
    return Written(write(source.arch, source.model, source.folder))


def write(arch: Architecture, model: nn.Module, folder: Path) -> str:
    """Write timm_model.py and timm.safetensors into `folder`, and return the name of the Python file.

    `model` is the network of `arch` with weights, in eval mode.

    Raises:
        ExportError: timm cannot express a layer, which the error names; timm is missing or too old; the outputs differ.
    """
    source = _source(arch)
    try:
        import timm
        from safetensors.torch import save_file
    except ImportError as error:
        raise ExportError("needs timm: pip install timm", where=PYTHON) from error
    path, weights = folder / PYTHON, folder / WEIGHTS
    path.write_text(source, encoding="utf-8")
    layers = layers_in_call_order(model)
    tensors = {f"{layer.name}.{key}": value for layer in layers for key, value in layer.tensors.items()}
    try:
        with torch.random.fork_rng():
            network = _module(path).build()
        copy_weights(tensors, network)
        save_file(network.state_dict(), weights)
        weights.chmod(path.stat().st_mode)
        network = _module(path).load()
    except Exception as error:  # another version of timm can raise anything
        raise ExportError(f"timm {timm.__version__} cannot build the network: {reason(error)}", where=path) from error
    image = check_input(arch.input_shape)
    with torch.no_grad():
        for images in (image, torch.cat([image, image.flip(-1)])):
            check_close(network(images), model(images), TOLERANCE, path)
    return PYTHON


def _module(path: Path) -> Any:
    """Return a Python file as a new module. No compiled file is written."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    return module


def _source(arch: Architecture) -> str:
    """Return the Python file. Raises ExportError if timm cannot express the network."""
    head = _Block("head", arch.head.op, arguments(arch.head), 0)
    stages = _stages(arch)
    head.check(any(stages) and not arch.neck, "timm's networks have layers before the head, and no neck")
    stem, *blocks = (block for stage in stages for block in stage)
    common = _common(stem, blocks, head)
    texts = [[_text(block, common) for block in stage if block is not stem] for stage in stages]
    features = head.args["hidden_channels"]
    if features and (common.is_mobilenet_v3 or head.args["activation"] != common.activation):
        args = {"out_channels": features, "kernel_size": 1, "skip": "none", "activation": head.args["activation"]}
        texts, features = [*texts, [_text(head._replace(args=args), common)]], 0
    given = {
        "in_chans": arch.input.channels,
        "stem_size": stem.args["out_channels"],
        "num_features": head.args["pooled_channels"] or features,
        "act_layer": common.activation,
        "drop_rate": head.args["dropout"],
        **_options(common, head, [stem, *blocks]),
    }
    costs, is_hard = totals(trace(arch)), common.se_from == "expansion"
    size = f"{format_count(costs.params)} parameters, {format_count(costs.macs)} MACs at {arch.input_size} px"
    source = TEMPLATE.format(
        about=f"Architecture {arch.digest} for timm: {size}.",
        imports=IMPORTS if is_hard else "",
        kind="MobileNetV3" if common.is_mobilenet_v3 else "EfficientNet",
        strings=[strings for stage in texts for strings in _merged(stage)],
        arguments=given,
        classes=head.args["num_classes"],
        squeeze=SQUEEZE if is_hard else "",
        weights=WEIGHTS,
    )
    return formatted(source, is_ours=False)


def _stages(arch: Architecture) -> list[list[_Block]]:
    stages: list[list[_Block]] = [[] for _ in arch.stages]
    for number, found in walk(arch):
        if number < len(stages):
            where, channels = f"stage {number}, layer {len(stages[number])}", found.layers[0].in_shape[0]
            stages[number].append(_Block(where, found.spec.op, arguments(found.spec), cast(int, channels)))
    return stages


def _common(stem: _Block, blocks: Sequence[_Block], head: _Block) -> _Common:
    """Return what the blocks share. Raises ExportError for a first layer or a head that timm does not have."""
    head.check(head.op == "classifier", "timm's EfficientNet and MobileNetV3 have the head 'classifier'")
    stem.check(stem.op == "conv" and bool(blocks), "timm's networks begin with a 'conv' and go on with other blocks")
    for key, value in STEM.items():
        stem.check(stem.args[key] == value, f"must be {value} for timm's first layer", key)
    first, is_mobilenet_v3 = stem.args["activation"], head.args["pooled_channels"] > 0
    stem.check(first != "none", "timm's first layer has an activation", "activation")
    if is_mobilenet_v3:
        head.check(head.args["pooled_norm"] != "layer", "must be batch or none for timm", "pooled_norm")
        head.check(head.args["activation"] == first, f"must be '{first}' for timm, as in the first layer", "activation")
    squeezes = (block.args["se_from"] for block in blocks if block.args.get("se_ratio") and "se_from" in block.args)
    scales = (block.args["layer_scale"] for block in blocks if "layer_scale" in block.args)
    return _Common(is_mobilenet_v3, first, next(squeezes, ""), next(scales, False))


def _options(common: _Common, head: _Block, blocks: Sequence[_Block]) -> dict[str, Any]:
    """Return further arguments of timm's class. Raises ExportError where it would dilate instead of a stride."""
    head.check(head.args["bias"], "timm's classifier has a bias", "bias")
    reduction = 1
    for block in blocks:
        reduction *= block.args.get("stride", 1)
        is_fine = reduction <= REDUCTION or not common.is_mobilenet_v3
        block.check(is_fine, f"timm's MobileNetV3 makes the map at most {REDUCTION} times smaller", "stride")
    if not common.is_mobilenet_v3:
        return {"output_stride": reduction} if reduction > REDUCTION else {}
    options = {"head_norm": head.args["pooled_norm"] == "batch", "layer_scale_init_value": common.layer_scale and 1e-5}
    given = {key: value for key, value in options.items() if value}
    return {**given, "se_from_exp": False} if common.se_from == "input" else given


def _merged(stage: Sequence[str]) -> list[list[str]]:
    """Return the strings of a stage, equal ones as repeats. timm begins another stage at each stride."""
    found: list[list[tuple[str, int]]] = []
    for text in stage:
        if not found or "_s2_" in text:
            found.append([])
        first, count = found[-1].pop() if found[-1] else (text, 0)
        is_equal = not count or text == first.replace("_s2_", "_s1_")
        found[-1] += [(first, count + 1)] if is_equal else [(first, count), (text, 1)]
    return [[first.format(count) for first, count in each] for each in found]


def _text(block: _Block, common: _Common) -> str:
    """Return the string of a block, with {} for the number of repeats. Raises ExportError as `write` does."""
    kind, args, channels, hidden = block.kind, block.args, block.channels, block.hidden
    stride, start, scaled, ratio = args.get("stride", 1), args.get("start_kernel_size", 0), args.get("layer_scale"), ""
    block.check(stride in (1, 2), "must be 1 or 2 for timm", "stride")
    block.check(start == 0 or start % 2 == 1, "must be odd for timm", "start_kernel_size")
    block.check(args["kernel_size"] == 0 or args["kernel_size"] % 2 == 1, "must be odd for timm", "kernel_size")
    block.check(scaled in (None, common.layer_scale), "must be the same in all blocks for timm", "layer_scale")
    block.check(not scaled or common.is_mobilenet_v3, "timm needs a head with pooled_channels for it", "layer_scale")
    if kind in ("ir", "er", "uir"):
        rule = f"makes {hidden} channels of {channels}, but timm rounds them to a multiple of 8"
        block.check(hidden % 8 == 0, rule, "expand_ratio")
        ratio = _decimal(args["expand_ratio"], channels, hidden, make_divisible)
    first = [kind, "r{}", f"a{start}" if start else "", f"k{args['kernel_size']}"]
    heads = [f"h{args['heads']}", f"v{args['reduction']}", f"d{args['head_channels']}"] if kind == "mqa" else []
    width = [f"s{stride}", f"e{ratio}" if ratio else "", f"c{args['out_channels']}", _groups(block)]
    rest = [_squeeze(block, common, float(ratio or 1)), _activation(block, common), _skip(block)]
    return "_".join(option for option in (*first, *heads, *width, *rest) if option)


def _skip(block: _Block) -> str:
    skip, is_plain = block.args.get("skip", "identity"), block.kind in ("cn", "dsa")
    is_fine = skip == "none" or (skip == "identity" and block.kind != "dsa")
    block.check(is_fine, "timm has no such skip connection around this block", "skip")
    return {("identity", True): "skip", ("none", False): "noskip"}.get((skip, is_plain), "")


def _groups(block: _Block) -> str:
    """Return the option for the channels of a group; none for one group."""
    groups, of = block.args.get("groups", 1), {"cn": block.channels, "er": block.hidden}
    block.check(groups == 1 or block.kind in of, "must be 1 for timm", "groups")
    return f"gs{of[block.kind] // groups}" if groups > 1 else ""


def _activation(block: _Block, common: _Common) -> str:
    """Return the option for the activation; none if it is that of the first layer."""
    name, words = block.args.get("activation", common.activation), {**ACTIVATIONS, common.activation: ""}
    block.check(name in words, f"must be one of {', '.join(words)} for timm", "activation")
    return words[name]


def _squeeze(block: _Block, common: _Common, expand_ratio: float) -> str:
    """Return the option for squeeze-and-excitation; none without it. timm divides its ratio by the expansion's."""
    given, hidden = block.args.get("se_ratio", 0), block.hidden
    if not given:
        return ""
    block.check(block.kind != "cn", "timm has no squeeze-and-excitation after a plain convolution", "se_ratio")
    block.check(block.args["se_from"] == common.se_from, f"must be '{common.se_from}' for timm, as before", "se_from")
    if common.se_from == "expansion":
        divisor = 1.0 if common.is_mobilenet_v3 else expand_ratio
        return f"se{_decimal(given * divisor, hidden, make_divisible(hidden * given), make_divisible, divisor)}"
    return f"se{_decimal(given, hidden, max(1, int(block.channels * given)), round, expand_ratio)}"


def _decimal(given: float, channels: int, wanted: int, rounded: Callable[[float], int], divisor: float = 1.0) -> str:
    """Return a ratio that makes the wanted channels in timm: the given one, or the first digits of the exact one."""
    texts = [f"{given:.6g}", *(f"{wanted * divisor / channels:.{digits}g}" for digits in range(3, 18))]
    return next(text for text in texts if rounded(channels * (float(text) / divisor)) == wanted)
