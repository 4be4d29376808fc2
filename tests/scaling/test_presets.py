"""Published rules and families: every network of a table exactly, and what the papers say of their rules."""

from __future__ import annotations

import math

import pytest

from nas.networks.network import canonical, totals, trace
from nas.scaling.family import describe_family, make_member, members_by_phi, members_by_points
from nas.scaling.presets import PRESETS, Coefficients, from_exponents
from nas.scaling.sizes import Factors, Rounding
from nas.spaces.yaml_format import load_architecture

B0_TO_B7 = [
    (5_288_548, 385_814_752),
    (7_794_184, 686_802_832),
    (9_109_994, 993_561_872),
    (12_233_232, 1_827_141_392),
    (19_341_616, 4_393_771_024),
    (30_389_784, 10_266_384_752),
    (43_040_704, 19_067_593_536),
    (66_347_960, 37_745_884_192),
]
"""Parameters and MACs of torchvision 0.29.1's efficientnet_b0 to b7."""
BASES = {
    "efficientnet": "efficientnet_b0",
    "efficientnet_x_tpu": "efficientnet_b0",
    "efficientnet_x_gpu": "efficientnet_b0",
    "efficientdet": "efficientdet_d0",
    "efficientdet_lite": "efficientdet_lite0",
    "mobilenet_v1": "mobilenet_v1_1.0",
    "mobilenet_v2": "mobilenet_v2_1.0",
    "mobilenet_v3": "mobilenet_v3_large_1.0",
    "mnasnet": "mnasnet_a1_1.0",
}
MULTIPLIED = [
    ("mobilenet_v1", "mobilenet_v1_1.0", "mobilenet_v1_", (0.25, 0.5, 0.75, 1.0)),
    ("mobilenet_v2", "mobilenet_v2_1.0", "mobilenet_v2_", (0.35, 0.5, 0.75, 1.0, 1.4)),
    ("mobilenet_v3", "mobilenet_v3_large_1.0", "mobilenet_v3_large_", (0.75, 1.0)),
    ("mobilenet_v3", "mobilenet_v3_small_1.0", "mobilenet_v3_small_", (1.0,)),
    ("mnasnet", "mnasnet_a1_1.0", "mnasnet_a1_", (0.35, 0.5, 0.75, 1.0, 1.4)),
    ("mnasnet", "mnasnet_b1_1.0", "mnasnet_b1_", (0.5, 0.75, 1.0, 1.3, 1.4)),
]
X_TPU = [(1, 1, 224), (1.05, 1.09, 229), (1.13, 1.29, 244), (1.27, 1.62, 263), (1.54, 2.38, 299), (1.96, 2.76, 332),
         (2.75, 3.01, 328), (3.26, 3.44, 350)]  # fmt: skip
X_GPU = [(1, 1, 224), (1.05, 1.09, 229), (1.13, 1.24, 237), (1.31, 1.63, 255), (1.63, 2.40, 282), (1.94, 3.29, 306),
         (2.25, 4.28, 328), (2.58, 5.46, 350)]  # fmt: skip
"""Width, depth and pixels in tensorflow/tpu's efficientnet_x builder."""


def test_efficientnet_is_b0_to_b7_to_the_bit() -> None:
    preset = PRESETS["efficientnet"]
    family = members_by_points(load_architecture("efficientnet_b0"), preset.points, preset.rounding)
    assert [made.name for made in family] == [f"b{number}" for number in range(8)]
    for number, (made, costs) in enumerate(zip(family, B0_TO_B7, strict=True)):
        shipped = canonical(load_architecture(f"efficientnet_b{number}"))
        assert made.architecture.digest == shipped.digest
        whole = totals(trace(made.architecture))
        assert (whole.params, whole.macs) == costs


def test_the_papers_rule_is_not_the_shipped_table() -> None:
    preset = PRESETS["efficientnet"]
    assert preset.coefficients == Coefficients(1.2, 1.1, 1.15)
    assert preset.coefficients.at(1).growth == pytest.approx(1.9203, abs=5e-5)
    base = load_architecture("efficientnet_b0")
    first, second = members_by_phi(base, preset.coefficients, (0, 1), preset.rounding)
    assert first.architecture.digest == canonical(base).digest
    assert (second.factors.depth, second.factors.width, second.architecture.resolution) == (1.2, 1.1, 258)
    shipped = {canonical(load_architecture(f"efficientnet_b{number}")).digest for number in (1, 2)}
    assert second.architecture.digest not in shipped


@pytest.mark.parametrize(("preset", "base", "prefix", "widths"), MULTIPLIED)
def test_multipliers_give_the_shipped_networks(preset: str, base: str, prefix: str, widths: tuple[float, ...]) -> None:
    rounding = PRESETS[preset].rounding
    for width in widths:
        made = make_member(load_architecture(base), Factors(width=width), rounding, f"{width}")
        assert made.architecture.digest == canonical(load_architecture(f"{prefix}{width}")).digest, width


@pytest.mark.parametrize("preset", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mnasnet"])
def test_a_multiplied_network_at_another_input_is_the_same_network_there(preset: str) -> None:
    base, prefix = load_architecture(BASES[preset]), BASES[preset].removesuffix("1.0")
    shipped = (0.75, 1.0) if preset == "mobilenet_v3" else (0.5, 0.75, 1.0)
    points = [point for point in PRESETS[preset].points if point.width in shipped]
    made = members_by_points(base, points, PRESETS[preset].rounding)
    for point, each in zip(points, made, strict=True):
        assert each.name == f"{point.width:g}-{point.resolution}"
        same = load_architecture(f"{prefix}{point.width}").at(point.resolution)
        assert totals(trace(each.architecture)) == totals(trace(same))


def test_mnasnet_at_192_has_the_counted_macs() -> None:
    preset = PRESETS["mnasnet"]
    point = next(point for point in preset.points if point.name == "1-192")
    (made,) = members_by_points(load_architecture("mnasnet_a1_1.0"), [point], preset.rounding)
    assert totals(trace(made.architecture)).macs == 229_322_144  # timm 1.0.31's semnasnet_100 at 192 px
    assert made.architecture.digest == canonical(load_architecture("mnasnet_a1_1.0_r192")).digest


@pytest.mark.parametrize(("name", "rows"), [("efficientnet_x_tpu", X_TPU), ("efficientnet_x_gpu", X_GPU)])
def test_efficientnet_x_has_the_builders_factors(name: str, rows: list[tuple[float, float, int]]) -> None:
    preset = PRESETS[name]
    assert [(point.width, point.depth, point.resolution) for point in preset.points] == rows
    assert preset.coefficients is None
    base = load_architecture("efficientnet_b0")
    for point in preset.points[1:5:3]:
        (made,) = members_by_points(base, [point], preset.rounding)
        assert made.architecture.resolution == point.resolution
        layers = [len(stage) for stage in made.architecture.stages[1:]]
        assert layers == [math.ceil(point.depth * len(stage)) for stage in base.stages[1:]]
        assert totals(trace(made.architecture)).macs > totals(trace(base)).macs


@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.8, 0.1)])
def test_shares_of_a_doubling_multiply_to_two(shares: tuple[float, float, float]) -> None:
    coefficients = from_exponents(*shares)
    for phi in (0.0, 0.5, 1.0, 3.0):
        assert coefficients.at(phi).growth == pytest.approx(2**phi)


def test_fast_compound_scaling_has_the_published_exponents() -> None:
    """pycls' d1_w8_g8_r1: d = s^0.1, w = s^0.4, r = s^0.05."""
    found = PRESETS["dWr"].coefficients
    assert isinstance(found, Coefficients)
    assert (found.alpha, found.beta, found.gamma) == pytest.approx((2**0.1, 2**0.4, 2**0.05))
    assert PRESETS["dWr"].rounding == Rounding(repeats="round", resolution_step=4)


@pytest.mark.parametrize(
    ("rule", "exponent", "off"),
    [("width", 0.5, 0.03), ("dWr", 0.6, 0.07), ("depth", 1.0, 0.15), ("resolution", 1.0, 0.02)],
)
def test_activations_grow_as_the_paper_says(rule: str, exponent: float, off: float) -> None:
    """Activations grow with s^(e_d + e_w / 2 + e_r) (Dollar et al. 2021, section 4): with the root for width alone.

    Depth adds fewer: a stage's first layer, which expands at its input's size, is not repeated.
    """
    base, preset = load_architecture("efficientnet_b0"), PRESETS[rule]
    assert preset.coefficients
    made = members_by_phi(base, preset.coefficients, [2.0], preset.rounding)
    (facts,) = describe_family(made, base)
    assert math.log(facts["activations_ratio"]) / math.log(facts["macs_ratio"]) == pytest.approx(exponent, abs=off)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_it_is_from_and_makes_its_base_first(name: str) -> None:
    preset = PRESETS[name]
    assert preset.about
    assert preset.source.startswith("https://arxiv.org/abs/")
    assert preset.coefficients or preset.points or preset.budget
    base = load_architecture(BASES.get(name, "mobilenet_v2_0.35"))
    if preset.points:
        assert len({point.name for point in preset.points}) == len(preset.points)
        own = next(
            point for point in preset.points if (point.depth, point.width, point.resolution) == (1, 1, preset.reference)
        )
        (made,) = members_by_points(base, [own], preset.rounding, preset.reference)
        assert made.architecture.digest == canonical(base).digest
        least = min(preset.points, key=lambda point: (point.width, point.resolution))
        (made,) = members_by_points(base, [least], preset.rounding, preset.reference)
        assert totals(trace(made.architecture)).macs <= totals(trace(base)).macs
    if preset.coefficients:
        made, larger = members_by_phi(base, preset.coefficients, [0, 1], preset.rounding)
        assert made.architecture.digest == canonical(base).digest
        assert totals(trace(larger.architecture)).macs > 1.5 * totals(trace(base)).macs


def test_the_facts_of_a_family_tell_what_rounding_cost() -> None:
    base = load_architecture("mobilenet_v2_0.35")
    made = members_by_phi(base, Coefficients(1.2, 1.1, 1.15), [0, 1], Rounding())
    first, second = describe_family(made, base)
    assert (first["macs_ratio"], first["rounding"], first["same_as"]) == (1.0, 0.0, None)
    assert second["growth"] == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert second["macs_ratio"] == second["macs"] / first["macs"]
    assert second["rounding"] == pytest.approx(second["macs_ratio"] / second["growth"] - 1)
    assert second["repeats"] == [len(stage) for stage in made[1].architecture.stages]


def test_networks_that_rounding_made_equal_are_told() -> None:
    base = load_architecture("mobilenet_v2_0.35")
    made = members_by_phi(base, Coefficients(1, 1, 1.15), [0, 0.02, 1], Rounding())
    first, same, other = describe_family(made, base)
    assert (first["same_as"], same["same_as"], other["same_as"]) == (None, "phi 0", None)
