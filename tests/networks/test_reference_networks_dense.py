"""SqueezeNet, SqueezeNext, DenseNet, PeleeNet, CondenseNet: equal counts with independent implementations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas.networks.deployment import deploy
from nas.networks.network import build, trace
from nas.networks.standalone.source import standalone_source
from nas.networks.standalone.state_names import exported_state
from nas.spaces.yaml_format import load_architecture, load_space, space_path
from tests.helpers.batch_norms import shake_batch_norms

GOLDEN = {
    "squeezenet_1.0": (1_248_424, 818_924_576),
    "squeezenet_1.1": (1_235_496, 349_151_936),
    "squeezenet_1.0_simple_bypass": (1_248_424, 818_924_576),
    "squeezenet_1.0_complex_bypass": (1_589_672, 1_165_298_720),
    "squeezenet_1.1_simple_bypass": (1_235_496, 349_151_936),
    "squeezenet_1.1_complex_bypass": (1_572_648, 447_660_736),
    "squeezenext_1.0_23": (717_280, 277_999_808),
    "squeezenext_1.0_23_G": (543_072, 224_191_552),
    "squeezenext_1.0_23v5": (930_016, 224_916_480),
    "squeezenext_2.0_23": (2_361_728, 742_070_464),
    "squeezenext_2.0_23v5": (3_222_912, 702_592_000),
    "squeezenext_1.5_23_ptcv": (1_511_824, 535_347_840),
    "squeezenext_1.5_23v5_ptcv": (1_953_616, 537_649_536),
    "condensenet74_c4g4_test": (4_773_944, 516_640_576),
    "condensenet74_c4g4_train": (11_922_680, 1_267_904_128),
    "condensenet74_c8g8_test": (2_935_416, 261_545_792),
    "condensenet74_c8g8_train": (11_103_608, 1_137_847_936),
    "condensenet50_cifar10_test": (214_186, 27_183_376),
    "condensenet50_cifar10_train": (522_938, 64_934_432),
    "condensenet50_cifar100_test": (235_156, 27_204_256),
    "condensenet50_cifar100_train": (564_788, 64_976_192),
    "condensenet74_cifar10_test": (402_026, 49_204_592),
    "condensenet74_cifar10_train": (1_090_906, 131_783_392),
    "condensenet86_cifar10_test": (516_202, 62_377_888),
    "condensenet86_cifar10_train": (1_451_594, 173_858_624),
    "condensenet86_cifar100_test": (552_292, 62_413_888),
    "condensenet86_cifar100_train": (1_523_684, 173_930_624),
    "condensenet98_cifar10_test": (643_882, 76_992_976),
    "condensenet98_cifar10_train": (1_863_418, 221_701_024),
    "condensenet110_cifar10_test": (785_066, 93_049_856),
    "condensenet110_cifar10_train": (2_326_378, 275_310_592),
    "condensenet122_cifar10_test": (939_754, 110_548_528),
    "condensenet122_cifar10_train": (2_840_474, 334_687_328),
    "condensenet182_cifar10_test": (4_209_226, 493_916_592),
    "condensenet182_cifar10_train": (13_792_906, 1_615_332_192),
    "densenet121": (7_978_856, 2_834_161_664),
    "densenet67_dsod_backbone_k16": (1_669_408, 4_342_828_800),
    "densenet67_k48_backbone": (10_032_608, 13_501_165_312),
    "peleenet": (2_802_248, 507_757_568),
}
"""Counted on torchvision, pytorchcv, the authors' repositories and prototxts; at each file's own input."""

ELSEWHERE = {
    ("squeezenet_1.0", 227): (1_248_424, 832_667_936),
    ("squeezenet_1.1", 227): (1_235_496, 387_747_520),
    ("squeezenet_1.0_simple_bypass", 227): (1_248_424, 832_667_936),
    ("squeezenet_1.0_complex_bypass", 227): (1_589_672, 1_183_953_184),
    ("squeezenet_1.1_simple_bypass", 227): (1_235_496, 387_747_520),
    ("squeezenet_1.1_complex_bypass", 227): (1_572_648, 496_930_496),
    ("squeezenext_1.0_23", 224): (717_280, 268_976_832),
    ("squeezenext_1.0_23_G", 224): (543_072, 216_810_688),
    ("squeezenext_1.0_23v5", 224): (930_016, 222_046_464),
    ("squeezenext_2.0_23", 224): (2_361_728, 719_066_816),
    ("squeezenext_2.0_23v5", 224): (3_222_912, 697_960_192),
    ("peleenet", 304): (2_802_248, 924_673_024),
}
"""The same implementations at another resolution."""

BIASES = {
    "squeezenet_1.1": 513,
    "squeezenext_1.0_23": 128,
    "densenet121": 1025,
    "condensenet74_c4g4_test": 1033,
}
"""What one class costs: the features that the classifier reads, and a bias where it has one."""


def counts(name: str, resolution: int | None = None) -> tuple[int, int]:
    arch = load_architecture(name)
    layers = trace(arch.at(resolution or arch.resolution))
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_macs_equal_the_reference(name: str) -> None:
    assert counts(name) == GOLDEN[name]


@pytest.mark.parametrize(("name", "resolution"), ELSEWHERE)
def test_they_are_equal_at_another_resolution(name: str, resolution: int) -> None:
    assert counts(name, resolution) == ELSEWHERE[name, resolution]


@pytest.mark.parametrize("name", BIASES)
def test_the_class_count_changes_the_classifier_alone(name: str) -> None:
    layers = trace(load_space(name).for_classes(10).decode({}))
    assert sum(layer.params for layer in layers) == GOLDEN[name][0] - 990 * BIASES[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_header_tells_the_counts(name: str, request: pytest.FixtureRequest) -> None:
    text = space_path(name).read_text(encoding="utf-8")
    params, macs = GOLDEN[name]
    assert f"{params:,} parameters, {macs:,} MACs" in text.splitlines()[0]


SMALL = {
    "squeezenet_1.1_complex_bypass": 64,
    "squeezenext_1.0_23_G": 64,
    "squeezenext_1.0_23v5": 64,
    "squeezenext_1.5_23_ptcv": 64,
    "densenet121": 64,
    "densenet67_dsod_backbone_k16": 52,
    "peleenet": 64,
    "condensenet50_cifar10_train": 32,
    "condensenet50_cifar10_test": 32,
}


def random_network(name: str, resolution: int) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = build(load_architecture(name).at(resolution))
    shake_batch_norms(network, 0.2)
    return network.eval(), torch.randn(1, 3, resolution, resolution)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_the_deployed_network_computes_the_same(name: str) -> None:
    network, image = random_network(name, SMALL[name])
    expected = network(image)
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(deploy(network)(image) / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_the_standalone_file_computes_the_same(name: str) -> None:
    network, image = random_network(name, SMALL[name])
    namespace: dict[str, Any] = {"__name__": "model", "__file__": "model.py"}
    exec(compile(standalone_source(load_architecture(name), name), "model.py", "exec"), namespace)
    alone = namespace["build"]()
    alone.load_state_dict(exported_state(network.state_dict()))
    assert torch.equal(alone.eval()(image), network(image))
