"""Scaled detectors: taps, necks and heads, EfficientDet's table and rule, and what cannot be scaled."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError
from nas.networks.network import build, canonical, totals, trace, walk
from nas.scaling.detectors import cell_stages, sizes_of
from nas.scaling.family import members_by_phi, members_by_points
from nas.scaling.presets import PRESETS, DetectorRule
from nas.scaling.scale import repeat_groups, scale
from nas.scaling.sizes import DetectorSizes, Factors, Rounding
from nas.spaces.yaml_format import load_architecture, load_space, shipped_files

DETECTORS = [path.stem for path in shipped_files() if path.parent.name in ("efficientdet", "ssd")]
COMPOUND, SMALLER = Factors(1.2, 1.1, 1.15), Factors(0.6, 0.7, 0.8)
DEVIATIONS: dict[str, dict[str, tuple[object, object]]] = {
    "d5": {"resolution": (1280, 1152), "neck_cells": (7, 8)},
    "d6": {"neck_cells": (8, 9), "fusion": ("sum", "fast")},
    "d7": {
        "resolution": (1536, 1408), "backbone_depth": (2.6, 3.1), "backbone_width": (1.8, 2.0),
        "neck_channels": (384, 512), "neck_cells": (8, 10), "fusion": ("sum", "fast"),
    },
    "d7x": {
        "resolution": (1536, 1408), "neck_channels": (384, 512), "neck_cells": (8, 10), "levels": (6, 5),
        "fusion": ("sum", "fast"),
    },
}  # fmt: skip
BY_RULE = [(512, 64, 3, 3), (640, 88, 4, 3), (768, 112, 5, 3), (896, 160, 6, 4), (1024, 224, 7, 4), (1152, 288, 8, 4),
           (1280, 384, 9, 5), (1408, 512, 10, 5)]  # fmt: skip
"""Pixels, neck channels, neck cells and head layers of EfficientDet's equations 1 to 3, channels as released."""


def macs(arch: Architecture) -> int:
    return totals(trace(arch)).macs


def tapped_pixels(arch: Architecture) -> dict[int, int]:
    """Return the height of the map of each tapped stage."""
    height = {number: block.maps[-1][1] for number, block in walk(arch) if number < len(arch.stages)}
    return {tap: height[tap] for tap in arch.taps}


def mbconv(**args: object) -> BlockSpec:
    return BlockSpec.of("mbconv", {"out_channels": 24, **args})  # type: ignore[dict-item]


def tapped(*stages: tuple[BlockSpec, ...], taps: tuple[int, ...]) -> Architecture:
    """Return a detector with a stem, the given stages and a tiny head."""
    stem = BlockSpec.of("conv", {"out_channels": 16, "stride": 2})
    return Architecture(64, ((stem,), *stages), BlockSpec.of("ssd_head", {"num_classes": 3}), taps)


@pytest.mark.parametrize("preset", ["efficientdet", "efficientdet_lite"])
def test_a_table_reproduces_every_shipped_network_from_its_first(preset: str) -> None:
    known = PRESETS[preset]
    base = load_architecture(f"efficientdet_{known.points[0].name}")
    made = members_by_points(base, known.points, known.rounding, known.reference, known.coefficients)
    assert {member.name for member in made} == {
        name.removeprefix("efficientdet_") for name in DETECTORS if name.startswith(known.points[0].name[:-1], 13)
    }
    for member in made:
        shipped = canonical(load_architecture(f"efficientdet_{member.name}"))
        assert member.architecture.digest == shipped.digest, member.name
        assert member.deviations == (DEVIATIONS.get(member.name, {}) if known.coefficients else {})


def test_the_papers_rule_gives_d0_to_d4_and_its_own_d5_to_d7() -> None:
    base, preset = load_architecture("efficientdet_d0"), PRESETS["efficientdet"]
    assert preset.coefficients
    made = members_by_phi(base, preset.coefficients, list(range(8)), preset.rounding)
    for phi, member in enumerate(made):
        arch = member.architecture
        sizes = sizes_of(arch)
        assert sizes
        assert (arch.resolution, *sizes.values()) == BY_RULE[phi]
        same = canonical(load_architecture(f"efficientdet_d{phi}")).digest
        assert (arch.digest == same) is (phi <= 4)
        backbone = load_architecture(f"efficientnet_b{phi}").stages[: len(base.stages)]
        assert [len(stage) for stage in arch.stages] == [len(stage) for stage in backbone]


def test_the_rule_holds_between_the_networks_of_the_table() -> None:
    rule = PRESETS["efficientdet"].coefficients
    assert rule
    half = rule.at(1.5)
    assert (half.depth, half.width) == pytest.approx((1.15, 1.05))
    assert half.detector == DetectorSizes(96, 4, 3)
    steps = [rule.at(phi / 4) for phi in range(-4, 40)]
    for less, more in pairwise(steps):
        assert less.depth <= more.depth and less.width <= more.width and less.resolution < more.resolution
    with pytest.raises(SpaceError, match=r"width: .* channels of the neck are over 100,000"):
        rule.at(1e6)


@pytest.mark.parametrize("name", [name for name in DETECTORS if not re.fullmatch("efficientdet_d([4-7]|7x)", name)])
def test_every_shipped_detector_is_scaled_or_refused_with_stage_and_dimension(name: str) -> None:
    base = load_architecture(name)
    assert scale(base, Factors()) == base
    for wanted in (COMPOUND, SMALLER):
        try:
            factors, arch = wanted, scale(base, wanted)
        except SpaceError as error:
            assert error.key == "resolution"
            assert "px cannot be built: stage " in str(error) or "px cannot be built: neck 0" in str(error)
            assert "\n" not in str(error)
            factors = replace(wanted, resolution=1.0)
            arch = scale(base, factors)
        assert 0.6 < macs(arch) / macs(base) / factors.growth < 2.4
        assert arch.taps == base.taps
    assert tapped_pixels(scale(base, Factors(depth=1.7))) == tapped_pixels(base)


def test_a_scaled_detector_runs() -> None:
    arch = scale(load_architecture("efficientdet_d0"), Factors(1.5, 0.5, 0.25))
    assert sizes_of(arch) == {"neck_channels": 32, "neck_cells": 5, "head_layers": 5}
    model = build(arch).eval()
    with torch.no_grad():
        boxes, classes = model(torch.rand(1, 3, arch.resolution, arch.resolution))
    assert boxes.shape[:2] == classes.shape[:2]
    assert sum(parameter.numel() for parameter in model.parameters()) == totals(trace(arch)).params


@pytest.mark.parametrize("taps", [(2,), (1, 2)])
def test_a_tapped_map_stays_the_last_of_its_group(taps: tuple[int, ...]) -> None:
    first, rest = mbconv(stride=2), mbconv(expand_ratio=3)
    base = tapped((first,), (rest, rest), taps=taps)
    deep = scale(base, Factors(depth=2))
    split = 1 in taps
    assert repeat_groups(base.stages, base.taps) == ([(0,), (1,), (2,)] if split else [(0,), (1, 2)])
    assert [len(stage) for stage in deep.stages] == ([1, 2, 4] if split else [1, 1, 5])
    assert deep.taps == taps
    if split:
        assert deep.stages[1] == (first, mbconv())


def test_a_tap_behind_an_empty_stage_splits_the_group_too() -> None:
    base = tapped((mbconv(stride=2),), (), (mbconv(expand_ratio=3),), taps=(2, 3))
    assert repeat_groups(base.stages, base.taps) == [(0,), (1,), (3,)]
    assert [len(stage) for stage in scale(base, Factors(depth=2)).stages] == [1, 2, 0, 2]


@pytest.mark.parametrize(("name", "cells"), [("efficientdet_d0", [0]), ("pelee_ssd_voc", [0]), ("dsod300_k48_voc", [])])
def test_a_cell_keeps_the_shapes_of_its_maps(name: str, cells: list[int]) -> None:
    assert cell_stages(load_architecture(name)) == cells


@pytest.mark.parametrize(
    ("channels", "expected"), [(64, [64, 88, 112, 160]), (24, [24, 32, 40, 56]), (128, [128, 176, 240, 320])]
)
def test_the_rule_starts_at_the_sizes_of_its_base(channels: int, expected: list[int]) -> None:
    rule = DetectorRule(channels, 2, 1)
    sizes = [rule.at(phi).detector for phi in range(4)]
    assert sizes == [DetectorSizes(width, 2 + phi, 1 + phi // 3) for phi, width in enumerate(expected)]


def test_networks_of_the_detector_space_follow_the_rule() -> None:
    """Their neck has a lateral stage before the cells, and it sets the channels of both."""
    space, rule = load_space("detector"), PRESETS["efficientdet"]
    assert rule.coefficients
    base = space.decode(space.sample(random.Random(1)))
    assert cell_stages(base) == [1]
    (made,) = members_by_phi(base, rule.coefficients, [1], rule.rounding)
    assert sizes_of(made.architecture) == {"neck_channels": 88, "neck_cells": 4, "head_layers": 3}
    wide = scale(base, COMPOUND)
    assert macs(wide) > 1.4 * macs(base)


@pytest.mark.parametrize(
    ("name", "factors", "message"),
    [
        ("efficientnet_b0", Factors(detector=DetectorSizes(88, 4, 3)), "neck: this network has no neck to scale; .*d0"),
        ("pelee_ssd_voc", Factors(detector=DetectorSizes(88, 4, 3)), "head: must have .*: 'ssd_head'"),
        ("dsod300_k48_voc", Factors(detector=DetectorSizes(88, 4, 3)), "neck: must have .* cell.*: 'dsod_neck'"),
        ("efficientdet_d0", Factors(detector=DetectorSizes(88, 0, 3)), "neck_cells: must be at least 1: 0"),
        ("efficientdet_d0", Factors(resolution=0.02), "resolution: 10 px cannot be built: stage 6, layer 0: a stride"),
        ("efficientdet_d0", Factors(depth=500.0), "depth: 500 times 3 layers is over 1,000"),
        ("mobilenet_v2_ssdlite_c81_r320", Factors(resolution=0.5), "resolution: 160 px cannot be built: stage 18"),
        ("pelee_ssd_voc", Factors(width=0.001), "width: 0.001 times the 32 out_channels of 'pelee_stem' leaves none"),
    ],
)  # fmt: skip
def test_what_cannot_be_scaled_is_one_line(name: str, factors: Factors, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        scale(load_architecture(name), factors, Rounding(resolution_step=1))
    assert "\n" not in str(caught.value)


def test_fields_of_their_default_are_left_out() -> None:
    assert "ends" not in Rounding().to_dict()
    assert Rounding(ends="fixed").to_dict()["ends"] == "fixed"
    assert Factors().to_dict() == {"depth": 1.0, "width": 1.0, "resolution": 1.0}
