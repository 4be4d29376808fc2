"""Digests of spaces, networks and starts are those from before any class was renamed."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.networks.network import canonical
from nas.scaling.grid import make_grid
from nas.scaling.sizes import Rounding
from nas.searching.prior_runs import PriorNetwork, PriorSource, prior_identity
from nas.spaces.search_space import Operator, Space, StageSpec
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space, space_names

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "identities.json").read_text())


def test_every_shipped_file_that_is_in_the_golden_list_still_ships() -> None:
    assert set(GOLDEN["spaces"]) <= set(space_names())


@pytest.mark.parametrize("name", sorted(GOLDEN["spaces"]))
def test_keys_and_digests_of_a_shipped_space(name: str) -> None:
    space = load_space(name)
    ten = space.for_classes(10)
    arch = canonical(space.decode(space.sample(random.Random(0))))
    found = {
        "key": space.key, "digest": space.digest, "key_10": ten.key, "digest_10": ten.digest, "sample": arch.digest,
    }  # fmt: skip
    assert found == GOLDEN["spaces"][name]


def test_keys_of_grids_and_a_start() -> None:
    base = load_space("mobilenet_v3_small_1.0").decode({})
    grid = make_grid(base, 0.1, 2.0, True, Rounding(), Proxy())
    small = replace(grid, values=((1.0, 1.2), (1.0,), (1.0, 1.1)))
    assert {"make": grid.key, "small": small.key} == GOLDEN["grids"]
    run = PriorSource("run", (PriorNetwork({"a": 1}, base, 0.5), PriorNetwork({}, base, None)), True)
    assert prior_identity([run, PriorSource("x", (PriorNetwork({}, base),), False)]) == GOLDEN["start"]


def test_no_digest_depends_on_the_name_of_a_class() -> None:
    class Renamed(StageSpec):
        """A subclass has another name in its `repr`."""

    class Other(Operator):
        """Likewise."""

    space = load_space("mnasnet")

    def renamed(stage: StageSpec) -> Renamed:
        operators = tuple(Other(**vars(operator)) for operator in stage.operators)
        return Renamed(**{**vars(stage), "operators": operators})

    other = Space(**{**vars_of(space), "stages": tuple(map(renamed, space.stages)), "head": renamed(space.head)})
    assert repr(other.stages) != repr(space.stages)
    assert (other.key, other.digest) == (space.key, space.digest)


def vars_of(space: Space) -> dict[str, Any]:
    return {name: getattr(space, name) for name in Space.__dataclass_fields__}
