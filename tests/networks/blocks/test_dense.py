"""What Fire, SqueezeNext and the dense layers refuse, and which of their spellings are one block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, takes_maps
from nas.networks.network import make_block, traced


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("fire", {"out_channels": 32, "stride": 3}, "stride must be 1 or 2: 3"),
        ("fire", {"out_channels": 32, "squeeze_ratio": 0.01}, "squeeze_ratio leaves no channels of 32: 0.01"),
        (
            "fire",
            {"out_channels": 32, "share_3x3": 1.0},
            "share_3x3 must leave 1x1 and 3x3 filters of 32: 1.0",
        ),
        (
            "fire",
            {"out_channels": 32, "bypass": "simple"},
            "bypass: must be one of none, identity, conv: 'simple'",
        ),
        ("squeezenext", {"out_channels": 30}, "out_channels must be a multiple of 4: 30"),
        ("squeezenext", {"out_channels": 32, "groups": 3}, "groups must divide 16 and a quarter of 32: 3"),
        ("squeezenext", {"out_channels": 8, "groups": 4}, "groups must divide 16 and a quarter of 8: 4"),
        ("squeezenext", {"out_channels": 8, "groups": 0}, "groups must divide 16 and a quarter of 8: 0"),
        (
            "squeezenext",
            {"out_channels": 8, "order": "up"},
            "order: must be one of vertical, horizontal: 'up'",
        ),
        ("dense", {"growth_rate": 0}, "growth_rate and bottleneck must be at least 1: 0, 4"),
        ("dense", {"growth_rate": 8, "stride": 4}, "stride must be 1 or 2: 4"),
        ("transition", {"compression": 0.0}, r"compression must be in \(0, 1\]: 0.0"),
        ("transition", {"compression": 0.01}, "compression 0.01 leaves no channels of 16"),
        ("two_way_dense", {"growth_rate": 15}, "growth_rate must be even and at least 2: 15"),
        ("two_way_dense", {"bottleneck_width": 0}, "bottleneck_width 0 leaves no channels"),
        ("pelee_stem", {"out_channels": 31}, "out_channels must be even: 31"),
        (
            "plain_conv",
            {"out_channels": 8, "padding": 1},
            r"padding must be in \[0, kernel_size\): 1, kernel_size 1",
        ),
        ("plain_conv", {"out_channels": 8, "padding": -1, "kernel_size": 3}, "padding must be in"),
        ("plain_conv", {"out_channels": 8, "kernel_size": 0}, "padding must be in"),
        ("conv_classifier", {"num_classes": 1}, "num_classes must be at least 2: 1"),
        ("norm_classifier", {"num_classes": 1}, "num_classes must be at least 2: 1"),
        ("norm_classifier", {"keep": 0.0}, "keep must leave from 1 to all of 16 features: 0.0"),
        ("norm_classifier", {"keep": 1.5}, "keep must leave from 1 to all of 16 features: 1.5"),
        ("features", {"num_classes": 10}, "block 'features' has no keyword 'num_classes'"),
    ],
)
def test_a_block_that_cannot_be_names_rule_and_value(op: str, args: dict[str, Any], message: str) -> None:
    shape: Any = ((16, 8, 8),) if takes_maps(op) else (16, 8, 8)
    with pytest.raises(SpaceError, match=message):
        traced(block_spec(op, args), shape)


@pytest.mark.parametrize(
    ("op", "args", "in_channels", "same"),
    [
        ("fire", {"out_channels": 32, "bypass": "identity"}, 16, {"out_channels": 32}),
        ("fire", {"out_channels": 16, "bypass": "conv"}, 16, {"out_channels": 16, "bypass": "identity"}),
        ("squeezenext", {"out_channels": 32, "shortcut": "projection"}, 16, {"out_channels": 32}),
        ("transition", {"out_channels": 8, "compression": 0.25}, 16, {"out_channels": 8}),
    ],
)
def test_equal_blocks_have_equal_specs(op: str, args: Any, in_channels: int, same: Any) -> None:
    layer = traced(block_spec(op, args), (in_channels, 8, 8))
    assert layer.spec == block_spec(op, same)
    plain = make_block(block_spec(op, args), (in_channels,))
    assert sum(parameter.numel() for parameter in plain.parameters()) == layer.params


def test_the_bottleneck_of_the_two_way_layer_follows_its_input() -> None:
    wide = traced(block_spec("two_way_dense", {"bottleneck_width": 4}), (256, 8, 8))
    assert wide.params == 2 * 256 * 64 + 2 * 64 * 16 * 9 + 16 * 16 * 9 + 2 * (2 * 64 + 2 * 16) + 2 * 16
    narrow = traced(block_spec("two_way_dense", {"bottleneck_width": 4}), (32, 8, 8))
    assert narrow.params == 2 * 32 * 16 + 2 * 16 * 16 * 9 + 16 * 16 * 9 + 2 * (2 * 16 + 2 * 16) + 2 * 16


@torch.no_grad()
def test_the_bypass_carries_the_pooled_input() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 16, 9, 9)
    plain = make_block(block_spec("fire", {"out_channels": 16, "stride": 2}), (16,))
    bypassed = make_block(block_spec("fire", {"out_channels": 16, "stride": 2, "bypass": "identity"}), (16,))
    bypassed.load_state_dict(plain.state_dict())
    pooled = torch.nn.functional.max_pool2d(image, 3, 2, ceil_mode=True)
    torch.testing.assert_close(bypassed(image), plain(image) + pooled)
