"""Compound against single dimensions: who is compared, and that no accuracy is worked out twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.scaling.comparison import (
    ACCURACIES_HEADER,
    ComparedNetwork,
    evaluate_networks,
    read_accuracies,
    rules_to_compare,
    select_networks,
    single_dimensions,
)
from nas.scaling.latency_targets import LatencyEstimator
from nas.scaling.presets import Coefficients
from nas.scaling.scale import scale
from nas.scaling.sizes import DIMENSIONS, Factors, Rounding
from nas.utils.files import append_rows
from nas.utils.reporting import Reporter
from tests.helpers.scaled_networks import BASE, ScriptedLatency, macs

ROUNDING = Rounding(divisor=1, resolution_step=2)
QUIET = Reporter(quiet=True)
DEEPER, WIDER = (scale(BASE, factors, ROUNDING) for factors in (Factors(depth=1.5), Factors(width=1.5)))
ENTRIES = [
    ComparedNetwork("base", 0.0, None, BASE, 10.0, 10.0),
    ComparedNetwork("depth", 1.0, Coefficients(2, 1, 1), DEEPER, 19.0, 20.0),
    ComparedNetwork("width", 1.0, Coefficients(1, 1.4, 1), WIDER, 19.5, 20.0, False, (("width", 1.25),)),
]


class Counting:
    """An accuracy of architecture and seed; `fails` and `silent` name seeds with which the second entry has none."""

    def __init__(self, fails: int = -1, silent: int = -1, full: int = -1):
        self.fails, self.silent, self.full = fails, silent, full
        self.seen: list[tuple[str, int]] = []

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        self.seen.append((arch.digest, seed))
        if arch == DEEPER and seed == self.silent:
            return
        yield 0.1
        if arch == DEEPER and seed == self.fails:
            raise ValueError("no\nluck")
        if seed == self.full:
            raise RunError("the disk is full")
        yield accuracy_of(arch, seed)


def evaluated(
    entries: list[ComparedNetwork], evaluator: Any, seeds: Iterable[int], path: Path, reporter: Reporter = QUIET
) -> list[ComparedNetwork]:
    return evaluate_networks(entries, lambda: InProcessExecutor(evaluator), list(seeds), path, reporter)


def accuracy_of(arch: Architecture, seed: int) -> float:
    return int(arch.digest[:4], 16) / 2**17 + seed / 1000


def test_single_dimensions_grow_the_macs_alike() -> None:
    single = single_dimensions(3.0)
    assert list(single) == list(DIMENSIONS)
    for name, coefficients in single.items():
        factors = coefficients.at(1)
        assert factors.growth == pytest.approx(3.0)
        assert replace(factors, **{name: 1.0}) == Factors()  # type: ignore[arg-type]


def test_base_compound_and_each_dimension_stand_at_the_same_latency() -> None:
    network_latency = ScriptedLatency(lambda arch: 10 * (macs(arch) / macs(BASE)) ** 0.8)
    compound = Coefficients(1.2, 1.1, 1.15)
    rules = rules_to_compare(compound, 2.0, [])
    found = select_networks(LatencyEstimator(BASE, network_latency), rules, 2.0, [1.0], ROUNDING, QUIET)
    assert [entry.name for entry in found] == ["base", "compound", *DIMENSIONS]
    assert [entry.phi for entry in found] == [0, 1, 1, 1, 1]
    assert found[0].architecture == BASE
    assert found[0].latency_ms == 10.0
    assert found[1].coefficients == compound
    for entry in found[1:]:
        assert entry.latency_ms == network_latency.ms(entry.architecture) <= 20.0
        assert entry.is_close == (entry.latency_ms >= 19.0)
        assert network_latency.session_count(entry.architecture) >= 2
    assert sum(entry.is_close for entry in found) >= 4  # depth alone may be too coarse


def test_a_dimension_that_is_missing_or_is_the_compound_itself_is_left_out() -> None:
    rules = rules_to_compare(single_dimensions(2.0)["resolution"], 2.0, ["depth"])
    assert list(rules) == ["compound", "width"]
    rules = rules_to_compare(Coefficients(1.0, 1.3, 1.0), 2.0, [])  # width alone, to where rounding lets it go
    assert list(rules) == ["compound", "depth", "resolution"]


def test_several_budgets_are_compared_in_the_same_sessions() -> None:
    network_latency = ScriptedLatency(lambda arch: macs(arch) / 1e6)
    rules = rules_to_compare(Coefficients(1.0, 1.2, 1.2), 2.0, ["depth", "width"])
    found = select_networks(LatencyEstimator(BASE, network_latency), rules, 2.0, [1.0, 2.0], ROUNDING, QUIET)
    named = [("base", 0), ("compound", 1), ("resolution", 1), ("compound", 2), ("resolution", 2)]
    assert [(entry.name, entry.phi) for entry in found] == named
    for entry in found[1:]:
        assert 0.9 * 2**entry.phi <= entry.latency_ms / found[0].latency_ms <= 2**entry.phi


def test_every_entry_has_the_accuracy_of_every_seed_the_last_one_that_came(tmp_path: Path) -> None:
    evaluate = Counting()
    found = evaluated(ENTRIES, evaluate, range(100, 103), tmp_path / "a.jsonl")
    for entry, before in zip(found, ENTRIES, strict=True):
        assert entry == replace(before, accuracies=tuple(accuracy_of(before.architecture, s) for s in (100, 101, 102)))
    assert len(evaluate.seen) == 9
    facts = found[2].to_dict(BASE)
    assert facts["accuracy"] == pytest.approx(accuracy_of(WIDER, 101))
    assert facts["deviation"] == pytest.approx(0.001)
    assert facts["macs_ratio"] == macs(WIDER) / macs(BASE)
    assert facts["coefficients"] == {"alpha": 1, "beta": 1.4, "gamma": 1}
    assert ComparedNetwork.from_dict(json.loads(json.dumps(facts))) == ENTRIES[2]
    assert ComparedNetwork.from_dict(json.loads(json.dumps(ENTRIES[0].to_dict(BASE)))) == ENTRIES[0]


def test_what_was_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    path, first, second = tmp_path / "a.jsonl", Counting(), Counting()
    evaluated(ENTRIES[:2], first, [7], path)
    found = evaluated(ENTRIES, second, [7, 8], path)
    assert not set(first.seen) & set(second.seen)
    assert len(second.seen) == 4
    assert all(len(entry.accuracies) == 2 for entry in found)
    assert evaluated(ENTRIES, Counting(full=7), [7, 8], path) == found
    same = replace(ENTRIES[0], name="another name")
    assert evaluated([same], Counting(full=7), [7], path)[0].accuracies == found[0].accuracies[:1]


def test_a_network_that_fails_has_no_accuracy_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    found = evaluated(ENTRIES, Counting(fails=1, silent=2), [1, 2], path, Reporter())
    assert [len(entry.accuracies) for entry in found] == [2, 0, 2]
    facts = found[1].to_dict(BASE)
    assert (facts["accuracy"], facts["deviation"], facts["accuracies"]) == (None, None, [])
    assert "depth with seed 1 failed: ValueError: no luck" in capsys.readouterr().err
    assert read_accuracies(path)[DEEPER.digest, 1] is None
    again = Counting()
    assert evaluated(ENTRIES, again, [1, 2], path) == found
    assert again.seen == []


def test_what_stops_any_evaluation_goes_on_upwards_and_what_was_done_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(RunError, match="the disk is full"):
        evaluated(ENTRIES, Counting(full=4), [3, 4], path)
    assert len(read_accuracies(path)) == 3


def test_a_last_line_that_a_kill_cut_off_is_evaluated_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    whole = evaluated(ENTRIES, Counting(), [1], path)
    text = path.read_text(encoding="utf-8")
    for cut in (1, 30, len(text.split("\n")[-2])):
        path.write_text(text[:-cut], encoding="utf-8")
        evaluate = Counting()
        assert evaluated(ENTRIES, evaluate, [1], path) == whole
        assert evaluate.seen == [(WIDER.digest, 1)]
        assert path.read_text(encoding="utf-8") == text
    path.write_text(text[:9], encoding="utf-8")  # the header itself
    assert evaluated(ENTRIES, Counting(), [1], path) == whole
    assert path.read_text(encoding="utf-8") == text


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_rows(path, ACCURACIES_HEADER, [{"architecture": "0", "seed": 1, "accuracy": 0.5}, {"seed": 1}])
    with pytest.raises(RunError, match=r"a.jsonl, line 3: not an accuracy: KeyError\('accuracy'\)"):
        read_accuracies(path)
    assert read_accuracies(tmp_path / "none.jsonl") == {}
