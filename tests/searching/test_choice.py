"""The choice of a reference: the best published network within the target, with few measurements, each made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.errors import DeviceError, TableError
from nas.latency.network_latencies import NetworkLatencies
from nas.networks.network import totals, trace
from nas.searching.against.choice import Published, best_within, fit_latency, published_networks
from nas.searching.against.comparison import references_of
from nas.searching.against.references import Reference, References
from nas.spaces.yaml_format import load_space
from nas.study.objectives import make_objective
from nas.utils.reporting import Reporter

NAMES = [
    "condensenet50_cifar10_test", "efficientnet_b0", "mnasnet", "mnasnet_a1_1.0", "mnasnet_a1_1.0_r192",
    "mobilenet_v1_0.25", "mobilenet_v1_0.5", "mobilenet_v1_1.0", "mobilenet_v2_0.35", "mobilenet_v2_1.0",
    "mobilenet_v3_large_1.0", "mobilenet_v3_small_1.0", "squeezenet_1.0", "vovnet27_slim",
]  # fmt: skip
HEADER = {
    "device": {"processor": "test"}, "runtime": "null", "runtime_version": "1", "threads": 1, "dtype": "float32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> list[Published]:
    monkeypatch.setattr("nas.searching.against.choice.space_names", lambda: NAMES)
    return published_networks(load_space("cifar").for_classes(10), 64)


class Device:
    """Measures a latency that depends on MACs and access, and counts."""

    def __init__(self, factors: dict[str, float] | None = None):
        self.factors, self.measured = factors or {}, list[str]()

    def ms(self, arch: Architecture) -> float:
        whole = totals(trace(arch))
        factor = self.factors.get(arch.digest, 1 + 0.1 * (int(arch.digest[0], 16) / 15 - 0.5))
        return factor * (whole.macs / 1e7 + whole.memory_access / 1e6)

    def measure(self, archs: Sequence[Architecture]) -> list[Latency]:
        self.measured += [arch.digest for arch in archs]
        return [Latency(self.ms(arch), 0.9, 1.1, 120, 0.0) for arch in archs]


def test_the_pool_has_what_was_published_on_imagenet_and_no_design_twice(pool: list[Published]) -> None:
    names = [each.reference.name for each in pool]
    assert names[0] == "efficientnet_b0"
    assert "condensenet50_cifar10_test" not in names  # its accuracy is that of CIFAR-10
    assert "vovnet27_slim" not in names  # no accuracy was published
    assert "mnasnet" not in names  # a space
    assert [name for name in names if name.startswith("mnasnet_a1")] == ["mnasnet_a1_1.0_r192"]  # closer to 64 px
    assert all(dict(each.architecture.head.args)["num_classes"] == 10 for each in pool)
    assert {each.architecture.resolution for each in pool} == {64}
    assert [each.accuracy for each in pool] == sorted((each.accuracy for each in pool), reverse=True)


def test_the_best_published_network_within_the_target_is_found_with_few_measurements(pool: list[Published]) -> None:
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        device, ordered = Device(), sorted(pool, key=lambda each: Device().ms(each.architecture))
        target_ms = device.ms(ordered[int(share * (len(ordered) - 1))].architecture) * 1.001
        expected = max(
            (each for each in pool if device.ms(each.architecture) <= target_ms), key=lambda each: each.accuracy
        )
        found = best_within(pool, target_ms, NetworkLatencies(Path(f"{share}.jsonl"), HEADER), device.measure)
        assert found is not None
        assert found.accuracy == expected.accuracy
        assert found.architecture.digest in device.measured
        assert len(device.measured) == len(set(device.measured)) <= 8


def test_no_network_holds_a_short_target(pool: list[Published]) -> None:
    device = Device()
    assert best_within(pool, 1e-3, NetworkLatencies(Path("a.jsonl"), HEADER), device.measure) is None
    assert len(device.measured) == 3
    assert best_within([], 1.0, NetworkLatencies(Path("b.jsonl"), HEADER), device.measure) is None


def test_of_equal_accuracies_the_faster_one_is_chosen(pool: list[Published]) -> None:
    slow, fast = (replace(each, reference=replace(each.reference, published=75.0)) for each in pool[-2:])
    for first, second in ((slow, fast), (fast, slow)):
        device = Device({first.architecture.digest: 2.0, second.architecture.digest: 0.01})
        latencies = NetworkLatencies(Path(f"{first.reference.name}.jsonl"), HEADER)
        assert best_within([slow, fast], 1e6, latencies, device.measure) is second


def test_a_fit_predicts_what_was_not_measured(pool: list[Published]) -> None:
    known = {each.architecture.digest: 3e-7 * each.costs[1] + 0.01 * each.costs[0] for each in pool[::2]}
    predict = fit_latency(pool, known)
    for each in pool:
        assert predict(each) == pytest.approx(3e-7 * each.costs[1] + 0.01 * each.costs[0], rel=1e-6)
    assert fit_latency(pool, {})(pool[0]) == 0.0


def test_latencies_are_kept_by_device_and_resolution(pool: list[Published], private_cache: Path) -> None:
    device, arch = Device(), pool[-1].architecture
    NetworkLatencies.open(HEADER).measure([arch, arch], device.measure)
    again = NetworkLatencies.open(HEADER)
    again.measure([arch], device.measure)
    assert again.ms == {arch.digest: pytest.approx(device.ms(arch))}
    assert device.measured == [arch.digest]
    again.measure([arch.at(96)], device.measure)
    assert len(device.measured) == 2
    assert NetworkLatencies.open({**HEADER, "threads": 2}).ms == {}
    assert NetworkLatencies.open({**HEADER, "device": {"processor": "test", "cores": 8}}).ms == {}
    (path,) = private_cache.rglob("*.jsonl")
    rows = path.read_text().splitlines()
    assert '"resolution": 96' in rows[-1]
    path.write_text("\n".join([*rows, '{"architecture": "cut o']))
    assert len(NetworkLatencies.open(HEADER).ms) == 2
    path.write_text("\n".join([*rows, "broken", ""]))
    with pytest.raises(TableError, match=r"line 4: not a measured network.*delete the file"):
        NetworkLatencies.open(HEADER)


def test_a_network_that_cannot_be_measured_is_left_out(pool: list[Published]) -> None:
    device, warnings = Device(), list[str]()

    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        if any(arch.digest == pool[0].architecture.digest for arch in archs):
            raise DeviceError("an operator is not supported")
        return device.measure(archs)

    found = best_within(pool, 1e6, NetworkLatencies(Path("a.jsonl"), HEADER), measure, warnings.append)
    assert found is not None
    assert found.accuracy == pool[1].accuracy
    assert warnings == [f"the published network {pool[0].reference.name} cannot be measured and is left out"]


def test_a_device_that_measures_nothing_ends_the_choice(pool: list[Published]) -> None:
    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        raise DeviceError("the device is gone")

    with pytest.raises(DeviceError, match="gone"):
        best_within(pool, 1e6, NetworkLatencies(Path("a.jsonl"), HEADER), measure)


def test_a_winner_of_another_resolution_gets_the_reference_of_its_own(
    pool: list[Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, chosen = list[int](), pool[0].reference

    def choose(context: Any, goal: Any, selected: Any, resolution: int) -> Reference:
        sizes.append(resolution)
        return pool[1].reference

    monkeypatch.setattr("nas.searching.against.comparison.choose", choose)
    references = References(("auto",), (), {"": chosen})
    space = replace(load_space("cifar"), resolution=(48, 64))
    context: Any = SimpleNamespace(references=references, space=space, reporter=Reporter(quiet=True))
    goal, arch, selected = make_objective("soft", 1.0).goals[0], pool[0].architecture, cast(Any, None)
    assert references_of(context, goal, arch, selected) == (chosen,)
    assert references_of(context, goal, arch.at(48), selected) == (pool[1].reference,)
    assert sizes == [48]
