"""Pilots: the cheapest budget that suffices, what is recorded, failures, and networks of a target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.rank_check.reference_trainings import ReferenceTrainings
from nas.networks.network import totals, trace
from nas.searching.budget.pilot import LevelSetup, Pilot, describe_level, pilot_networks, run_pilot
from nas.searching.budget.plan import Plan
from nas.searching.budget.training_cost import TrainingCost
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_space
from nas.utils.reporting import Reporter

SPACE = load_space("cifar").for_classes(10)
COST = TrainingCost(1e-4, 0.0, images=1600, validation=400, batch_size=32)
LEVELS = tuple(Proxy(32, epochs, 1600) for epochs in (1, 2, 4, 8))
PLAN = Plan(3600.0, 0.0, LEVELS, 6, 0, COST)
NETWORKS = pilot_networks(SPACE, lambda _: True, 0, 6)


class Simulated:
    """Accuracies around chance + a share of the truth; noise falls with the number of epochs."""

    def __init__(self, proxy: Proxy, noise: float, learned: float = 1.0, fails: str = ""):
        self.proxy, self.noise, self.learned, self.fails, self.calls = proxy, noise, learned, fails, 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"evaluator": "simulated", "epochs": self.proxy.epochs}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        self.calls += 1
        if arch.digest == self.fails:
            raise RuntimeError("it cannot be built")
        truth = 0.2 + 0.5 * self.learned * int(arch.digest[:4], 16) / 65536
        rng = np.random.default_rng(int(arch.digest[:8], 16) + seed + 1000 * self.proxy.epochs)
        yield float(np.clip(truth + self.noise / self.proxy.epochs * rng.normal(), 0, 1))


class Bench:
    """Makes levels whose trainings are stored in a folder."""

    def __init__(self, folder: Path, noise: float, learned: float = 1.0, fails: str = ""):
        self.folder, self.noise, self.learned, self.fails = folder, noise, learned, fails
        self.made: list[Simulated] = []

    def __call__(self, proxy: Proxy) -> LevelSetup:
        evaluator = Simulated(proxy, self.noise, self.learned, self.fails)
        self.made.append(evaluator)
        trainings = ReferenceTrainings.open(self.folder / f"{proxy.epochs}.jsonl", evaluator.settings)
        return LevelSetup(evaluator, lambda: InProcessExecutor(evaluator), trainings)


def pilot(bench: Bench, wanted: float = 0.7, seed: int = 0) -> Pilot:
    return run_pilot(PLAN, NETWORKS, bench, seed, wanted, 0.1, Reporter(quiet=True))


def test_easy_data_need_only_the_cheapest_budget(tmp_path: Path) -> None:
    found = pilot(Bench(tmp_path, noise=0.01))
    assert found.proxy == LEVELS[0]
    assert found.certificate["suffices"]
    assert found.certificate["reliability"] > 0.9
    assert len(found.certificate["levels"]) == 1
    assert len(found.recorded) == 12


def test_noisy_data_get_more_images_until_the_reliability_suffices(tmp_path: Path) -> None:
    found = pilot(Bench(tmp_path, noise=0.4))
    tried = found.certificate["levels"]
    assert found.proxy == LEVELS[len(tried) - 1]
    assert 1 < len(tried) <= 4
    assert all(
        level["reliability"] < 0.7 or level["low"] < 0.3 or level["lowest"] <= 0.1 + 2 * level["noise"]
        for level in tried[:-1]
    )
    assert found.certificate["low"] <= found.certificate["reliability"] <= found.certificate["high"]
    assert -1 <= tried[0]["agreement_with_longest"] <= 1
    assert tried[-1]["agreement_with_longest"] is None


def test_if_nothing_suffices_the_longest_is_used_and_the_certificate_says_so(tmp_path: Path) -> None:
    found = pilot(Bench(tmp_path, noise=0.3, learned=0.0))
    assert found.proxy == LEVELS[-1]
    assert not found.certificate["suffices"]
    near_chance = run_pilot(PLAN, NETWORKS, Bench(tmp_path / "b", noise=0.01), 0, 0.7, 0.6, Reporter(quiet=True))
    assert near_chance.proxy == LEVELS[-1], "reliable, but no network is better than chance"
    assert not near_chance.certificate["suffices"]


def test_if_every_network_is_right_no_longer_budget_is_tried(tmp_path: Path) -> None:
    class Perfect(Simulated):
        def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
            yield 1.0

    def level(proxy: Proxy) -> LevelSetup:
        evaluator = Perfect(proxy, 0.0)
        trainings = ReferenceTrainings.open(tmp_path / f"{proxy.epochs}.jsonl", evaluator.settings)
        return LevelSetup(evaluator, lambda: InProcessExecutor(evaluator), trainings)

    found = run_pilot(PLAN, NETWORKS, level, 0, 0.7, 0.1, Reporter(quiet=True))
    assert found.proxy == LEVELS[0]
    assert found.certificate["saturated"]
    assert not found.certificate["suffices"]
    assert found.certificate["reliability"] == 0.0


def test_a_pilot_that_takes_longer_than_planned_ends_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.searching.budget.pilot._level_s", lambda *_: 1e9)
    found = run_pilot(PLAN, NETWORKS, Bench(tmp_path, noise=0.4), 0, 0.99, 0.1, Reporter())
    assert found.proxy == LEVELS[0]
    assert "there is no time for a longer budget" in capsys.readouterr().err


def test_recorded_trainings_are_not_repeated(tmp_path: Path) -> None:
    first, again = Bench(tmp_path, noise=0.4), Bench(tmp_path, noise=0.4)
    found = pilot(first)
    path = tmp_path / f"{found.proxy.epochs}.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")  # as after a kill before the last three
    repeated = pilot(again)
    assert sum(each.calls for each in again.made) == 3
    assert repeated.recorded == found.recorded
    assert repeated.certificate["reliability"] == found.certificate["reliability"]
    assert Pilot.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_network_that_cannot_be_trained_is_reported_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = pilot(Bench(tmp_path, noise=0.01, fails=NETWORKS[2][0].digest))
    assert found.certificate["networks"] == 5
    assert f"{NETWORKS[2][0].digest} with seed 0 failed: RuntimeError: it cannot be built" in capsys.readouterr().err
    assert not any(digest == NETWORKS[2][0].digest for digest, _ in found.recorded)


def test_if_nearly_all_fail_nothing_is_claimed(tmp_path: Path) -> None:
    plan = Plan(3600.0, 0.0, LEVELS[:1], 2, 0, COST)
    found = run_pilot(plan, NETWORKS[:2], Bench(tmp_path, noise=0.01), 0, 0.7, 0.1, Reporter(quiet=True))
    assert found.certificate["reliability"] is None
    assert not found.certificate["suffices"]


def test_networks_come_from_all_strata_within_the_target() -> None:
    sizes = [totals(trace(arch)).macs for arch, _ in NETWORKS]
    assert len(NETWORKS) == 6
    assert sizes == sorted(sizes)
    limit = sizes[2]
    near = pilot_networks(SPACE, lambda arch: totals(trace(arch)).macs <= limit, 0, 6)
    assert all(totals(trace(arch)).macs <= limit for arch, _ in near)
    assert len(near) == 6
    assert [arch for arch, _ in pilot_networks(SPACE, lambda _: True, 0, 6)] == [arch for arch, _ in NETWORKS]
    assert pilot_networks(SPACE, lambda _: False, 0) == []
    for arch, choices in NETWORKS:
        assert SPACE.decode(choices).at(arch.resolution).head == arch.head


def test_a_level_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_pilot(PLAN, NETWORKS, Bench(tmp_path, noise=0.01), 0, 0.7, 0.1, Reporter())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pilot: ")]
    assert len(lines) == 1
    assert "1,600 images at 32 px" in lines[0]
    assert "reliability 0.9" in lines[0] or "reliability 1.0" in lines[0]
    assert describe_level.__doc__
