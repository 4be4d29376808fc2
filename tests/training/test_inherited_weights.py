"""Inherited weights: everything from an equal network, the common part from another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architecture import Architecture
from nas.errors import WeightsError
from nas.networks.export import export_folder
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture, parse_space
from nas.training.inherited_weights import inherit
from nas.training.initial_weights import initial_weights


def network(layers: list[dict[str, Any]], seed: int = 0, **head: Any) -> tuple[Architecture, nn.Module]:
    data = {
        "resolution": 32,
        "stages": [{"block": "conv", "out_channels": 8, "stride": 2}, *layers],
        "head": {"block": "classifier", "num_classes": 10, **head},
    }
    arch = parse_space("small", data, "small.yaml").decode({})
    torch.manual_seed(seed)
    return arch, build(arch)


BOTTLENECK: dict[str, Any] = {"block": "mbconv", "depth": 2, "out_channels": 16, "stride": 2, "expand_ratio": 4}


@pytest.mark.parametrize("name", ["mobilenet_v3_small_1.0", "resnet20", "efficientvit_b0", "shufflenet_v2_0.5"])
def test_an_equal_network_inherits_everything(name: str) -> None:
    arch = load_architecture(name)
    torch.manual_seed(0)
    source, target = build(arch).eval(), build(arch).eval()
    found = inherit(target, arch, source, arch)
    assert found.parameters == found.of_parameters and not found.fresh
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(source(x), target(x))


def test_a_deeper_network_repeats_the_last_layer() -> None:
    (arch, source), (deep, target) = network([BOTTLENECK]), network([{**BOTTLENECK, "depth": 4}], seed=1)
    found = inherit(target, deep, source, arch)
    assert found.parameters == found.of_parameters
    for layer in (1, 2, 3):
        theirs = source.get_submodule("stages.1.1").state_dict()
        assert all(
            torch.equal(each, theirs[key])
            for key, each in target.get_submodule(f"stages.1.{layer}").state_dict().items()
        )


def test_fewer_hidden_channels_are_the_most_important_ones() -> None:
    (arch, source), (narrow, target) = network([BOTTLENECK]), network([{**BOTTLENECK, "expand_ratio": 2}], seed=1)
    inherit(target, narrow, source, arch)
    wide = source.get_parameter("stages.1.0.project.0.weight")
    order = wide.abs().sum((0, 2, 3)).argsort(descending=True)[:16]
    assert torch.equal(target.get_parameter("stages.1.0.project.0.weight"), wide[:, order])
    for part in ("expand", "depthwise"):
        ours, theirs = (each.get_parameter(f"stages.1.0.{part}.0.weight") for each in (target, source))
        assert torch.equal(ours, theirs[order])


def test_a_larger_kernel_has_zeros_around_and_more_channels_stay_fresh() -> None:
    wider = {**BOTTLENECK, "kernel_size": 5, "out_channels": 24}
    (arch, source), (large, target) = network([BOTTLENECK]), network([wider], seed=1)
    before = target.get_parameter("stages.1.0.project.0.weight").clone()
    found = inherit(target, large, source, arch)
    ours, theirs = (each.get_parameter("stages.1.0.depthwise.0.weight") for each in (target, source))
    assert torch.equal(ours[:, :, 1:4, 1:4], theirs) and torch.allclose(ours.sum(), theirs.sum(), atol=1e-4)
    projected = target.get_parameter("stages.1.0.project.0.weight")
    assert torch.equal(projected[16:], before[16:]) and not torch.equal(projected[:16], before[:16])
    assert 0 < found.parameters < found.of_parameters


def test_other_blocks_share_what_has_the_same_name_and_other_classes_are_fresh() -> None:
    universal = {"block": "uib", "out_channels": 16, "stride": 2, "start_kernel_size": 3}
    (arch, source), (other, target) = network([BOTTLENECK]), network([universal], seed=1, num_classes=3)
    before = target.get_parameter("head.linear.weight").clone()
    found = inherit(target, other, source, arch)
    assert torch.equal(target.get_parameter("head.linear.weight"), before)
    assert torch.equal(
        target.get_parameter("stages.1.0.expand.0.weight"), source.get_parameter("stages.1.0.expand.0.weight")
    )
    assert "head" in found.fresh and "fresh: head" in str(found) and f"{found.parameters:,} parameters" in str(found)


def test_networks_without_a_common_layer_are_refused() -> None:
    arch, source = network([BOTTLENECK])
    stages = [{"block": "plain_conv", "out_channels": 8, "kernel_size": 3}]
    head = {"block": "classifier", "num_classes": 3}
    other = parse_space("other", {"resolution": 32, "stages": stages, "head": head}, "other.yaml").decode({})
    with pytest.raises(WeightsError, match="no layer of the network has a counterpart"):
        inherit(build(other), other, source, arch)


def test_a_training_starts_from_the_export_of_another_network(tmp_path: Path) -> None:
    arch, source = network([BOTTLENECK])
    export_folder(arch, source, tmp_path / "m", "null", {})
    deep, _ = network([{**BOTTLENECK, "depth": 4}])
    model, said = initial_weights(deep, str(tmp_path / "m"), "deep", 0)
    assert f"the network in {tmp_path / 'm'} is another one: 6 of 6 blocks" in said
    expected = source.get_parameter("stages.1.1.expand.0.weight")
    assert torch.equal(model.get_parameter("stages.1.3.expand.0.weight"), expected)
    same, said = initial_weights(arch, str(tmp_path / "m"), "same", 1)
    assert "another" not in said and torch.equal(same.get_parameter("stages.1.1.expand.0.weight"), expected)


def test_only_hidden_channels_are_reordered() -> None:
    """The norm behind the projection has as many channels as the hidden ones here, but others."""
    wide = {**BOTTLENECK, "depth": 1, "out_channels": 32}
    (arch, source), (narrow, target) = network([wide]), network([{**wide, "expand_ratio": 2}], seed=1)
    norm = source.get_submodule("stages.1.0.project.1")
    torch.nn.init.normal_(norm.get_parameter("weight"))
    inherit(target, narrow, source, arch)
    ours = target.get_submodule("stages.1.0.project.1").get_parameter("weight")
    assert torch.equal(ours, norm.get_parameter("weight"))
