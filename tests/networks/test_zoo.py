"""The space of every family: its random networks build, train, deploy and export; nothing it offers is broken."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from nas.networks.block_schema import takes_maps
from nas.networks.blocks import BLOCKS
from nas.spaces.yaml_format import load_space

BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "zoo_check.py"))
ELSEWHERE = {
    "pool", "plain_conv", "transition", "pelee_stem", "condensed", "residual_prediction", "multi_query_attention",
}  # fmt: skip
"""Stems, what stands between dense stages or before heads or keeps a map's size, and what a `condense` becomes."""


LATER = {"uib", "residual", "linear_attention"}
"""Blocks that came after `zoo`, whose runs and tables stay valid; `universal` has them."""


def test_each_stage_offers_every_family() -> None:
    families = {op for op in BLOCKS if not takes_maps(op)} - ELSEWHERE - LATER
    stages = load_space("zoo").stages[1:]
    assert len(stages) == 4
    for stage in stages:
        assert {operator.block for operator in stage.operators} == families
    universal = load_space("universal").stages
    assert {operator.block for stage in universal for operator in stage.operators} >= LATER


@pytest.mark.parametrize("index", range(6))
def test_a_random_network_trains_deploys_and_exports(index: int) -> None:
    arch = BENCHMARK["sampled"]("zoo", networks=index + 1, resolution=64, seed=1)[index]
    result = BENCHMARK["check"](arch, seed=index)
    assert result.is_equal, result
