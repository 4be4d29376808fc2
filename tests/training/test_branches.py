"""Branches: folded without a change of the output, reproducible, and resumable."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture
from nas.training.branches import Branched, branched
from nas.training.loop import train
from nas.training.recipe import Recipe
from nas.training.tasks.classification import Classification
from tests.helpers.batch_norms import shake_batch_norms

KINDS = [(8, 8, 3, 1, 1), (8, 8, 5, 1, 8), (8, 16, 3, 2, 4), (16, 16, 3, 1, 4), (4, 8, 7, 1, 1)]
"""Input and output channels, kernel size, stride and groups."""


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_nothing(kind: tuple[int, int, int, int, int], count: int) -> None:
    torch.manual_seed(0)
    channels, out, kernel, stride, groups = kind
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layer = Branched(conv, nn.BatchNorm2d(out), count)
    assert (layer.identity is not None) == (stride == 1 and channels == out)
    shake_batch_norms(layer)
    x = torch.randn(2, channels, 11, 11)
    expected = layer.eval()(x)
    folded = nn.Sequential(*layer.fold()).eval()
    torch.testing.assert_close(folded(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v4_conv_small_0.35", "mobilenet_v3_small_1.0"])
def test_a_network_keeps_its_layers_and_its_output(name: str) -> None:
    torch.manual_seed(0)
    model = build(load_architecture(name)).eval()
    keys, x = list(model.state_dict()), torch.randn(2, 3, 64, 64)
    with branched(model, 2, 0):
        assert len(list(model.state_dict())) > len(keys)
        shake_batch_norms(model)
        expected = model.eval()(x)
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-3)


def test_a_training_with_branches_resumes_and_leaves_none(tmp_path: Path) -> None:
    task = Classification.load("digits")
    sets, recipe = (task.train_set(32, 64), task.validation_set(32, 64)), Recipe(3, batch_size=16, branches=2)

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return build(load_architecture("resnet20"))

    whole, cut = fresh(), fresh()
    curve = list(train(whole, task, *sets, recipe, 0))
    path = tmp_path / "checkpoint.pt"
    first = list(itertools.islice(train(cut, task, *sets, recipe, 0, checkpoint=path), 1))
    again = fresh()
    assert first == curve[:1] and list(train(again, task, *sets, recipe, 0, checkpoint=path)) == curve
    assert not any(isinstance(module, Branched) for module in again.modules())
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
