"""Counts, quantiles and samples by dynamic programming against the enumeration of small spaces."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nas.errors import UsageError
from nas.networks.network import Layer, trace
from nas.spaces.cost_tables import SpaceCosts, tabulate_costs
from nas.spaces.latency_distribution import Count, count_within, latency_distribution, sample_within
from nas.spaces.search_space import enumerate_choices
from nas.spaces.yaml_format import load_space, parse_space
from tests.helpers.space_rows import code_of

STAGE = {"block": ["separable", {"op": "mbconv", "expand_ratio": [2, 3]}], "out_channels": [8, 12],
         "kernel_size": [3, 5]}  # fmt: skip
SPACES: dict[str, dict[str, Any]] = {
    "shared": {
        "resolution": [16, 32],
        "stages": [{"block": "conv", "out_channels": 8, "stride": 2}, {**STAGE, "depth": [0, 1, 2]}],
        "head": {"block": "classifier", "num_classes": 10, "hidden_channels": [0, 16]},
    },
    "per_layer": {
        "resolution": 16,
        "stages": [{**STAGE, "depth": [1, 2], "per_layer": True}, {"block": "conv", "out_channels": [8, 16]}],
        "head": {"block": "classifier", "num_classes": 10},
    },
}


def positive(layer: Layer) -> float:
    return 0.01 + zlib.crc32(f"{layer.spec} {layer.in_shape}".encode()) / 2**32


def mixed(layer: Layer) -> float:
    """Also below zero, as a calibrated cost may be."""
    return positive(layer) - 0.4


def even(layer: Layer) -> float:
    """So coarse that many networks take exactly as long as others."""
    return float(round(3 * positive(layer)))


COSTS = {"positive": positive, "mixed": mixed, "even": even}
CASES = [(name, cost) for name in SPACES for cost in COSTS]


@cache
def small(name: str, cost: str) -> tuple[SpaceCosts, dict[tuple[int, ...], float]]:
    """Return a small space and the latency in ms of each of its codes."""
    compiled = tabulate_costs(parse_space(name, SPACES[name], f"{name}.yaml"), COSTS[cost], constant=0.5)
    archs = enumerate_choices(lambda choose: compiled.space.walk(choose)[0])
    codes = {tuple(code_of(compiled, arch).tolist()): arch for arch in archs}
    return compiled, {code: 0.5 + sum(map(COSTS[cost], trace(arch))) for code, arch in codes.items()}


@pytest.mark.parametrize(("name", "cost"), CASES)
@given(share=st.floats(0, 1))
@settings(max_examples=30)
def test_the_bounds_hold_the_number_within(name: str, cost: str, share: float) -> None:
    compiled, latencies = small(name, cost)
    limit = float(np.quantile(list(latencies.values()), share)) + 1e-9
    exact = sum(latency <= limit for latency in latencies.values())
    low, likely, high = count_within(compiled, limit)
    assert low <= exact <= high
    assert low <= likely <= high
    if cost != "even":
        assert high - low <= 0.02 * len(latencies) + 1


@pytest.mark.parametrize(("name", "cost"), CASES)
def test_nothing_is_below_the_fastest_and_all_are_within_the_slowest(name: str, cost: str) -> None:
    compiled, latencies = small(name, cost)
    assert count_within(compiled, compiled.min_cost - 1e-6) == Count(0, 0, 0)
    assert count_within(compiled, compiled.min_cost).low >= 1
    assert count_within(compiled, compiled.max_cost) == Count(*[len(latencies)] * 3)
    assert compiled.size == len(latencies)


@pytest.mark.parametrize(("name", "cost"), CASES)
def test_the_distribution_is_that_of_the_enumeration(name: str, cost: str) -> None:
    compiled, latencies = small(name, cost)
    distribution = latency_distribution(compiled)
    ordered = np.sort(list(latencies.values()))
    assert distribution.within[-1] == distribution.total == len(ordered)
    assert distribution.edges_ms[0] == pytest.approx(ordered[0])
    assert distribution.edges_ms[-1] == pytest.approx(ordered[-1])
    for share in np.linspace(0.0, 1.0, 21):
        slack = distribution.error_ms + 1e-9
        around = ordered[[int(share * (len(ordered) - 1)), min(int(share * len(ordered)), len(ordered) - 1)]]
        assert around[0] - slack <= distribution.quantile(float(share)) <= around[1] + slack
    edges = np.linspace(ordered[0], ordered[-1], 8)
    assert distribution.histogram(edges).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "cost"), CASES)
@pytest.mark.parametrize("bins", [16, 8192])
def test_samples_are_uniform_over_the_distinct_networks_within(name: str, cost: str, bins: int) -> None:
    compiled, latencies = small(name, cost)
    limit = float(np.quantile(list(latencies.values()), 0.3)) + 1e-9
    feasible = {code for code, latency in latencies.items() if latency <= limit}
    codes = sample_within(compiled, limit, 200 * len(feasible), np.random.default_rng(1), bins=bins)
    found, counts = np.unique(codes, axis=1, return_counts=True)
    assert {tuple(code) for code in found.T.tolist()} == feasible
    assert chisquare(counts).pvalue > 0.001


def test_samples_of_a_window_are_uniform_over_it() -> None:
    compiled, latencies = small("shared", "mixed")
    low, high = np.quantile(list(latencies.values()), (0.4, 0.7))
    feasible = {code for code, latency in latencies.items() if low <= latency <= high}
    rng = np.random.default_rng(2)
    codes = sample_within(compiled, high, 200 * len(feasible), rng, at_least_ms=low)
    found, counts = np.unique(codes, axis=1, return_counts=True)
    assert {tuple(code) for code in found.T.tolist()} == feasible
    assert chisquare(counts).pvalue > 0.001


def test_samples_of_a_large_space_keep_the_limit_and_differ() -> None:
    compiled = tabulate_costs(load_space("mobile"), positive)
    limit = latency_distribution(compiled).quantile(0.01)
    codes = sample_within(compiled, limit, 2000, np.random.default_rng(0))
    assert codes.shape == (len(compiled.tables), 2000)
    assert compiled.costs(codes).max() <= limit
    assert len(np.unique(codes, axis=1).T) > 1900
    for code in codes.T[:20]:
        assert sum(map(positive, trace(compiled.architecture(code)))) <= limit + 1e-9
    again = sample_within(compiled, limit, 2000, np.random.default_rng(0))
    assert np.array_equal(codes, again)


def test_the_fastest_network_alone_can_be_sampled_and_none_at_all() -> None:
    compiled, _ = small("per_layer", "positive")
    rng = np.random.default_rng(0)
    codes = sample_within(compiled, compiled.min_cost, 5, rng)
    assert codes.T.tolist() == [compiled.cheapest.tolist()] * 5
    assert sample_within(compiled, compiled.max_cost, 0, rng).shape == (len(compiled.tables), 0)


def test_a_space_whose_networks_all_take_as_long() -> None:
    compiled = tabulate_costs(parse_space("flat", SPACES["shared"], "flat.yaml"), lambda _: 0.0, constant=2.0)
    distribution = latency_distribution(compiled)
    assert compiled.min_cost == compiled.max_cost == distribution.quantile(0.5) == 2.0
    assert distribution.share_within(2.0) == 1.0
    assert sample_within(compiled, 2.0, 100, np.random.default_rng(0)).shape[1] == 100


@pytest.mark.parametrize(
    ("limit", "least", "message"),
    [
        (0.01, None, "0.01 ms is out of reach"),
        (0.01, None, "networks of 'shared' take"),
        (1e9, 1e6, "are out of reach"),
        (2.0, 3.0, "3 ms to 2 ms are out of reach"),
    ],
)
def test_limits_that_nothing_keeps_are_refused(limit: float, least: float | None, message: str) -> None:
    compiled, _ = small("shared", "positive")
    with pytest.raises(UsageError, match=message):
        sample_within(compiled, limit, 5, np.random.default_rng(0), at_least_ms=least)


@pytest.mark.parametrize("bins", [16, 1 << 20])
def test_a_window_between_two_networks_is_given_up(bins: int) -> None:
    compiled, latencies = small("shared", "positive")
    ordered = np.unique(np.round(list(latencies.values()), 9))
    at = int(np.argmax(np.diff(ordered)))
    low, high = ordered[at] + 0.4 * np.diff(ordered)[at], ordered[at] + 0.6 * np.diff(ordered)[at]
    with pytest.raises(UsageError, match="are out of reach"):
        sample_within(compiled, high, 5, np.random.default_rng(0), at_least_ms=low, bins=bins)
