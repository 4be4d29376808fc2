"""ShuffleNetV2's guidelines on networks whose answers are known."""

from __future__ import annotations

import pytest

from nas.architecture import Architecture, BlockSpec
from nas.networks.guidelines import Guideline, channel_ratio, element_wise_share, fragmentation, groups, guidelines
from nas.networks.network import trace
from nas.spaces.yaml_format import load_architecture

HEAD = BlockSpec.of("classifier", {"num_classes": 10})


def verdicts(name: str) -> list[str]:
    return [rule.verdict for rule in guidelines(trace(load_architecture(name)))]


def series(*blocks: BlockSpec) -> Architecture:
    return Architecture(32, (tuple(blocks),), HEAD)


def test_the_families_get_the_verdicts_that_the_paper_gives_them() -> None:
    assert verdicts("mobilenet_v1_1.0") == ["follows"] * 4
    assert verdicts("mobilenet_v2_1.0")[0] == "breaks"
    assert verdicts("shufflenet_v1_g3_1.0")[:2] == ["breaks", "breaks"]
    assert verdicts("shufflenet_v2_1.0")[:2] == ["follows", "follows"]


def test_the_channel_ratio_is_weighted_by_macs() -> None:
    conv = BlockSpec.of("conv", {"out_channels": 16})
    one = BlockSpec.of("conv", {"out_channels": 32, "kernel_size": 1})
    rule = channel_ratio(trace(series(conv, one)))
    assert rule.value == pytest.approx(1.0607, abs=1e-4)
    assert rule.verdict == "follows"
    two = BlockSpec.of("conv", {"out_channels": 32, "kernel_size": 1, "skip": "none"})
    rule = channel_ratio(trace(series(conv, one, two)))
    assert rule.value == pytest.approx((1.06066 * 16 + 1.0 * 32) / 48, abs=1e-4)


def test_grouped_macs_are_counted_and_depthwise_are_not() -> None:
    conv = BlockSpec.of("conv", {"out_channels": 16})
    grouped = BlockSpec.of("conv", {"out_channels": 16, "groups": 4})
    depthwise = BlockSpec.of("conv", {"out_channels": 16, "groups": 16})
    layers = trace(series(conv, grouped, depthwise))
    rule = groups(layers)
    assert rule.value == layers[1].macs / sum(layer.macs for layer in layers)
    assert "(mean groups: 4)" in rule.about
    assert groups(trace(series(conv, depthwise))).value == 0


def test_fragmentation_counts_the_convolutions_of_a_block() -> None:
    conv = BlockSpec.of("conv", {"out_channels": 16})
    osa = BlockSpec.of("osa", {"out_channels": 16, "mid_channels": 8, "num_layers": 4})
    assert fragmentation(trace(series(conv, BlockSpec.of("pool", {}), osa))).value == 3


def test_an_addition_counts_as_element_wise() -> None:
    conv = BlockSpec.of("conv", {"out_channels": 16})
    added = BlockSpec.of("conv", {"out_channels": 16, "skip": "identity"})
    layers = trace(series(conv, added))
    assert layers[1].element_wise_access == 3 * 16 * 32 * 32
    assert element_wise_share(layers).value > element_wise_share(trace(series(conv, conv))).value


def test_the_threshold_itself_is_followed() -> None:
    assert Guideline("G", "", 0.5, 0.5).verdict == "follows"
    assert Guideline("G", "", 0.51, 0.5).verdict == "breaks"


def test_a_network_without_convolutions_has_verdicts() -> None:
    assert len(guidelines(trace(series(BlockSpec.of("pool", {}))))) == 4
