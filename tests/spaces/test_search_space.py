from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import SpaceError
from nas.networks.network import build, canonical, trace
from nas.spaces.encoding import EncodedSpace, no_costs
from nas.spaces.search_space import Space, enumerate_choices
from nas.spaces.yaml_format import load_space, parse_space, space_names
from nas.utils.paths import shipped
from tests.helpers.space_rows import active

NAMES = space_names()
TINY = {
    "resolution": [32, 64],
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {
            "block": ["separable", {"op": "mbconv", "expand_ratio": [3, 6]}],
            "depth": [0, 1, 2],
            "out_channels": [8, 16],
            "kernel_size": [3, 5],
        },
        {
            "block": {"op": "mbconv", "kernel_size": [3, 5, 7]},
            "depth": [1, 2],
            "out_channels": 24,
            "stride": 2,
            "expand_ratio": [3, 6],
            "per_layer": ["kernel_size"],
        },
    ],
    "head": {"block": "classifier", "hidden_channels": [0, 32]},
}


@pytest.fixture(scope="module")
def tiny() -> Space:
    return parse_space("tiny", TINY, "tiny.yaml")


def test_spaces_ship() -> None:
    assert {"mnasnet", "mobile", "mobilenet_v2_1.0", "mnasnet_a1_1.0", "shufflenet_v2_1.0"} <= set(NAMES)
    assert len(list(shipped("search_spaces").rglob("*.yaml"))) == len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_space_loads_samples_and_traces(name: str) -> None:
    space = load_space(name)
    assert space.about
    rng = random.Random(0)
    for _ in range(3):
        choices = space.sample(rng)
        arch = space.decode(choices)
        assert trace(arch)
        assert canonical(canonical(arch)) == canonical(arch)
        rows = EncodedSpace(space.choices, no_costs, space.conditions)
        assert rows.decode(rows.encode(choices)) == choices
    with torch.device("meta"):
        network = build(arch)
    assert sum(p.numel() for p in network.parameters()) == sum(layer.params for layer in trace(arch))


def test_the_size_is_the_number_of_walks(tiny: Space) -> None:
    archs = list(enumerate_choices(lambda choose: tiny.walk(choose)[0]))
    assert len(archs) == tiny.size == 2 * (1 + 2 * (3 * 2 * 2)) * (2 * 3 + 2 * 9) * 2
    assert len(set(archs)) == len(archs)


def test_mnasnet_has_the_size_of_its_stages() -> None:
    space = load_space("mnasnet")
    assert space.size == 432**5 * (1 + 2 * 144) ** 2
    assert [slot.size for slot in space.stages] == [1, 289, 432, 432, 432, 432, 432, 289]


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_choices_survive_their_encoding(seed: int) -> None:
    space = parse_space("tiny", TINY, "tiny.yaml")
    choices = space.sample(random.Random(seed))
    rows = EncodedSpace(space.choices, no_costs, space.conditions)
    row = rows.encode(choices)
    assert len(row) == len(space.choices)
    assert rows.decode(row) == choices
    assert space.decode({**choices, "stage9.nothing": 1}) == space.decode(choices)
    for neighbour in map(rows.decode, rows.neighbours(row)):
        assert active(space, neighbour) == neighbour != choices


def test_inactive_choices_are_ignored(tiny: Space) -> None:
    base = {"resolution": 32, "stage1.depth": 0, "stage2.depth": 1, "stage2.expand_ratio": 3.0,
            "stage2.layer0.mbconv.kernel_size": 3, "head.hidden_channels": 0}  # fmt: skip
    assert tiny.decode(base) == tiny.decode({**base, "stage1.kernel_size": 5, "stage2.layer1.mbconv.kernel_size": 7})
    assert tiny.decode(base).stages[1] == ()


def test_layers_of_a_stage_share_what_is_not_per_layer(tiny: Space) -> None:
    kernels, ratios = set(), set()
    rng = random.Random(3)
    for _ in range(50):
        choices = tiny.sample(rng)
        layers = tiny.decode(choices).stages[2]
        kernels.add(tuple(layer.kwargs.get("kernel_size", 3) for layer in layers))
        ratios.add(len({layer.kwargs.get("expand_ratio", 6.0) for layer in layers}))
    assert any(len(set(pair)) == 2 for pair in kernels)
    assert ratios == {1}


def test_only_the_first_layer_has_the_stride(tiny: Space) -> None:
    choices = tiny.sample(random.Random(0)) | {"stage2.depth": 2}
    filled = tiny.walk(lambda key, values: choices.get(key, values[0]))[0]
    assert [layer.kwargs.get("stride", 1) for layer in filled.stages[2]] == [2, 1]


def test_a_missing_or_foreign_choice_is_named(tiny: Space) -> None:
    with pytest.raises(SpaceError, match="the choice 'resolution' is missing"):
        tiny.decode({})
    with pytest.raises(SpaceError, match="resolution: must be one of 32, 64: 48"):
        tiny.decode({"resolution": 48})


def test_the_head_follows_the_data(tiny: Space) -> None:
    arch = tiny.for_classes(7).decode(tiny.sample(random.Random(0)))
    assert trace(arch)[-1].out_shape == (7,)


def test_the_key_of_a_space_is_the_same_in_every_process() -> None:
    code = (
        "from nas.spaces.yaml_format import load_space as l; print([(l(n).key, l(n).digest) for n in ('ofa', 'fbnet')])"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(keys) == 1
    assert "ofa@" in keys.pop()
