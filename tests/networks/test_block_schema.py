from __future__ import annotations

import inspect

import pytest

from nas.architecture import BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, keywords, simplify, takes_maps
from nas.networks.blocks import BLOCKS
from nas.networks.network import traced


@pytest.mark.parametrize("op", BLOCKS)
def test_a_block_keeps_the_house_rules(op: str) -> None:
    block = BLOCKS[op]
    known = keywords(op)
    assert len(known) <= 9
    assert all(keyword.type in (bool, int, float, str) for keyword in known.values())
    assert (block.__doc__ or "").strip()
    assert next(iter(inspect.signature(block).parameters)) == "in_channels"
    assert len(block.__mro__) <= 4


def test_defaults_are_left_out_and_types_are_one() -> None:
    spec = block_spec("mbconv", {"out_channels": 16, "expand_ratio": 6, "stride": 1})
    assert spec == BlockSpec("mbconv", (("out_channels", 16),))
    assert block_spec("mbconv", {"out_channels": 16, "expand_ratio": 3}).kwargs["expand_ratio"] == 3.0


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("mbcov", {}, "unknown block 'mbcov'; did you mean 'mbconv'"),
        ("mbconv", {"out_channels": 8, "kernal_size": 3}, "no keyword 'kernal_size'; did you mean 'kernel_size'"),
        ("mbconv", {}, "needs the keyword 'out_channels'"),
        ("mbconv", {"out_channels": "8"}, "out_channels: must be of type int: '8'"),
        ("mbconv", {"out_channels": True}, "out_channels: must be of type int: True"),
        ("mbconv", {"out_channels": 8, "activation": "rleu"}, "did you mean 'relu'"),
        ("mbconv", {"out_channels": -8}, "must not be negative: -8"),
    ],
)
def test_a_wrong_block_is_named_with_the_nearest_right_one(op: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        block_spec(op, args, "x.yaml, stage 3")


def test_inert_keywords_are_dropped_only_where_they_are_inert() -> None:
    spec = block_spec("conv", {"out_channels": 16, "skip": "identity"})
    assert simplify(spec, 8) == block_spec("conv", {"out_channels": 16})
    assert simplify(spec, 16) == spec
    pooled = block_spec("conv", {"out_channels": 16, "skip": "pool", "stride": 2})
    assert simplify(pooled, 16) == pooled


def test_heads_are_told_from_blocks_by_their_signature() -> None:
    assert takes_maps("classifier")
    assert not takes_maps("conv")


@pytest.mark.parametrize("block", ["mbconv", "fused_mbconv"])
def test_a_skip_that_is_written_none_is_none_where_identity_would_be_one(block: str) -> None:
    spec = block_spec(block, {"out_channels": 8, "skip": "none"})
    assert simplify(spec, 8) == spec
    assert simplify(spec, 16) == block_spec(block, {"out_channels": 8})
    assert traced(spec, (8, 16, 16)) != traced(block_spec(block, {"out_channels": 8}), (8, 16, 16))
