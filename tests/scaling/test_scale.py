"""Depth, width and resolution of every shipped network, and what each block's own rules make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architecture import Architecture, BlockSpec
from nas.errors import SpaceError
from nas.networks.block_schema import arguments
from nas.networks.blocks.layers import make_divisible
from nas.networks.network import build, in_channels, output_shapes, totals, trace
from nas.scaling.scale import default_resolution_step, missing_dimensions, repeat_groups, scale, total_stride
from nas.scaling.sizes import DIMENSIONS, Factors, Rounding
from nas.spaces.yaml_format import load_architecture, load_space, shipped_files, space_names

SPACES = {path.stem for path in shipped_files() if path.parent.name == "spaces"}
DEEP = {"condensenet86", "condensenet98", "condensenet110", "condensenet122", "condensenet182"}
"""Of the same blocks as the shallower ones, and slow."""
DETECTORS = {name for name in space_names() if load_space(name).taps}
NETWORKS = sorted({name for name in space_names() if name.partition("_")[0] not in DEEP} - SPACES - DETECTORS)
FAMILIES = [
    "condensenet50_cifar10_test", "condensenet50_cifar10_train", "densenet67_k48_backbone", "efficientnet_b0",
    "ese_vovnet39b", "mnasnet_small", "mobilenet_v1_0.25", "mobilenet_v2_0.35", "mobilenet_v3_small_1.0", "peleenet",
    "shufflenet_v1_g3_0.25", "shufflenet_v1_g8_0.5", "shufflenet_v2_0.5", "squeezenet_1.1_complex_bypass",
    "squeezenext_1.0_23v5", "vovnet27_slim",
]  # fmt: skip
QUICK = [
    "condensenet50_cifar10_test", "mobilenet_v2_0.35", "mobilenet_v3_small_1.0", "shufflenet_v1_g3_0.25",
    "shufflenet_v2_0.5", "squeezenet_1.1_complex_bypass", "squeezenext_1.0_23v5", "vovnet27_slim",
]  # fmt: skip
COMPOUND, SMALLER = Factors(1.2, 1.1, 1.15), Factors(0.5, 0.6, 0.7)
WIDTHS = {"out_channels", "mid_channels", "growth_rate", "hidden_channels", "pooled_channels"}
MOVABLE = {*WIDTHS, "expand_ratio"}


def widths(spec: BlockSpec) -> dict[str, int]:
    """Return the channels that a block names."""
    return {key: int(value) for key, value in arguments(spec).items() if key in WIDTHS and value}


def every(arch: Architecture) -> list[BlockSpec]:
    return [*arch.blocks(), arch.head]


def by_group(arch: Architecture) -> list[list[BlockSpec]]:
    """Return the layers of each group that repeats together."""
    return [[spec for index in group for spec in arch.stages[index]] for group in repeat_groups(arch.stages)]


def repeats(stages: Sequence[Sequence[BlockSpec]], groups: Sequence[tuple[int, ...]] | None = None) -> list[int]:
    """Return the number of layers of each group that repeats together, by default of the stages' own groups."""
    return [sum(len(stages[index]) for index in group) for group in groups or repeat_groups(stages)]


def without(spec: BlockSpec, keys: set[str]) -> dict[str, object]:
    return {key: value for key, value in arguments(spec).items() if key not in keys}


def macs(arch: Architecture) -> int:
    return totals(trace(arch)).macs


def network(*blocks: tuple[str, dict[str, object]], resolution: int = 32) -> Architecture:
    stages = tuple((BlockSpec.of(op, args),) for op, args in blocks)  # type: ignore[arg-type]
    return Architecture(resolution, stages, BlockSpec.of("classifier", {}))


def check_channels(arch: Architecture, base: Architecture, factor: float, divisor: int = 8) -> None:
    """Channels are multiples of the divisor, or the base's own where it grows narrower, and go the factor's way."""
    for first, *_ in repeat_groups(base.stages):
        old, new = base.stages[first][0], arch.stages[first][0]
        for key, value in widths(new).items():
            own = widths(old)[key]
            assert value % divisor == 0 or (factor < 1 and value == own) or factor == 1, (key, own, value)
            assert value >= own if factor > 1 else value <= own, (key, own, value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_shipped_network_grows_and_shrinks(name: str) -> None:
    base = load_architecture(name)
    larger, smaller = scale(base, COMPOUND), scale(base, SMALLER)
    assert macs(smaller) < 0.5 * macs(base) < macs(base) < macs(larger)
    assert 0.6 < macs(larger) / macs(base) / COMPOUND.growth < 1.7
    for arch, factors in ((larger, COMPOUND), (smaller, SMALLER)):
        check_channels(arch, base, factors.width)
        assert arch.resolution == pytest.approx(
            base.resolution * factors.resolution, abs=default_resolution_step(base.resolution)
        )
        assert arch.resolution % default_resolution_step(base.resolution) == 0
        groups = repeat_groups(base.stages)  # narrower stages can become alike and would count as one group
        for before, after in zip(repeats(base.stages, groups), repeats(arch.stages, groups), strict=True):
            assert after in (before, math.ceil(factors.depth * before - 1e-9))


@pytest.mark.parametrize("name", [*NETWORKS, "condensenet182_cifar10_train"])
def test_factors_of_one_give_the_base_to_the_bit(name: str) -> None:
    base = load_architecture(name)
    assert scale(base, Factors()) == base
    assert scale(base, Factors(), Rounding(16, "round", 32, "fixed")).digest == base.digest


@pytest.mark.parametrize("factor", [2.0, 1.3, 0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_depth_alone_repeats_only_what_repeats(name: str, factor: float) -> None:
    base = load_architecture(name)
    arch = scale(base, Factors(depth=factor))
    before, after = by_group(base), by_group(arch)
    assert (arch.resolution, arch.head) == (base.resolution, base.head)
    assert after[0] == before[0]
    for old, new in zip(before, after, strict=True):
        assert new[: len(old)] == old[: len(new)]
        assert len(new) in (len(old), math.ceil(factor * len(old)))
        assert all(widths(spec) == widths(old[-1]) for spec in new[len(old) :])
        assert all(arguments(spec).get("stride", 1) == 1 for spec in new[len(old) :])
        if old[0].op in {"pool", "transition", "pelee_stem", "plain_conv"}:
            assert new == old
    assert sum(map(len, after)) > sum(map(len, before)) if factor > 1 else len(after) == len(before)
    assert macs(arch) > macs(base) if factor > 1 else macs(arch) <= macs(base)


@pytest.mark.parametrize("factor", [1.5, 0.6])
@pytest.mark.parametrize("name", FAMILIES)
def test_width_alone_changes_only_channels(name: str, factor: float) -> None:
    base = load_architecture(name)
    arch = scale(base, Factors(width=factor))
    assert arch.resolution == base.resolution
    assert [len(stage) for stage in arch.stages] == [len(stage) for stage in base.stages]
    for old, new in zip(every(base), every(arch), strict=True):
        assert (new.op, without(new, MOVABLE)) == (old.op, without(old, MOVABLE))
    check_channels(arch, base, factor)
    assert macs(arch) > macs(base) if factor > 1 else macs(arch) < macs(base)


@pytest.mark.parametrize("name", FAMILIES)
def test_resolution_alone_changes_nothing_else(name: str) -> None:
    base = load_architecture(name)
    for factor in (1.3, 0.7):
        arch = scale(base, Factors(resolution=factor))
        assert arch == base.at(arch.resolution)
        assert arch.resolution == pytest.approx(base.resolution * factor, abs=2)
    exact = Rounding(resolution_step=1)
    assert scale(base, Factors(resolution=260 / base.resolution), exact).resolution == 260


@pytest.mark.parametrize("name", ["mobilenet_v3_small_1.0", "shufflenet_v1_g3_0.25", "squeezenext_1.0_23v5"])
def test_a_scaled_network_runs(name: str) -> None:
    for factors in (COMPOUND, SMALLER):
        arch = scale(load_architecture(name), factors)
        model = build(arch).eval()
        with torch.no_grad():
            logits = model(torch.rand(1, 3, arch.resolution, arch.resolution))
        assert logits.shape == (1, 1000)
        assert sum(parameter.numel() for parameter in model.parameters()) == totals(trace(arch)).params


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("shufflenet_v1_g3_1.0", [1, 1, 4, 8, 4], [1, 1, 8, 16, 8]),
        ("mobilenet_v3_large_1.0", [1, 1, 2, 3, 4, 2, 3], [1, 2, 4, 6, 8, 4, 6]),
        ("mobilenet_v1_1.0", [1, 1, 2, 2, 6, 2], [1, 2, 4, 4, 12, 4]),
        ("densenet121", [1, 1, 6, 1, 12, 1, 24, 1, 16], [1, 1, 12, 1, 24, 1, 48, 1, 32]),
        ("peleenet", [1, 3, 1, 4, 1, 8, 1, 6, 1], [1, 6, 1, 8, 1, 16, 1, 12, 1]),
        ("squeezenext_1.0_23v5", [1, 1, 1, 2, 1, 4, 1, 14, 1, 1], [1, 1, 1, 4, 1, 8, 1, 28, 1, 2]),
        ("vovnet39", [2, 1, 1, 1, 2, 2], [2, 1, 2, 2, 4, 4]),
    ],
)
def test_a_unit_and_its_repeats_are_one_group_and_bridges_stay(name: str, before: list[int], after: list[int]) -> None:
    base = load_architecture(name)
    assert repeats(base.stages) == before
    assert repeats(scale(base, Factors(depth=2)).stages) == after


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("name", ["squeezenext_1.0_23", "squeezenext_1.0_23v5"])
def test_an_alternating_stage_goes_on_alternating(name: str, factor: float) -> None:
    arch = scale(load_architecture(name), Factors(depth=factor))
    stages = [[arguments(spec)["order"] for spec in stage if spec.op == "squeezenext"] for stage in arch.stages]
    mixed = [orders for orders in stages if len(set(orders)) > 1]
    assert len(mixed) == 3
    for orders in mixed:
        assert orders == [("vertical", "horizontal")[place % 2] for place in range(len(orders))]


def test_a_first_layer_of_its_own_is_not_repeated() -> None:
    base = load_architecture("mobilenet_v3_small_1.0")
    for layers in by_group(scale(base, Factors(depth=2.5)))[1:]:
        ratios = [arguments(spec)["expand_ratio"] for spec in layers]
        assert len(set(ratios[2:])) <= 1, ratios
        assert not any(arguments(spec)["stride"] == 2 for spec in layers[1:])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.1, 1.5, 2.3])
@pytest.mark.parametrize(("name", "count"), [("g1_1.0", 1), ("g3_0.25", 3), ("g3_1.0", 3), ("g8_0.5", 8)])
def test_groups_of_shufflenet_v1_divide_what_they_read_and_give(name: str, count: int, factor: float) -> None:
    arch = scale(load_architecture(f"shufflenet_v1_{name}"), Factors(width=factor))
    layers = [layer for layer in trace(arch) if layer.spec.op == "shufflenet_v1"]
    for layer in layers:
        (read,), out = in_channels(layer), int(arguments(layer.spec)["out_channels"])
        assert out % (4 * count) == 0
        assert arguments(layer.spec).get("first") == "ungrouped" or read % count == 0
    first = layers[0]
    assert (int(arguments(first.spec)["out_channels"]) - in_channels(first)[0]) % count == 0


@pytest.mark.parametrize(
    ("name", "key", "factor", "base", "scaled"),
    [
        ("densenet121", "growth_rate", 1.5, {32}, {48}),
        ("densenet67_k48_backbone", "growth_rate", 0.5, {48}, {24}),
        ("condensenet50_cifar10_train", "growth_rate", 2.0, {8, 16, 32}, {16, 32, 64}),
        ("condensenet74_c8g8_test", "growth_rate", 1.5, {8, 16, 32, 64, 128}, {16, 24, 48, 96, 192}),
        ("peleenet", "growth_rate", 1.25, {32}, {40}),
        ("vovnet39", "mid_channels", 1.25, {128, 160, 192, 224}, {160, 200, 240, 280}),
        ("vovnet27_slim", "mid_channels", 0.5, {64, 80, 96, 112}, {32, 40, 48, 56}),
    ],
)
def test_what_a_dense_family_grows_by_is_scaled(
    name: str, key: str, factor: float, base: set[int], scaled: set[int]
) -> None:
    arch = load_architecture(name)
    assert {widths(spec)[key] for spec in arch.blocks() if key in widths(spec)} == base
    wide = scale(arch, Factors(width=factor))
    assert {widths(spec)[key] for spec in wide.blocks() if key in widths(spec)} == scaled
    trace(wide)


def test_peleenet_grows_by_even_numbers_whatever_the_divisor() -> None:
    arch = scale(load_architecture("peleenet"), Factors(width=1.1), Rounding(divisor=1))
    grown = {widths(spec)["growth_rate"] for spec in arch.blocks() if spec.op == "two_way_dense"}
    assert grown == {36}
    trace(arch)


def test_expansions_that_were_multiples_stay_so_and_ratios_of_the_language_stay() -> None:
    base = load_architecture("mobilenet_v3_large_1.0")
    assert scale(base, Factors(width=0.75), Rounding(head="never narrower")).stages == tuple(
        load_architecture("mobilenet_v3_large_0.75").stages
    )
    for factor in (0.6, 1.3):
        for layer in trace(scale(base, Factors(width=factor))):
            if layer.spec.op == "mbconv":
                assert round(in_channels(layer)[0] * float(arguments(layer.spec)["expand_ratio"])) % 8 == 0
    wide = scale(load_architecture("efficientnet_b0"), Factors(width=1.3))
    assert {(arguments(spec)["expand_ratio"], arguments(spec)["se_ratio"]) for spec in wide.blocks() if
            spec.op == "mbconv"} == {(1, 0.25), (6, 0.25)}  # fmt: skip


@pytest.mark.parametrize(
    ("head", "factor", "last"),
    [("scaled", 0.5, 640), ("scaled", 1.5, 1920), ("never narrower", 0.5, 1280), ("never narrower", 1.5, 1920),
     ("fixed", 0.5, 1280), ("fixed", 1.5, 1280)],
)  # fmt: skip
def test_the_head_follows_its_rule(head: str, factor: float, last: int) -> None:
    rounding = Rounding(head=head)  # type: ignore[arg-type]
    assert widths(scale(load_architecture("mobilenet_v2_1.0"), Factors(width=factor), rounding).head) == {
        "hidden_channels": last
    }
    both = widths(scale(load_architecture("mobilenet_v3_large_1.0"), Factors(width=factor), rounding).head)
    assert both == {"hidden_channels": int(960 * factor), "pooled_channels": last}


@pytest.mark.parametrize("divisor", [1, 4, 8, 16])
def test_channels_are_multiples_of_the_divisor(divisor: int) -> None:
    base = load_architecture("mobilenet_v2_1.0")
    arch = scale(base, Factors(width=1.13), Rounding(divisor=divisor))
    for old, new in zip(every(base), every(arch), strict=True):
        for key, value in widths(old).items():
            assert widths(new)[key] == make_divisible(1.13 * value, divisor)


@pytest.mark.parametrize("factor", [1.01, 1.04, 1.1, 1.3])
@pytest.mark.parametrize("name", ["shufflenet_v1_g3_0.25", "shufflenet_v1_g3_0.5", "shufflenet_v1_g8_0.5"])
def test_wider_is_never_narrower_where_groups_make_the_steps_large(name: str, factor: float) -> None:
    base = load_architecture(name)
    check_channels(scale(base, Factors(width=factor)), base, factor)


def test_a_stem_of_no_multiple_of_its_step_grows() -> None:
    unit = ("shufflenet_v1", {"out_channels": 60, "stride": 2, "groups": 3, "first": "ungrouped"})
    base = network(("conv", {"out_channels": 30, "stride": 2}), unit)
    arch = scale(base, Factors(width=1.1))
    check_channels(arch, base, 1.1)
    assert widths(arch.stages[0][0]) == {"out_channels": 48}


@pytest.mark.parametrize("factor", [0.99, 0.97, 0.9])
@pytest.mark.parametrize("name", QUICK)
def test_narrower_is_never_wider(name: str, factor: float) -> None:
    base = load_architecture(name)
    check_channels(scale(base, Factors(width=factor)), base, factor)
    assert macs(scale(base, Factors(width=factor))) <= macs(base)


STEM = ("conv", {"out_channels": 16, "stride": 2})


@pytest.mark.parametrize(
    ("blocks", "missing"),
    [
        ([STEM], {"depth": "no stage can be repeated (conv)"}),
        ([STEM, ("conv", {"out_channels": 32, "stride": 2})], {"depth": "no stage can be repeated (conv)"}),
        ([STEM, ("pool", {"stride": 2}), ("transition", {"compression": 0.5})],
         {"depth": "no stage can be repeated (conv, pool, transition)"}),
        ([("pool", {"stride": 2})],
         {"depth": "no stage can be repeated (pool)", "width": "no block sets its number of channels"}),
        ([STEM, ("mbconv", {"out_channels": 24})], {}),
    ],
)  # fmt: skip
def test_dimensions_that_a_network_does_not_have(
    blocks: Sequence[tuple[str, dict[str, object]]], missing: dict[str, str]
) -> None:
    arch = network(*blocks)
    assert missing_dimensions(arch) == missing
    for dimension, why in missing.items():
        with pytest.raises(SpaceError) as caught:
            scale(arch, replace(Factors(), **{dimension: 1.5}))  # type: ignore[arg-type]
        assert str(caught.value) == f"{dimension}: this network has no {dimension} to scale: {why}"
        assert caught.value.key == dimension
    left = {dimension: 1.5 for dimension in DIMENSIONS if dimension not in missing}
    assert scale(arch, Factors(**left)) != arch  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "factors", "rounding", "message"),
    [
        ("mobilenet_v2_1.0", Factors(width=0.01), Rounding(), "width: 0.01 times the 32 out_channels of 'conv'"),
        ("mobilenet_v2_1.0", Factors(depth=0.2), Rounding(repeats="round"), "depth: 0.2 times the 1 layers of stage 1"),
        ("mobilenet_v2_1.0", Factors(resolution=0.1), Rounding(),
         "resolution: 24 px .0.1 times 224, in steps of 4. is below the total stride of 32: .*at least 32 px"),
        ("mobilenet_v2_1.0", Factors(resolution=0.1), Rounding(resolution_step=64), "resolution: 0 px"),
        ("mobilenet_v2_1.0", Factors(depth=0.0), Rounding(), "depth: the factor must be above zero and finite: 0.0"),
        ("mobilenet_v2_1.0", Factors(width=-1.0), Rounding(), "width: the factor must be above zero and finite: -1.0"),
        ("mobilenet_v2_1.0", Factors(resolution=math.nan), Rounding(), "resolution: the factor must be .* finite: nan"),
        ("mobilenet_v2_1.0", Factors(depth=1e300), Rounding(), "depth: 1e.300 times 1 layers is over 1,000"),
        ("mobilenet_v2_1.0", Factors(width=1e9), Rounding(), "width: 1e.09 times 32 out_channels is over 100,000"),
        ("mobilenet_v2_1.0", Factors(resolution=1e4), Rounding(), "resolution: 10000 times 224 px is over 20,000"),
        ("mobilenet_v2_1.0", Factors(width=math.inf), Rounding(), "width: the factor must be .* finite: inf"),
    ],
)  # fmt: skip
def test_what_leaves_nothing_is_an_error_that_names_the_dimension(
    name: str, factors: Factors, rounding: Rounding, message: str
) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        scale(load_architecture(name), factors, rounding)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", QUICK)
def test_the_least_input_is_built_or_refused_by_name(name: str) -> None:
    base = load_architecture(name)
    stride = total_stride(base)
    for size, width in product((stride - 1, stride, stride + 1, 2 * stride), (0.9, 1.0)):
        try:
            arch = scale(base, Factors(width=width, resolution=size / base.resolution), Rounding(resolution_step=1))
        except SpaceError as error:
            assert str(error).startswith("resolution: ")
            assert size < 2 * stride
        else:
            assert output_shapes(trace(arch)[-2])[0][1] >= 1


def test_a_detector_is_scaled_and_factors_of_one_change_nothing() -> None:
    base = load_architecture("efficientdet_d0")
    assert scale(base, Factors()) == base
    wide = scale(base, Factors(width=1.5))
    assert {widths(spec)["out_channels"] for stage in wide.neck for spec in stage} == {96}


FACTOR = st.floats(0.3, 3.0)


@settings(max_examples=25)
@given(st.sampled_from(QUICK), FACTOR, FACTOR, FACTOR, st.sampled_from(DIMENSIONS), st.sampled_from(["ceil", "round"]))
def test_any_factors_give_a_network_or_one_line_that_names_the_dimension(
    name: str, depth: float, width: float, resolution: float, rising: str, how: str
) -> None:
    base, rounding = load_architecture(name), Rounding(repeats=how)  # type: ignore[arg-type]
    factors = Factors(depth, width, min(resolution, 1.2))
    try:
        arch = scale(base, factors, rounding)
        more = scale(base, replace(factors, **{rising: 1.6 * getattr(factors, rising)}), rounding)
    except SpaceError as error:
        assert str(error).startswith(tuple(f"{dimension}: " for dimension in DIMENSIONS))
        assert "\n" not in str(error)
        return
    check_channels(arch, base, width)
    assert macs(more) >= macs(arch)
