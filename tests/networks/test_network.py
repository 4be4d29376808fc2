from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from nas.networks.cost_counter import CostCounter
from nas.networks.deployment import deploy
from nas.networks.network import build, canonical, totals, trace
from nas.spaces.yaml_format import load_architecture, load_space, space_names
from tests.helpers.reference_facts import foreground

# Parameters and MACs of independent implementations: torchvision 0.29.1, timm 1.0.31, megvii-model.
GOLDEN = {
    "mobilenet_v2_1.0": (3_504_872, 300_774_272),
    "mnasnet_a1_1.0": (3_887_038, 311_579_072),
    "shufflenet_v2_1.0": (2_278_760, 145_814_296),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_reference_network_has_its_published_counts(name: str) -> None:
    layers = trace(load_architecture(name))
    assert (sum(layer.params for layer in layers), sum(layer.macs for layer in layers)) == GOLDEN[name]


def test_every_network_equals_the_reference_material(shared: Path) -> None:
    models = json.loads((shared / "facts" / "reference_models.json").read_text())["models"]
    reference = {model["id"]: model for model in models}
    compared = 0
    for name in set(reference) & set(space_names()):
        layers = trace(load_architecture(name))
        counts = (sum(layer.params for layer in layers), sum(layer.macs for layer in layers))
        assert counts == (reference[name]["params"], reference[name]["macs"]), name
        compared += 1
    assert compared >= len(GOLDEN)


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0", "mnasnet", "mobile"])
def test_the_trace_equals_a_real_run_of_the_network(name: str) -> None:
    space = load_space(name)
    arch = canonical(space.decode(space.sample(random.Random(1)))).at(64)
    layers = trace(arch)
    network = build(arch).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), CostCounter() as cost:
        network(image)
    whole = totals(layers)
    assert (cost.macs, cost.activations) == (whole.macs, whole.activations)
    assert (cost.memory_access, cost.element_wise_access) == (whole.memory_access, whole.element_wise_access)
    assert cost.peak_activation == whole.peak_activation
    assert cost.convolutions == [conv for layer in layers for conv in layer.convolutions]


def test_memory_access_follows_the_shufflenet_formula() -> None:
    layer = trace(load_architecture("mobilenet_v2_1.0"))[1]
    c, hw = 32, 112 * 112
    depthwise, project = hw * 2 * c + 9 * c, hw * (c + 16) + c * 16
    assert layer.memory_access == depthwise + project


def test_the_costs_of_an_inverted_residual_by_hand() -> None:
    layer = trace(load_architecture("mobilenet_v2_1.0"))[3]
    assert layer.in_shape == (24, 56, 56)
    hw, c, wide = 56 * 56, 24, 144
    assert layer.activations == hw * (2 * wide + c)
    assert layer.peak_activation == hw * 2 * wide
    assert layer.element_wise_access == hw * 3 * c
    expand, depthwise, project = layer.convolutions
    assert (expand.in_channels, expand.out_channels, expand.kernel, expand.groups) == (c, wide, (1, 1), 1)
    assert depthwise.is_depthwise and depthwise.macs == hw * 9 * wide
    assert project.is_pointwise and project.macs == hw * c * wide


def test_activations_equal_the_reference_material(shared: Path) -> None:
    models = json.loads((shared / "facts" / "reference_models.json").read_text())["models"]
    key = "conv_linear_output_elements"
    reference = {model["id"]: model for model in models if model["id"] in space_names() and key in model}
    differing = {}
    for name, model in reference.items():
        space = load_space(name)
        space = space.for_classes(foreground(model)) if model["num_classes"] > 1 else space
        whole = totals(trace(space.decode({}).at(model["input"][2])))
        if whole.activations != model[key]:
            differing[name] = (whole.activations, model[key])
    assert len(reference) >= 78
    assert not differing


def test_deploy_keeps_output_and_original() -> None:
    arch = load_architecture("shufflenet_v2_1.0").at(64)
    torch.manual_seed(0)
    network = build(arch)
    x = torch.randn(4, 3, 64, 64)
    network.train()(x)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    deployed = deploy(network)
    torch.testing.assert_close(deployed(x), network.eval()(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_equal_networks_have_one_spelling() -> None:
    space = load_space("mnasnet")
    choices = space.sample(random.Random(0)) | {"stage3.depth": 2}
    spellings = {canonical(space.decode({**choices, "stage2.depth": 1, "stage2.skip": skip})).digest
                 for skip in ("none", "identity", "pool")}  # fmt: skip
    assert len(spellings) == 1
