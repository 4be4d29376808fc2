"""What is known of a network before it is evaluated: along every axis, on every device."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nas.errors import TableError
from nas.latency.rows import HELD_OUT, MeasuredNetwork, row_key
from nas.latency.table import FORMAT, IDENTITY, LatencyTable
from nas.networks.network import canonical, totals, trace
from nas.searching.cost_predictors import FEWEST_NETWORKS, fit_memory, make_cost_predictors
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space


@pytest.fixture
def space(tiny_space: Path) -> Space:
    return load_space(str(tiny_space)).for_classes(10)


def table_of(space: Space, path: Path, factor: float = 1.0) -> LatencyTable:
    """Return a table in which a layer takes `factor` ms for a million MACs and half as many mJ."""
    table = LatencyTable(path, {"format": FORMAT, **dict.fromkeys(IDENTITY, "x")})
    layers = reachable(space)
    costs = {row_key(layer): {"energy_mj": [layer.macs / 2e6]} for layer in layers}
    table.append([(layer, [(0.0, factor * layer.macs / 1e6 + 1e-9)]) for layer in layers], costs)
    return table


def with_peaks(space: Space, table: LatencyTable, count: int) -> LatencyTable:
    """Add whole networks whose memory is 1 MB, 4 bytes a parameter and 8 an element of the largest activations."""
    archs = {canonical(space.decode(space.sample(random.Random(seed)))) for seed in range(200)}
    networks = [MeasuredNetwork(space.key, HELD_OUT, arch) for arch in sorted(archs, key=lambda a: a.digest)[:count]]
    whole = {network: totals(trace(network.arch)) for network in networks}
    peaks = {network: 1e6 + 4 * w.params + 8 * w.peak_activation for network, w in whole.items()}
    table.append([(n, [(0.0, 1.0)]) for n in networks], {n: {"memory_bytes": [peak]} for n, peak in peaks.items()})
    return table


def test_memory_is_predicted_from_measured_networks(space: Space, tmp_path: Path) -> None:
    table = with_peaks(space, table_of(space, tmp_path / "t.jsonl"), 30)
    memory = fit_memory(LatencyTable.open(table.path))
    assert memory.error < 1e-6
    for seed in range(300, 310):
        whole = totals(trace(space.decode(space.sample(random.Random(seed)))))
        expected = 1e6 + 4 * whole.params + 8 * whole.peak_activation
        assert memory.predict(whole.params, whole.peak_activation) == pytest.approx(expected, rel=1e-3)


def test_too_few_measured_networks_are_counted(space: Space, tmp_path: Path) -> None:
    table = with_peaks(space, table_of(space, tmp_path / "t.jsonl"), FEWEST_NETWORKS - 1)
    with pytest.raises(TableError, match="--axes memory: 7 of its 7 whole networks have a peak memory, 8 are"):
        fit_memory(table)


def test_a_network_has_a_latency_on_every_device_and_no_axis_exceeds_the_worst(space: Space, tmp_path: Path) -> None:
    axes = ("accuracy", "latency", "params", "macs", "energy")
    predictors = [table_of(space, tmp_path / f"{factor}.jsonl", factor).predictor(space.key) for factor in (1.0, 3.0)]
    forecast = make_cost_predictors(predictors, space, axes)
    assert forecast.worst is not None
    assert forecast.worst["accuracy"] == (0.0,)
    for seed in range(60):
        arch = space.decode(space.sample(random.Random(seed)))
        whole, extra_metrics = totals(trace(arch)), forecast.extra_metrics(arch)
        fast, slow = extra_metrics["latencies_ms"]
        assert fast == forecast.predict(arch) == pytest.approx(whole.macs / 1e6, rel=1e-3)
        assert slow == pytest.approx(3 * fast, rel=1e-3)
        assert extra_metrics["energy_mj"] == pytest.approx(whole.macs / 2e6)
        assert "memory_bytes" not in extra_metrics
        assert slow <= forecast.worst["latency"][1] * (1 + 1e-9)
        for axis, value in (("params", whole.params), ("macs", whole.macs), ("energy", extra_metrics["energy_mj"])):
            assert value <= forecast.worst[axis][0] * (1 + 1e-9)
    alone = make_cost_predictors(predictors[:1], space, ())
    assert alone.extra_metrics(space.decode(space.sample(random.Random(0)))) == {}
    assert alone.worst is None
    assert callable(alone.layer_ms)


def test_an_energy_that_was_not_measured_is_named(space: Space, tmp_path: Path) -> None:
    table = table_of(space, tmp_path / "t.jsonl")
    table.costs.clear()
    with pytest.raises(TableError, match=r"--axes energy: it has no energy of 'conv' at \[3, 32, 32\]: profile"):
        make_cost_predictors([table.predictor(space.key)], space, ("accuracy", "energy"))
