"""The compiled space against the walk over networks: same networks, same latencies, codes that go both ways."""

from __future__ import annotations

import random
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architecture import Architecture
from nas.errors import SpaceError
from nas.networks.network import Layer, canonical, trace
from nas.spaces.automaton import best_path
from nas.spaces.cost_tables import SpaceCosts, tabulate_costs
from nas.spaces.search_space import enumerate_choices
from nas.spaces.yaml_format import load_space, parse_space
from tests.helpers.space_rows import active, code_of, encode

HEAD = {"block": "classifier", "num_classes": 10}
MBCONV = {"block": "mbconv", "kernel_size": [3, 5, 7], "expand_ratio": [3, 4, 6]}
SPACES: dict[str, dict[str, Any]] = {
    "shared": {
        "resolution": [16, 24],
        "stages": [
            {"block": "conv", "out_channels": 8, "stride": 2},
            {"block": ["separable", {"op": "mbconv", "expand_ratio": [1, 3]}], "depth": [0, 1, 2],
             "out_channels": [8, 16], "skip": ["none", "identity"]},
        ],
        "head": {**HEAD, "hidden_channels": [0, 16]},
    },
    "per_layer": {
        "resolution": 32,
        "stages": [
            {"block": "conv", "out_channels": [8, 12], "stride": 2},
            {"block": ["separable", {"op": "mbconv", "expand_ratio": [2, 3]}], "depth": [1, 3],
             "out_channels": [8, 12], "skip": ["none", "identity"], "kernel_size": [3, 5],
             "per_layer": ["block", "kernel_size"]},
        ],
        "head": HEAD,
    },
    "widths_per_layer": {
        "resolution": 32,
        "stages": [{"block": "conv", "depth": [0, 2], "out_channels": [4, 8], "skip": ["none", "identity", "pool"],
                    "per_layer": "out_channels"}],
        "head": HEAD,
    },
    "alternate": {
        "resolution": 16,
        "stages": [{"block": "squeezenext", "depth": [1, 2, 3], "out_channels": [16, 32], "bias": [False, True],
                    "alternate": {"order": ["vertical", "horizontal"]}}],
        "head": HEAD,
    },
    "dense": {
        "resolution": 16,
        "stages": [{"block": [{"op": "dense", "growth_rate": [8, 16]}, {"op": "conv", "out_channels": 16}],
                    "depth": [1, 2]}, {"block": "conv", "out_channels": [8, 16], "kernel_size": [1, 3]}],
        "head": HEAD,
    },
}  # fmt: skip
DEEP: dict[str, dict[str, Any]] = {
    "ofa": {
        "resolution": [128, 160],
        "stages": [{"block": "conv", "out_channels": 16, "stride": 2}]
        + [{**MBCONV, "depth": [2, 3, 4], "out_channels": width, "stride": 2,
            "per_layer": ["kernel_size", "expand_ratio"]} for width in (24, 40, 80, 112, 160)],
        "head": HEAD,
    },
    "proxyless": {
        "resolution": 64,
        "stages": [{"block": "conv", "out_channels": 16, "stride": 2}]
        + [{**MBCONV, "depth": [depth - 2, depth], "out_channels": width, "stride": 2, "skip": ["identity", "pool"],
            "per_layer": ["kernel_size", "expand_ratio"]} for depth, width in ((4, 24), (20, 40))],
        "head": HEAD,
    },
}  # fmt: skip
SHIPPED = ("mnasnet", "mobile", pytest.param("zoo", marks=pytest.mark.slow))
CONSTANT = 0.25


def cost(layer: Layer) -> float:
    """A cost in ms that follows nothing, and is below zero for a few layers."""
    return zlib.crc32(f"{layer.spec} {layer.in_shape}".encode()) / 2**32 - 0.05


def latency(arch: Architecture) -> float:
    return CONSTANT + sum(cost(layer) for layer in trace(arch))


@cache
def compiled_space(name: str) -> SpaceCosts:
    data = {**SPACES, **DEEP}.get(name)
    space = load_space(name) if data is None else parse_space(name, data, f"{name}.yaml")
    return tabulate_costs(space, cost, CONSTANT)


@cache
def networks(name: str) -> dict[Architecture, float]:
    """Return every distinct network of a small space, with its latency in ms."""
    space = compiled_space(name).space
    found = {canonical(arch) for arch in enumerate_choices(lambda choose: space.walk(choose)[0])}
    return {arch: latency(arch) for arch in found}


def every_code(compiled: SpaceCosts) -> np.ndarray[Any, Any]:
    """Return all codes of a small space, (tables, N)."""
    paths: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for table in compiled.tables:
        paths = [
            ((*code, row), int(table.after[row]))
            for code, state in paths
            for row in range(table.first[state], table.first[state + 1])
        ]
    return np.array([code for code, _ in paths], compiled.dtype).T


@pytest.mark.parametrize("name", SPACES)
def test_the_codes_are_the_distinct_networks(name: str) -> None:
    compiled = compiled_space(name)
    codes = every_code(compiled)
    found = [compiled.architecture(code) for code in codes.T]
    assert len(found) == len(set(found)) == compiled.size
    assert set(found) == set(networks(name))
    assert compiled.costs(codes) == pytest.approx([networks(name)[arch] for arch in found], rel=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_every_way_to_choose_has_the_code_of_its_network(name: str) -> None:
    compiled = compiled_space(name)
    walks = list(enumerate_choices(compiled.space.walk))
    codes = compiled.encode_many([encode(compiled.space, chosen) for _, chosen in walks])
    for (arch, _), code in zip(walks, codes.T, strict=True):
        assert code.tolist() == code_of(compiled, arch).tolist()
        assert compiled.architecture(code) == canonical(arch)


@pytest.mark.parametrize("name", [*SPACES, *DEEP, *SHIPPED])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_choices_go_to_a_code_and_back(name: str, seed: int) -> None:
    compiled = compiled_space(name)
    space = compiled.space
    choices = space.sample(random.Random(seed))
    code = code_of(compiled, space.decode(choices))
    arch = canonical(space.decode(choices))
    again = compiled.decode(code)
    assert active(space, again) == again
    assert canonical(space.decode(again)) == compiled.architecture(code) == arch
    assert code_of(compiled, space.decode(again)).tolist() == code.tolist()
    assert compiled.encode_many([encode(space, choices)])[:, 0].tolist() == code.tolist()
    assert compiled.costs(code[:, None])[0] == pytest.approx(latency(arch), rel=1e-12)


@pytest.mark.parametrize("name", [*SPACES, *DEEP, *SHIPPED])
def test_the_extremes_are_those_of_the_best_paths(name: str) -> None:
    compiled = compiled_space(name)
    assert compiled.min_cost == pytest.approx(best_path(compiled.space, cost)[0] + CONSTANT)
    assert compiled.max_cost == pytest.approx(best_path(compiled.space, cost, largest=True)[0] + CONSTANT)
    assert latency(compiled.architecture(compiled.cheapest)) == pytest.approx(compiled.min_cost)
    assert latency(compiled.architecture(compiled.costliest)) == pytest.approx(compiled.max_cost)


def test_sizes_that_can_be_reckoned() -> None:
    stage = 9**2 + 9**3 + 9**4
    assert compiled_space("ofa").size == compiled_space("ofa").space.size == 2 * stage**5
    # The skip changes nothing in a first layer, which widens, and something in any later one.
    assert compiled_space("proxyless").size == 2 * (9**2 + 9**4) * 2 * (9**18 + 9**20)
    assert compiled_space("mobile").size == compiled_space("mobile").space.size
    assert compiled_space("mnasnet").size < compiled_space("mnasnet").space.size


def test_mnasnet_is_seven_small_tables() -> None:
    tables = compiled_space("mnasnet").tables
    assert len(tables) == 7
    assert max(table.rows for table in tables) < 2000
    assert compiled_space("mnasnet").dtype is np.uint16


def test_more_networks_than_a_chunk_are_predicted_like_few() -> None:
    compiled = compiled_space("shared")
    codes = every_code(compiled)
    many = np.tile(codes, 40_000 // codes.shape[1])
    assert np.array_equal(compiled.costs(many), np.tile(compiled.costs(codes), 40_000 // codes.shape[1]))
    assert compiled.costs(codes[:, :0]).shape == (0,)


def test_a_single_network_is_a_space_of_one() -> None:
    compiled = tabulate_costs(load_space("mobilenet_v2_1.0"), cost)
    assert compiled.size == 1
    assert compiled.min_cost == compiled.max_cost
    assert compiled.decode(compiled.cheapest) == {}
    assert compiled.encode_many(np.empty((3, 0))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("code", "message"),
    [([0], "a code must have"), ([-1] * 9, "a code must have"), (None, "must be from 0 to")],
)
def test_a_code_that_is_no_path_is_refused(code: list[int] | None, message: str) -> None:
    compiled = compiled_space("mobile")
    with pytest.raises(SpaceError, match=message):
        compiled.decode([compiled.tables[0].rows] + [0] * (len(compiled.tables) - 1) if code is None else code)


def test_an_architecture_of_another_space_is_refused() -> None:
    compiled = compiled_space("shared")
    arch = compiled.architecture(compiled.cheapest)
    with pytest.raises(SpaceError, match="offers no resolution of 48 px"):
        compiled.automaton.path(arch.at(48))
    with pytest.raises(SpaceError, match="has 2 stages, this network 3"):
        compiled.automaton.path(Architecture(arch.resolution, (*arch.stages, ()), arch.head))
    with pytest.raises(SpaceError, match="stage 0: has no place for conv"):
        compiled.automaton.path(Architecture(arch.resolution, (arch.stages[0] * 2, *arch.stages[1:]), arch.head))
    with pytest.raises(SpaceError, match="stage 0: cannot have None there"):
        compiled.automaton.path(Architecture(arch.resolution, ((), *arch.stages[1:]), arch.head))


def test_wrong_encodings_are_refused() -> None:
    compiled = compiled_space("shared")
    right = encode(compiled.space, compiled.decode(compiled.cheapest))
    with pytest.raises(SpaceError, match="encodings must be"):
        compiled.encode_many([right[1:]])
    with pytest.raises(SpaceError, match="index that is out of range"):
        compiled.encode_many([(99, *right[1:])])
    with pytest.raises(SpaceError, match="the choice 'resolution' is missing"):
        compiled.encode_many([(-1, *right[1:])])


def test_a_cost_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        tabulate_costs(compiled_space("shared").space, lambda _: float("nan"))
