"""The conformance suite of blocks: every entry of BLOCKS takes part without being named here."""

from __future__ import annotations

import itertools
import typing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from nas.devices.runtimes import make_runtime
from nas.errors import SpaceError
from nas.latency.profiler import LayerGraph
from nas.networks.block_schema import Keyword, block_spec, keywords, role, takes_maps
from nas.networks.blocks import BLOCKS
from nas.networks.blocks.layers import conv_bn_act
from nas.networks.cost_counter import CostCounter
from nas.networks.deployment import deploy
from nas.networks.network import make_block, output_shapes, traced
from nas.networks.pretrained import slice_parameter
from tests.helpers.batch_norms import shake_batch_norms

REQUIRED = {"out_channels": 24, "mid_channels": 8, "growth_rate": 8, "squeeze_channels": 8, "expand_channels": 16}
OTHERS: dict[str, list[Any]] = {
    "kernel_size": [5, 2],
    "se_ratio": [0.25],
    "expand_ratio": [1.0, 3.0],
    "groups": [2],
    "num_classes": [10],
    "hidden_channels": [32],
    "num_layers": [2],
    "heads": [2],
    "reduction": [2],
}
IN_CHANNELS, SIZE = 16, 14


def variants(op: str) -> list[dict[str, Any]]:
    """Return keywords that build `op`: the required ones alone, then with each other keyword changed."""
    base = {name: REQUIRED[name] for name, keyword in keywords(op).items() if keyword.required}
    found = [base]
    for name, keyword in keywords(op).items():
        found += [{**base, name: value} for value in other_values(name, keyword)]
    if "out_channels" in base:
        found.append({**base, "out_channels": IN_CHANNELS})
    return [args for args in found if buildable(op, args)]


def other_values(name: str, keyword: Keyword) -> list[Any]:
    if keyword.words:
        return [word for word in keyword.words if word != keyword.default]
    if keyword.type is bool:
        return [not keyword.default]
    if name == "stride":
        return [stride for stride in (1, 2) if stride != keyword.default]
    return OTHERS.get(name, [])


def buildable(op: str, args: dict[str, Any]) -> bool:
    try:
        traced(block_spec(op, args), shape(op))
    except SpaceError:
        return False
    return True


def sizes(op: str) -> tuple[int, ...]:
    """Return the sizes of the maps that a block reads: two for necks and for heads of detectors."""
    returned = typing.get_origin(typing.get_type_hints(BLOCKS[op].forward)["return"])
    return (SIZE, SIZE // 2) if role(op) == "neck" or returned is tuple else (SIZE,)


def shape(op: str) -> Any:
    shapes = tuple((IN_CHANNELS, size, size) for size in sizes(op))
    return shapes if takes_maps(op) else shapes[0]


def tensors(y: Any) -> list[torch.Tensor]:
    return [y] if isinstance(y, torch.Tensor) else list(y)


CASES = [(op, args) for op in BLOCKS for args in variants(op)]


def module_and_input(op: str, args: dict[str, Any], batch: int = 2) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    module = make_block(block_spec(op, args), (IN_CHANNELS,) * len(sizes(op)))
    shake_batch_norms(module)
    maps = [torch.randn(batch, IN_CHANNELS, size, size) for size in sizes(op)]
    return module, (maps if takes_maps(op) else maps[0])


@pytest.mark.parametrize("op", BLOCKS)
def test_every_block_can_be_built_by_the_suite(op: str) -> None:
    assert variants(op), "give REQUIRED a value for its required keywords"


@pytest.mark.parametrize(("op", "args"), CASES, ids=str)
def test_the_meta_trace_equals_a_real_run(op: str, args: dict[str, Any]) -> None:
    layer = traced(block_spec(op, args), shape(op))
    module, x = module_and_input(op, args, batch=1)
    with torch.no_grad(), CostCounter() as cost:
        y = module.eval()(x)
    assert tuple(tuple(each.shape[1:]) for each in tensors(y)) == output_shapes(layer)
    assert (cost.macs, cost.memory_access) == (layer.macs, layer.memory_access)
    assert (cost.activations, cost.element_wise_access) == (layer.activations, layer.element_wise_access)
    assert (cost.peak_activation, tuple(cost.convolutions)) == (layer.peak_activation, layer.convolutions)
    assert sum(p.numel() for p in module.parameters()) == layer.params
    if "out_channels" in args and role(op) == "block":
        assert layer.out_shape[0] == args["out_channels"]
    stride = args.get("stride", keywords(op)["stride"].default) if "stride" in keywords(op) else None
    if stride is not None and not {"padding", "kernel_size", "ceil_mode"} & set(args):
        assert layer.out_shape[1] == -(-SIZE // stride)


@pytest.mark.parametrize(("op", "args"), CASES, ids=str)
def test_every_parameter_gets_a_gradient(op: str, args: dict[str, Any]) -> None:
    module, x = module_and_input(op, args)
    for image in tensors(x):
        image.requires_grad_()
    loss: Any = sum(each.square().sum() for each in tensors(module.train()(x)))
    loss.backward()
    for image in tensors(x):
        assert image.grad is not None and image.grad.abs().sum() > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("op", "args"), CASES, ids=str)
def test_the_deployed_block_computes_the_same(op: str, args: dict[str, Any]) -> None:
    module, x = module_and_input(op, args)
    with torch.no_grad():
        expected = module.eval()(x)
        deployed = deploy(module)
        for own, other in zip(tensors(deployed(x)), tensors(expected), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    for sequence in deployed.modules():
        if isinstance(sequence, torch.nn.Sequential):
            pairs = itertools.pairwise(sequence)
            assert not any(isinstance(a, torch.nn.Conv2d) and isinstance(b, torch.nn.BatchNorm2d) for a, b in pairs)


@pytest.mark.parametrize("op", BLOCKS)
def test_a_block_exports(op: str, tmp_path: Path) -> None:
    module, x = module_and_input(op, variants(op)[0], batch=1)
    runtime = make_runtime("onnxruntime")

    layer = traced(block_spec(op, variants(op)[0]), shape(op))
    graph = LayerGraph(deploy(module), takes_maps(op), len(output_shapes(layer)))
    runtime.export(graph.eval(), tensors(x), tmp_path / "block.onnx")
    outputs = runtime.load(str(tmp_path / "block.onnx"), [each.numpy() for each in tensors(x)], 1)()
    for output, expected in zip(outputs, tensors(graph(*tensors(x))), strict=True):
        torch.testing.assert_close(torch.from_numpy(np.asarray(output)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("mbconv", {"out_channels": 8, "expand_ratio": 0.5}, "expand_ratio must be at least 1: 0.5"),
        ("mbconv", {"out_channels": 8, "kernel_size": 4}, "kernel_size must be odd and at least 1: 4"),
        ("conv", {"out_channels": 8, "groups": 3}, "groups must divide the channels: 16 -> 8, groups 3"),
        ("conv", {"out_channels": 8, "se_ratio": 1.5}, r"se_ratio must be in \[0, 1\]: 1.5"),
        ("shufflenet_v2", {"out_channels": 23}, "out_channels must be even: 23"),
        ("shufflenet_v2", {"out_channels": 12}, "out_channels must exceed in_channels"),
        ("osa", {"out_channels": 8, "mid_channels": 8, "stride": 4}, "stride must be 1 or 2: 4"),
        ("osa", {"out_channels": 8, "mid_channels": 8, "num_layers": 0}, "num_layers must be at least 1: 0"),
        ("multi_query_attention", {"out_channels": 8, "heads": 0}, "heads must be at least 1: 0"),
        ("classifier", {"num_classes": 1}, "num_classes must be at least 2: 1"),
    ],
)
def test_a_block_that_cannot_be_names_rule_and_value(op: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        traced(block_spec(op, args), shape(op))


def test_attention_has_a_largest_map() -> None:
    spec = block_spec("multi_query_attention", {"out_channels": 8})
    assert traced(spec, (8, 20, 20)).out_shape == (8, 20, 20)
    with pytest.raises(SpaceError, match=r"maps of at most 400 positions, because .*: '21x20'"):
        traced(spec, (8, 21, 20))


def test_a_2x2_kernel_is_the_lower_right_part_of_a_3x3_one() -> None:
    """So a supernet can share its weights, and the map keeps its place."""
    torch.manual_seed(0)
    small, large, strided = (cast(nn.Conv2d, conv_bn_act(3, 4, *sizes)[0]) for sizes in ((2, 1), (3, 1), (2, 2)))
    large.weight.data.zero_()
    slice_parameter(large.weight.data, small.weight.shape).copy_(small.weight.data)
    strided.weight.data = small.weight.data
    assert torch.equal(large.weight[:, :, 1:, 1:], small.weight)
    for size in (6, 7):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(small(x), large(x))
        torch.testing.assert_close(strided(x), small(x)[:, :, ::2, ::2])


def test_groups_save_macs_of_the_expansion() -> None:
    args = {"out_channels": 32, "kernel_size": 2, "expand_ratio": 4.0}
    plain, grouped = (
        traced(block_spec("fused_mbconv", {**args, "groups": groups}), (32, 14, 14)).macs for groups in (1, 2)
    )
    assert (plain - grouped) == 14 * 14 * 32 * 128 * 4 // 2
    assert canonical_block("mbconv", {"out_channels": 16, "expand_ratio": 1.0, "groups": 2}) == canonical_block(
        "mbconv", {"out_channels": 16, "expand_ratio": 1.0}
    )


def canonical_block(op: str, args: dict[str, Any]) -> Any:
    return traced(block_spec(op, args), (16, 14, 14)).spec
