"""timm's form of a network: its outputs, its block strings, and what timm's builder cannot express."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architecture import Architecture, InputFormat
from nas.errors import ExportError
from nas.networks.blocks.layers import ChannelScale
from nas.networks.exported_folder import check_input
from nas.networks.forms.timm import PYTHON, WEIGHTS, write
from nas.networks.network import Network, build, canonical
from nas.networks.pretrained import load_weights
from nas.spaces.yaml_format import load_architecture
from tests.helpers.batch_norms import shake_batch_norms

pytest.importorskip("timm", reason="timm is in the test extra")

TOLERANCE = 1e-11
"""Both networks compute in float64, so that only rounding is left."""
IMAGES = 16
STEM = {"block": "conv", "out_channels": 8, "stride": 2}
HEAD = {"block": "classifier", "num_classes": 5}
MBCONV = {"block": "mbconv", "out_channels": 8}
Blocks = list[list[dict[str, Any]]]


def made(stages: Blocks, head: dict[str, Any] | None = None) -> Architecture:
    """Return a small network with the stages after `STEM`, and the keywords of its head."""
    data = {"resolution": 64, "stages": [[STEM], *stages], "head": {**HEAD, **(head or {})}}
    return canonical(Architecture.from_dict(data))


@torch.no_grad()
def randomized(arch: Architecture) -> Network:
    """Return a network whose every tensor shows in its output: its batch norms have the statistics of images."""
    torch.manual_seed(0)
    model = build(arch)
    shake_batch_norms(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
        if isinstance(module, ChannelScale):
            module.gamma.uniform_(0.5, 1.5)
    model.train()(torch.randn(IMAGES, *arch.input_shape))
    return model.eval()


def difference(arch: Architecture, folder: Path) -> float:
    """Write a network, and return how much timm's output differs, relative to the largest one."""
    model = randomized(arch)
    assert write(arch, model, folder) == PYTHON
    network = runpy.run_path(str(folder / PYTHON))["load"]()
    assert sum(map(torch.numel, network.parameters())) == sum(map(torch.numel, model.parameters()))
    images = torch.cat([check_input(arch.input_shape), torch.randn(1, *arch.input_shape)])
    with torch.no_grad():
        output, expected = network.double()(images.double()), model.double()(images.double())
    largest = expected.abs().max()
    assert (expected[0] - expected[1]).abs().max() > 0.1 * largest, "the output tells nothing of the image"
    return float((output - expected).abs().max() / largest)


def strings(folder: Path) -> list[list[str]]:
    """Return the block strings in a written file."""
    found: list[list[str]] = runpy.run_path(str(folder / PYTHON))["ARCH_DEF"]
    return found


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_0.25",
        "mobilenet_v2_0.35",
        "mnasnet_b1_0.5",
        "mnasnet_a1_0.35",
        "mobilenet_v3_small_1.0",
        "lcnet_0.5",
        "mobilenet_v4_conv_small_0.35",
        "mobilenet_v4_hybrid_medium",
        "efficientnet_b0",
    ],
)
def test_a_shipped_network_is_equal(name: str, tmp_path: Path) -> None:
    assert difference(canonical(load_architecture(name).at(64)), tmp_path) <= TOLERANCE


def test_the_strings_of_a_shipped_network_are_those_of_timm(tmp_path: Path) -> None:
    arch = canonical(load_architecture("mobilenet_v3_small_1.0").at(32))
    write(arch, build(arch).eval(), tmp_path)
    assert strings(tmp_path) == [
        ["ds_r1_k3_s2_c16_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c24_nre"],
        ["ir_r1_k3_s1_e3.67_c24_nre"],
        ["ir_r1_k5_s2_e4_c40_se0.25"],
        ["ir_r2_k5_s1_e6_c40_se0.25"],
        ["ir_r2_k5_s1_e3_c48_se0.25"],
        ["ir_r3_k5_s2_e6_c96_se0.25"],
        ["cn_r1_k1_s1_c576"],
    ]


def test_the_weights_come_back(tmp_path: Path) -> None:
    arch = canonical(load_architecture("mobilenet_v4_conv_small_0.35").at(32))
    model, again = randomized(arch), build(arch).eval()
    write(arch, model, tmp_path)
    load_weights(again, str(tmp_path / WEIGHTS), "")
    counters = "num_batches_tracked"
    given = {key: value for key, value in model.state_dict().items() if counters not in key}
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in given.items())


def test_other_classes_get_fresh_weights(tmp_path: Path) -> None:
    arch = made([[MBCONV]])
    write(arch, build(arch).eval(), tmp_path)
    build_again = runpy.run_path(str(tmp_path / PYTHON))["build"]
    assert build_again().classifier.out_features == 5
    assert build_again(num_classes=3).classifier.out_features == 3


def test_equal_blocks_are_repeats_and_a_stride_begins_a_stage(tmp_path: Path) -> None:
    wide = {**MBCONV, "out_channels": 16}
    arch = made(
        [
            [{**MBCONV, "stride": 2}, MBCONV, MBCONV, {**wide, "stride": 2}, wide, {**wide, "skip": "none"}],
            [wide, {**wide, "kernel_size": 5}, {**wide, "kernel_size": 5}],
        ]
    )
    assert difference(arch, tmp_path) <= TOLERANCE
    assert strings(tmp_path) == [
        ["ir_r3_k3_s2_e6_c8"],
        ["ir_r2_k3_s2_e6_c16", "ir_r1_k3_s1_e6_c16_noskip"],
        ["ir_r1_k3_s1_e6_c16", "ir_r2_k5_s1_e6_c16"],
    ]


EFFICIENTNET: Blocks = [
    [{"block": "conv", "out_channels": 12, "skip": "identity"}, {"block": "conv", "out_channels": 12, "groups": 4}],
    [{"block": "mbconv", "out_channels": 20, "expand_ratio": 4, "se_ratio": 0.3, "stride": 2}],
    [{"block": "mbconv", "out_channels": 20, "expand_ratio": 1, "se_ratio": 0.33, "activation": "swish"}],
    [{"block": "fused_mbconv", "out_channels": 20, "expand_ratio": 1, "skip": "identity", "stride": 1}],
    [{"block": "fused_mbconv", "out_channels": 20, "expand_ratio": 4, "groups": 2, "se_ratio": 0.25, "stride": 2}],
    [{"block": "separable", "out_channels": 24, "kernel_size": 7, "se_ratio": 0.1, "stride": 2}],
    [{"block": "fbnet_block", "out_channels": 24, "expand_ratio": 1, "activation": "hard_swish"}],
    [{"block": "fbnet_block", "out_channels": 24, "expand_ratio": 2.67, "stride": 2}],
    [{"block": "uib", "out_channels": 40, "start_kernel_size": 3, "kernel_size": 0, "stride": 2}],
    [{"block": "uib", "out_channels": 40, "kernel_size": 0, "skip": "none", "expand_ratio": 1.3}],
]


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_each_block_of_an_efficientnet(activation: str, tmp_path: Path) -> None:
    """Widths that are no multiples of 8, squeezes that timm rounds differently, and a map 64 times smaller."""
    arch = made(EFFICIENTNET, {"hidden_channels": 30, "activation": activation})
    arch = arch.with_input(InputFormat(1, Fraction(3, 2)))
    assert difference(replace(arch, resolution=96), tmp_path) <= TOLERANCE


@pytest.mark.parametrize("head", [{}, {"hidden_channels": 24}, {"pooled_channels": 20, "hidden_channels": 24}])
@pytest.mark.parametrize("se_from", ["input", "expansion"])
def test_both_kinds_of_squeeze_and_excitation(se_from: str, head: dict[str, Any], tmp_path: Path) -> None:
    squeezed = {**MBCONV, "se_from": se_from, "expand_ratio": 3}
    stages = [[{**squeezed, "se_ratio": 0.3}, {**squeezed, "se_ratio": 1}], [{**squeezed, "se_ratio": 0.01}]]
    stages += [[{"block": "separable", "out_channels": 16, "se_ratio": 0.5, "se_from": se_from}]]
    assert difference(made(stages, head), tmp_path) <= TOLERANCE


def test_an_activation_that_only_the_first_layer_can_name(tmp_path: Path) -> None:
    arch = made([[{**MBCONV, "activation": "gelu"}]], {"pooled_channels": 12, "activation": "gelu"})
    stem = arch.stages[0][0].with_args({"activation": "gelu"})
    assert difference(replace(arch, stages=((stem,), *arch.stages[1:])), tmp_path) <= TOLERANCE


@pytest.mark.parametrize("head", [{}, {"pooled_channels": 8}])
def test_the_file_is_formatted_and_nothing_else_is_written(head: dict[str, Any], tmp_path: Path) -> None:
    arch = made([[{**MBCONV, "se_ratio": 0.25, "se_from": "expansion" if head else "input"}]], head)
    write(arch, build(arch).eval(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [WEIGHTS, PYTHON]
    for command in (["format", "--check", "--line-length", "88"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--quiet", str(tmp_path / PYTHON)]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def refusal(arch: Architecture, folder: Path) -> str:
    """Return the error of a network that timm cannot express. Nothing is written."""
    with pytest.raises(ExportError) as error:
        write(arch, nn.Identity(), folder)
    assert not list(folder.iterdir())
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shufflenet_v2_1.0", "stage 1, layer 0: block 'pool': timm's EfficientNet and MobileNetV3 have no such block"),
        ("resnet18", "stage 0, layer 0: block 'conv': kernel_size: must be 3 for timm's first layer: 7"),
        ("squeezenet_1.1", "head: block 'conv_classifier': timm's EfficientNet and MobileNetV3 have the head"),
        ("mobilenet_v3_small_ssdlite_reducedtail_r320", "head: block 'ssd_head': timm's EfficientNet and MobileNetV3"),
    ],
)
def test_a_shipped_network_of_another_family_is_refused(name: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(canonical(load_architecture(name)), tmp_path)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"block": "shufflenet_v2", "out_channels": 8}, "block 'shufflenet_v2': timm's EfficientNet and MobileNetV3"),
        ({**MBCONV, "kernel_size": 2}, "block 'mbconv': kernel_size: must be odd for timm: 2"),
        ({**MBCONV, "stride": 3}, "block 'mbconv': stride: must be 1 or 2 for timm: 3"),
        ({**MBCONV, "expand_ratio": 2.5}, "expand_ratio: makes 20 channels of 8, but timm rounds them to a multiple"),
        ({**MBCONV, "groups": 2}, "block 'mbconv': groups: must be 1 for timm: 2"),
        ({**MBCONV, "skip": "pool"}, "skip: timm has no such skip connection around this block: 'pool'"),
        (
            {**MBCONV, "activation": "gelu"},
            "activation: must be one of relu, relu6, hard_swish, swish for timm: 'gelu'",
        ),
        ({**STEM, "stride": 1, "activation": "none"}, "block 'conv': activation: must be one of relu, relu6"),
        ({**STEM, "se_ratio": 0.5}, "se_ratio: timm has no squeeze-and-excitation after a plain convolution: 0.5"),
        ({**MBCONV, "se_ratio": 0.5, "se_from": "expansion"}, "se_from: must be 'input' for timm, as before"),
        ({**MBCONV, "block": "separable", "skip": "identity"}, "skip: timm has no such skip connection"),
        ({**MBCONV, "block": "uib", "layer_scale": True}, "layer_scale: timm needs a head with pooled_channels for it"),
    ],
)
def test_an_option_that_timm_lacks_is_refused(block: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = refusal(made([[{**MBCONV, "se_ratio": 0.25}, block]]), tmp_path)
    assert found.startswith("stage 1, layer 1: block")
    assert message in found


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"bias": False}, "head: block 'classifier': bias: timm's classifier has a bias: False"),
        ({"pooled_channels": 8, "pooled_norm": "layer"}, "pooled_norm: must be batch or none for timm: 'layer'"),
        ({"pooled_channels": 8, "activation": "swish"}, "activation: must be 'relu' for timm, as in the first layer"),
        ({"hidden_channels": 8, "activation": "gelu"}, "head: block 'classifier': activation: must be one of relu,"),
    ],
)
def test_a_head_that_timm_lacks_is_refused(head: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(made([[MBCONV]], head), tmp_path)


def test_a_mobilenet_v3_is_not_dilated(tmp_path: Path) -> None:
    halving = {**MBCONV, "stride": 2}
    found = refusal(made([[halving]] * 5, {"pooled_channels": 8}), tmp_path)
    assert found.startswith("stage 5, layer 0: block 'mbconv': stride: timm's MobileNetV3 makes the map at most 32")


def test_layer_scales_in_some_blocks_are_refused(tmp_path: Path) -> None:
    uib = {"block": "uib", "out_channels": 8}
    found = refusal(made([[{**uib, "layer_scale": True}, uib]], {"pooled_channels": 8}), tmp_path)
    assert found == "stage 1, layer 1: block 'uib': layer_scale: must be the same in all blocks for timm: False"


def test_other_weights_than_the_networks_are_noticed(tmp_path: Path) -> None:
    arch = made([[MBCONV]])
    with pytest.raises(ExportError, match=r"timm_model\.py: timm .* cannot build the network: '"):
        write(arch, build(made([[MBCONV, MBCONV]])).eval(), tmp_path)


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal(made([[MBCONV]]), tmp_path) == "timm_model.py: needs timm: pip install timm"
