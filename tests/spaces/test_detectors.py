"""Taps, necks and heads of several outputs in spaces: what a brute force finds, and what is refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.errors import SpaceError
from nas.networks.network import Layer, canonical, input_shapes, output_shapes, totals, trace
from nas.spaces import automaton
from nas.spaces.automaton import best_path, choices_for, reachable, unroll
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.latency_distribution import count_within, sample_within
from nas.spaces.resolutions import at_resolutions
from nas.spaces.search_space import Space, enumerate_choices
from nas.spaces.yaml_format import load_architecture, load_space, parse_space
from tests.helpers.small_detector import SMALL

HALVING = {"block": "conv", "out_channels": 8, "stride": 2}


def changed(**keys: Any) -> dict[str, Any]:
    return {**SMALL, **keys}


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space("small", SMALL, "small.yaml")


@pytest.fixture(scope="module")
def every(space: Space) -> list[Architecture]:
    """All networks, by walking through all choices."""
    found = {canonical(arch) for arch, _ in enumerate_choices(space.walk)}
    return sorted(found, key=lambda arch: arch.digest)


def cost(layer: Layer) -> float:
    return layer.macs + 17.0 * layer.params + 1000.0


def test_the_automaton_has_all_networks_and_no_others(space: Space, every: list[Architecture]) -> None:
    costs = tabulate_costs(space, cost)
    assert costs.size == len(every)
    by_hand = {arch: sum(map(cost, trace(arch))) for arch in every}
    for largest in (False, True):
        value, arch = best_path(space, cost, largest=largest)
        assert value == pytest.approx((max if largest else min)(by_hand.values()))
        assert by_hand[arch] == pytest.approx(value)
    assert (costs.min_cost, costs.max_cost) == pytest.approx((min(by_hand.values()), max(by_hand.values())))
    unrolled = unroll(space)
    for arch in every:
        assert unrolled.architecture(unrolled.path(arch)) == arch


def test_choices_codes_and_costs_agree(space: Space, every: list[Architecture]) -> None:
    costs = tabulate_costs(space, cost)
    keys, rng = list(space.choices), random.Random(0)
    for _ in range(100):
        choices = space.sample(rng)
        arch = canonical(space.decode(choices))
        encoding = [[space.choices[key].index(choices[key]) if key in choices else -1 for key in keys]]
        code = costs.encode_many(encoding)
        assert costs.costs(code)[0] == pytest.approx(sum(map(cost, trace(arch))))
        assert costs.architecture(code[:, 0]) == arch
        assert canonical(space.decode(costs.decode(code[:, 0]))) == arch
        assert canonical(space.decode(choices_for(space, arch))) == arch


def test_samples_within_a_limit_are_uniform(space: Space, every: list[Architecture]) -> None:
    costs = tabulate_costs(space, cost)
    values = sorted(sum(map(cost, trace(arch))) for arch in every)
    limit = (values[40] + values[41]) / 2
    codes = sample_within(costs, limit, 6000, np.random.default_rng(0))
    drawn = [costs.architecture(code).digest for code in codes.T]
    counts = np.array([drawn.count(digest) for digest in set(drawn)])
    assert len(counts) == 41
    assert counts.min() > 0.6 * counts.mean()


def test_every_layer_is_reachable_and_the_neck_has_a_row_for_each_map(space: Space, every: list[Architecture]) -> None:
    layers = {(layer.spec, layer.in_shape) for arch in every for layer in trace(arch)}
    assert {(layer.spec, layer.in_shape) for layer in reachable(space)} == layers
    lateral = [layer for layer in trace(every[0]) if layer.spec.kwargs.get("kernel_size") == 1]
    assert len(lateral) == 2
    assert output_shapes(lateral[0])[0][1] > output_shapes(lateral[1])[0][1]


def test_the_size_counts_the_neck(space: Space) -> None:
    assert space.size == sum(1 for _ in enumerate_choices(space.walk))
    assert "neck1.depth" in space.choices
    assert "head.block" in space.choices
    assert space.conditions["neck1.fusion"] == (("neck1.depth", frozenset({1, 2})),)
    assert space.key != parse_space("small", changed(neck=SMALL["neck"][:1]), "").key
    untapped = [{key: value for key, value in stage.items() if key != "tap"} for stage in SMALL["stages"]]
    assert space.key != parse_space("small", changed(stages=untapped), "").key


def stages(*changes: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
    found = [dict(stage) for stage in SMALL["stages"]]
    for index, change in changes:
        found[index] |= change
    return found


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        changed(stages=stages((3, {"tap": False}))),
        r"stage 3: nothing reads it: with taps, neck and head read",
    ),
    (changed(stages=stages((2, {"tap": True}))), r"stage 2: depth: must not be 0 in a stage with a tap.*\[0, 1\]"),
    (changed(stages=stages((1, {"tap": "yes"}))), r"stage 1: tap: must be true or false: 'yes'"),
    (changed(neck=[{"block": "conv", "out_channels": 8, "tap": True}]), r"neck 0: tap: is allowed in a stage of the"),
    (changed(neck=[{"block": "classifier"}]), r"neck 0: 'classifier' is a head and does not belong in the neck"),
    (changed(stages=stages((3, {"block": "bifpn"}))), r"stage 3: 'bifpn' is a neck and does not belong in a stage"),
    (changed(head={"block": "bifpn"}), r"head: 'bifpn' is a neck and does not belong in the head"),
    (changed(head={"block": "conv", "out_channels": 8}), r"head: 'conv' belongs in a stage, not in the head"),
    (changed(neck=[]), r"neck: must be a list with at least one stage: \[\]"),
    (changed(neck=[{"block": "bifpn", "fusion": "fats"}]), r"neck 0: fusion: must be one of fast.*did you mean 'fast'"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        parse_space("small", data, "small.yaml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(neck=[{"block": "dsod_neck"}, {"block": "dsod_neck"}]), r"neck 1, layer 0.*needs two maps"),
        (changed(neck=[{"block": "bifpn", "levels": 3}]), r"neck 0, layer 0.*out_channels must be given for maps of"),
        (changed(resolution=4), r"stage 3, layer 0: a stride of 2 leaves no pixels of 1x1"),
        (changed(neck=[HALVING, HALVING], resolution=16), r"neck 1, layer 0, map 1: a stride of 2 leaves no pixels"),
    ],
    ids=range(4),
)  # fmt: skip
def test_what_cannot_be_built_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        reachable(parse_space("small", data, "small.yaml"))


def test_too_many_combinations_of_maps_say_what_to_narrow(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton, "MOST_STATES", 3)
    with pytest.raises(
        SpaceError, match=r"at least \d+ combinations of the feature maps.*more than the limit of 3; offer fewer widths"
    ):
        unroll(space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arch: replace(arch, neck=()), "has 2 stages in its neck"),
        (lambda arch: replace(arch, taps=(3,)), r"taps at the stages \[1, 3\]"),
    ],
    ids=["neck", "taps"],
)  # fmt: skip
def test_a_network_of_another_form_is_not_in_the_space(
    change: Callable[[Architecture], Architecture], message: str, space: Space, every: list[Architecture]
) -> None:
    for find in (unroll(space).path, lambda arch: choices_for(space, arch)):
        with pytest.raises(SpaceError, match=message):
            find(change(every[0]))


def test_the_detector_space_has_its_maps_and_few_rows() -> None:
    space = load_space("detector")
    assert space.taps == (3, 5, 7)
    arch = space.decode(space.sample(random.Random(0)))
    layers = trace(arch)
    assert [shape[1] for shape in output_shapes(layers[-2])] == [40, 20, 10, 5, 3]
    assert [shape[-1] for shape in output_shapes(layers[-1])] == [4, 80]
    assert totals(layers).macs > 1e8


def test_several_resolutions_are_as_many_spaces_together() -> None:
    one = load_space("small_detector")
    both, apart = at_resolutions(one, (256, 320)), [at_resolutions(one, (size,)) for size in (256, 320)]
    costs, each = tabulate_costs(both, cost), [tabulate_costs(space, cost) for space in apart]
    assert both.taps == one.taps
    assert costs.size == both.size == sum(costs.size for costs in each) == 2 * one.size
    assert set(reachable(both)) == {layer for space in apart for layer in reachable(space)}
    assert costs.min_cost == min(costs.min_cost for costs in each)
    assert costs.max_cost == max(costs.max_cost for costs in each)
    for largest in (False, True):
        assert best_path(both, cost, largest=largest)[1].resolution == (320 if largest else 256)


def test_the_pelee_space_has_few_rows_small_networks_and_the_backbone_of_peleenet() -> None:
    space, macs = load_space("pelee"), lambda layer: float(layer.macs)
    assert space.taps == (6, 8, 10, 12)
    assert len(reachable(space)) == 215
    costs = tabulate_costs(space, macs)
    assert (costs.min_cost, costs.max_cost) == pytest.approx((114e6, 1246e6), rel=0.01)
    assert float(count_within(costs, 300e6).likely / costs.size) == pytest.approx(0.07, abs=0.01)
    smallest = best_path(space, macs)[1]
    assert [shape[1] for shape in input_shapes(trace(smallest)[-1])] == [20, 10, 5, 3]
    dense = {each.name: each for each in space.stages}
    shipped = [stage for stage in load_architecture("peleenet").stages if stage[0].op == "two_way_dense"]
    for name, stage in zip(("stage1", "stage3", "stage5", "stage7"), shipped, strict=True):
        assert len(stage) in dense[name].depth
        offered = next(dict(each.args) for each in dense[name].operators if each.block == "two_way_dense")
        assert stage[-1].kwargs.get("growth_rate", 32) in offered["growth_rate"]
        assert (stage[-1].kwargs.get("bottleneck_width", 4),) == offered["bottleneck_width"]


def test_the_prototypes_space_has_as_many_networks() -> None:
    """A space as in detection_automaton_prototype.py: 2 resolutions, 3 taps, a lateral convolution, 2 depths."""
    tapped = {"block": "conv", "kernel_size": 3, "stride": 2, "tap": True, "out_channels": [4, 8]}
    data = {
        "resolution": [64, 96],
        "stages": [{"block": "conv", "out_channels": 4, "stride": 2}, tapped, tapped, tapped],
        "neck": [
            {"block": "conv", "kernel_size": 1, "out_channels": [8, 16]},
            {"block": "bifpn", "depth": [1, 2], "levels": 3},
        ],
        "head": {"block": "efficientdet_head", "num_classes": 3, "num_layers": [1, 2]},
    }
    space = parse_space("tiny", data, "tiny.yaml")
    combinations = len(list(itertools.product([64, 96], [4, 8], [4, 8], [4, 8], [8, 16], [1, 2], [1, 2])))
    assert tabulate_costs(space, cost).size == space.size == combinations == 128
