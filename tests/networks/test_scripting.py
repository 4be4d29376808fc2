"""Networks can be compiled by torch.jit.script, as they are and deployed."""

from __future__ import annotations

import pytest
import torch

from nas.networks.deployment import deploy
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture

NETWORKS = [
    "condensenet50_cifar10_train",
    "condensenet50_cifar10_test",
    "shufflenet_v2_0.5",
    "shufflenet_v2_0.5_torchvision",
    "squeezenet_1.1",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_scripted_network_computes_the_same(name: str) -> None:
    arch = load_architecture(name).at(32)
    model = build(arch).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for network in (model, deploy(model)):
            torch.testing.assert_close(torch.jit.script(network)(x), network(x))
