from __future__ import annotations

import random
from typing import Any

import pytest

from nas.networks.network import Layer, canonical, trace
from nas.spaces.automaton import best_path, reachable
from nas.spaces.search_space import Space, enumerate_choices
from nas.spaces.yaml_format import load_space, parse_space

DATA: dict[str, Any] = {
    "resolution": [16, 32],
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": ["separable", {"op": "mbconv", "expand_ratio": [1, 3]}], "depth": [0, 1], "out_channels": [8, 16],
         "skip": ["none", "identity"]},
        {"block": {"op": "mbconv", "kernel_size": [3, 5]}, "depth": [1, 2], "out_channels": 12, "stride": 2,
         "per_layer": True},
    ],
    "head": {"block": "classifier", "num_classes": 10, "hidden_channels": [0, 16]},
}  # fmt: skip


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space("tiny", DATA, "tiny.yaml")


def odd_cost(layer: Layer) -> float:
    """A cost without ties that follows no other count."""
    return (hash((str(layer.spec), layer.in_shape)) % 9973) / 9973 + layer.macs / 1e6


def test_reachable_is_what_all_architectures_have(space: Space) -> None:
    found = {(layer.spec, layer.in_shape) for layer in reachable(space)}
    brute = {
        (layer.spec, layer.in_shape)
        for arch in enumerate_choices(lambda choose: space.walk(choose)[0])
        for layer in trace(arch)
    }
    assert found == brute


@pytest.mark.parametrize("largest", [False, True])
def test_the_best_path_is_the_extreme_of_all_architectures(space: Space, largest: bool) -> None:
    cost, arch = best_path(space, odd_cost, largest=largest)
    sums = [sum(map(odd_cost, trace(canonical(a)))) for a in enumerate_choices(lambda choose: space.walk(choose)[0])]
    assert cost == pytest.approx(max(sums) if largest else min(sums))
    assert cost == pytest.approx(sum(map(odd_cost, trace(arch))))


def test_a_space_of_many_networks_reaches_few_layers() -> None:
    space = load_space("mobile")
    found = {(layer.spec, layer.in_shape) for layer in reachable(space)}
    rng = random.Random(0)
    for _ in range(50):
        assert {(layer.spec, layer.in_shape) for layer in trace(space.decode(space.sample(rng)))} <= found
    assert len(found) < 1000 < space.size
