"""torchvision's SqueezeNets and DenseNet-121 with their weights copied over give equal outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from nas.networks.deployment import deploy
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture
from tests.helpers.batch_norms import shake_batch_norms


def called(model: nn.Module, image: Tensor) -> list[nn.Module]:
    """Return the modules that own parameters in the order in which a forward run calls them."""
    order: list[nn.Module] = []

    def note(module: nn.Module, *_: Any) -> None:
        order.append(module)

    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [module.register_forward_pre_hook(note) for module in owners]
    model.eval()(image)
    for hook in hooks:
        hook.remove()
    assert len(order) == len(set(order)) == len(owners)
    return order


def copy_weights(source: nn.Module, target: nn.Module, image: Tensor) -> None:
    for theirs, ours in zip(called(source, image), called(target, image), strict=True):
        assert isinstance(ours, type(theirs))
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "torchvision_name"),
    [
        ("squeezenet_1.0", "squeezenet1_0"),
        ("squeezenet_1.1", "squeezenet1_1"),
        ("densenet121", "densenet121"),
    ],
)
@pytest.mark.parametrize("resolution", [64, 97])
@torch.no_grad()
def test_copied_weights_give_equal_outputs(name: str, torchvision_name: str, resolution: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(torchvision_name, weights=None)
    shake_batch_norms(theirs)
    ours = build(load_architecture(name))
    image = torch.randn(2, 3, resolution, resolution)
    copy_weights(theirs, ours, image)
    expected = theirs.eval()(image)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours.eval()(image), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(deploy(ours)(image), expected, rtol=1e-5, atol=1e-5)
