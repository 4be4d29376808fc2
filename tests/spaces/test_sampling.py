from __future__ import annotations

import hashlib
import random

import pytest

from nas.architecture import Architecture
from nas.networks.network import canonical
from nas.spaces.sampling import distinct_networks, sample_networks
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space, parse_space

DATA = {
    "resolution": 32,
    "stages": [{"block": "conv", "out_channels": [8, 16, 24], "stride": 2}],
    "head": {"block": "classifier", "num_classes": 10},
}
SMALL: Space = parse_space("t", DATA, "t")


@pytest.mark.parametrize(("name", "expected"), [("mnasnet", "136644f1d4704e32"), ("mobile", "3b5b83f5e7b74302")])
def test_the_networks_that_tables_are_certified_by_stay_what_they_are(name: str, expected: str) -> None:
    archs = sample_networks(load_space(name), 70, f"{name} networks")
    assert hashlib.sha256(" ".join(arch.digest for arch in archs).encode()).hexdigest()[:16] == expected


def test_networks_differ_and_are_fewer_where_a_space_is_small() -> None:
    assert len({arch.digest for arch in sample_networks(SMALL, 10, 0)}) == 3
    zoo = load_space("zoo")
    assert sample_networks(zoo, 5, 0) == sample_networks(zoo, 5, 0) != sample_networks(zoo, 5, 1)
    assert sample_networks(SMALL, 0, 0) == []


def test_only_what_is_admitted_is_drawn_and_comes_with_its_choices() -> None:
    def is_small(arch: Architecture) -> bool:
        return arch.stages[0][0].kwargs["out_channels"] != 24

    found = distinct_networks(SMALL, 3, random.Random(0), attempts=20, admits=is_small)
    assert len(found) == 2
    for arch, choices in found:
        assert canonical(SMALL.decode(choices)) == arch
        assert is_small(arch)
