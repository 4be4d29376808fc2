"""What the mobile families' blocks must be, beyond the conformance suite: their sources' details."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nas.errors import SpaceError
from nas.networks.blocks.classifier import Classifier
from nas.networks.blocks.fbnet_block import FBNetBlock
from nas.networks.blocks.fused_mbconv import FusedMBConv
from nas.networks.blocks.layers import DropConnect, SqueezeExcite, channel_shuffle, make_divisible
from nas.networks.blocks.mbconv import MBConv
from nas.networks.blocks.shufflenet_v1 import ShuffleNetV1Unit
from nas.networks.deployment import deploy
from nas.networks.network import build, set_drop_connect
from nas.spaces.yaml_files import read_yaml
from nas.spaces.yaml_format import load_architecture, load_space

IMAGE = torch.linspace(-1, 1, 2 * 16 * 8 * 8).reshape(2, 16, 8, 8)


def test_make_divisible_never_loses_a_tenth() -> None:
    assert [make_divisible(value) for value in (1, 11.9, 12, 18, 22.4, 44.8)] == [8, 16, 16, 24, 24, 48]


@pytest.mark.parametrize(
    ("expansion", "squeeze"),
    [(72, 24), (120, 32), (480, 120), (672, 168), (960, 240), (16, 8), (96, 24), (144, 40)],
)
def test_mobilenet_v3_squeezes_the_expansion(expansion: int, squeeze: int) -> None:
    block = MBConv(8, out_channels=8, expand_ratio=expansion / 8, se_ratio=0.25, se_from="expansion")
    assert isinstance(block.se, SqueezeExcite)
    assert block.se.reduce.out_channels == squeeze
    assert isinstance(block.se.activation, nn.ReLU) and isinstance(block.se.gate, nn.Hardsigmoid)


def test_efficientnet_squeezes_the_input_with_swish() -> None:
    block = MBConv(40, out_channels=40, se_ratio=0.25, activation="swish")
    assert isinstance(block.se, SqueezeExcite)
    assert block.se.reduce.out_channels == 10
    assert isinstance(block.se.activation, nn.SiLU) and isinstance(block.se.gate, nn.Sigmoid)


def test_fbnet_keeps_its_first_convolution_and_shuffles_after_each_group_convolution() -> None:
    block = FBNetBlock(16, out_channels=24, stride=2, kernel_size=5, expand_ratio=1, groups=2).eval()
    found = [
        (module.kernel_size[0], module.groups, module.stride[0])
        for module in block.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert found == [(1, 2, 1), (5, 16, 2), (1, 2, 1)]
    with torch.no_grad():
        hidden = channel_shuffle(block.expand(IMAGE), 2)
        expected = channel_shuffle(block.project(block.depthwise(hidden)), 2)
        assert torch.equal(block(IMAGE), expected)
        same = FBNetBlock(16, out_channels=16, expand_ratio=1).eval()
        inner = same.project(same.depthwise(same.expand(IMAGE)))
        assert torch.equal(same(IMAGE), inner + IMAGE)
    with pytest.raises(ValueError, match="expand_ratio must be at least 1"):
        FBNetBlock(16, out_channels=16, expand_ratio=0.5)


def test_fused_mbconv_without_expansion_is_one_convolution() -> None:
    convolutions = [
        [tuple(module.kernel_size) for module in block.modules() if isinstance(module, nn.Conv2d)]
        for block in (FusedMBConv(16, out_channels=24, expand_ratio=1), FusedMBConv(16, out_channels=24))
    ]
    assert convolutions == [[(3, 3)], [(3, 3), (1, 1)]]


def test_shufflenet_v1_concatenates_where_it_cannot_add() -> None:
    unit = ShuffleNetV1Unit(16, out_channels=40, stride=2, groups=2, first="ungrouped").eval()
    assert unit.reduce[0].groups == 1 and unit.expand[0].groups == 2
    y = unit(IMAGE)
    assert y.shape == (2, 40, 4, 4)
    assert torch.equal(y[:, :16], nn.functional.avg_pool2d(IMAGE, 3, 2, 1).relu())
    assert ShuffleNetV1Unit(40, out_channels=40, groups=2).eval()(y).shape == y.shape


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"out_channels": 42}, "out_channels must be a multiple of 4: 42"),
        ({"out_channels": 16, "stride": 2}, "must exceed in_channels where it concatenates: 16 -> 16"),
        ({"out_channels": 40, "groups": 3}, "groups must divide the channels: 16 -> 10, groups 3"),
        ({"out_channels": 40, "groups": 0}, "groups must be at least 1: 0"),
    ],
)
def test_shufflenet_v1_names_the_rule_and_the_value(args: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ShuffleNetV1Unit(16, **args)  # type: ignore[arg-type]


def test_the_classifier_has_a_layer_after_pooling() -> None:
    head = Classifier((16,), num_classes=10, hidden_channels=24, pooled_channels=32, activation="hard_swish")
    assert isinstance(head.pooled, nn.Sequential)
    assert [type(layer) for layer in head.pooled] == [nn.Linear, nn.Hardswish]
    assert head.eval()([IMAGE]).shape == (2, 10)


def test_drop_connect_keeps_the_mean_and_drops_whole_images() -> None:
    drop, ones = DropConnect(), torch.ones(4000, 2, 1, 1)
    assert drop(ones) is ones
    drop.rate = 0.25
    torch.manual_seed(0)
    out = drop(ones)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert torch.equal(out[:, 0], out[:, 1]) and out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(ones) is ones


def test_drop_connect_is_linear_in_depth_and_gone_when_deployed() -> None:
    network = build(load_architecture("efficientnet_b0"))
    set_drop_connect(network, 0.2)
    rates = [module.rate for module in network.modules() if isinstance(module, DropConnect)][1:]
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)])
    assert not any(isinstance(module, DropConnect) for module in deploy(network).modules())
    with pytest.raises(ValueError, match=r"must be in \[0, 1\): 1.0"):
        set_drop_connect(network, 1.0)


def test_a_file_tells_its_published_accuracy() -> None:
    space = load_space("mobilenet_v2_1.0")
    assert (space.published_top1, space.published_source) == (72.0, "megvii-model/ShuffleNet-Series README")
    assert (load_space("mnasnet").published_top1, load_space("mnasnet").published_source) == (None, "")


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ("{top1: 72.0}", "published: the key 'source' is missing"),
        ("{source: x}", "published: the key 'top1' is missing"),
        ("{top1: 720, source: x}", "top1: must be a percentage above 0 and at most 100: 720"),
        ("{top1: true, source: x}", "top1: must be a percentage above 0 and at most 100: True"),
        ("{top1: .nan, source: x}", "top1: must be a percentage above 0 and at most 100: nan"),
        ("{top1: 72.0, source: 3}", "source: must name the publication of the accuracy: 3"),
        ("{top1: 72.0, source: x, top5: 90}", "unknown key 'top5'"),
        ("72.0", "must be a mapping of keys to values: 72.0"),
        ("", "must be a mapping of keys to values: None"),
    ],
)
def test_a_wrong_published_accuracy_is_refused(tmp_path: Path, published: str, said: str) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(
        f"resolution: 32\nstages: [{{block: conv, out_channels: 8}}]\nhead: {{block: classifier}}\n"
        f"published: {published}\n",
        encoding="utf-8",
    )
    with pytest.raises(SpaceError, match=said):
        load_space(str(path))
    assert read_yaml(path)


def test_a_space_has_no_published_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(
        "resolution: 32\nstages: [{block: conv, out_channels: [8, 16]}]\nhead: {block: classifier}\n"
        "published: {top1: 72.0, source: x}\n",
        encoding="utf-8",
    )
    with pytest.raises(SpaceError, match="published: is allowed for a single network only; number of choices: 1"):
        load_space(str(path))
