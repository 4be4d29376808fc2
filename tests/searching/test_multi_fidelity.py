"""The replay of recorded curves, on curves that are made so that what must come out is known."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.multi_fidelity import Recorded, compare, interval, read_curves
from nas.errors import UsageError
from nas.study.objectives import Metrics, make_objective

ROOT = Path(__file__).parents[2]
ACCURACY = make_objective("constrained", 1e9)


def made(noise: float, count: int = 24, seeds: int = 2, epochs: int = 9) -> list[Recorded]:
    """Return curves towards accuracies from 0.6 to 0.83; without noise no two cross."""
    rng = random.Random(0)
    found = []
    for index in range(count):
        best = 0.6 + 0.01 * index
        curves = [
            tuple(
                min(1.0, max(0.0, best * (1 - math.exp(-epoch / 3)) + rng.gauss(0, noise)))
                for epoch in range(1, epochs + 1)
            )
            for _ in range(seeds)
        ]
        found.append(Recorded(tuple(curves), Metrics(fmean(curve[-1] for curve in curves), 1.0 + index, 0, 0)))
    return found


def test_curves_that_do_not_cross_cost_a_third_and_lose_nothing() -> None:
    found = compare(made(0.0), ACCURACY, 3, 1, 60)
    assert {share for share, _ in found["full"]} == {1.0}
    assert all(lost == 0 for name in ("full", "halving", "hyperband") for _, lost in found[name])
    assert fmean(share for share, _ in found["halving"]) < 1 / 3
    assert fmean(share for share, _ in found["halving"]) < fmean(share for share, _ in found["hyperband"]) < 0.8
    assert fmean(lost for _, lost in found["subset"]) > 0.01
    for (cost, _), (subset, _) in zip(found["halving"], found["subset"], strict=True):
        assert subset == pytest.approx(cost, abs=0.5 / 24)


def test_first_epochs_that_tell_nothing_make_halving_lose_more_than_full_training() -> None:
    found = compare(made(0.15), ACCURACY, 3, 1, 100)
    losses = {name: fmean(lost for _, lost in pairs) for name, pairs in found.items()}
    assert losses["full"] < losses["halving"]
    assert losses["full"] > 0


def test_the_front_of_what_finished_is_compared_by_hypervolume() -> None:
    found = compare(made(0.0), make_objective("pareto", 20.0), 3, 1, 20)
    assert all(lost == pytest.approx(0) for _, lost in found["full"])
    assert all(0 <= lost < 0.5 for _, lost in found["halving"])
    assert fmean(share for share, _ in found["halving"]) < 0.7


def test_an_interval_narrows_with_the_root_of_the_orders() -> None:
    mean, half = interval([0.0, 1.0] * 200)
    assert mean == 0.5
    assert half == pytest.approx(1.96 * 0.5 / 20, rel=0.01)


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_the_script_prints_shares_and_regrets(tmp_path: Path) -> None:
    rows: list[object] = [
        {"architecture": f"{index:016x}", "seed": seed, "curve": list(curve), "macs": 1_000_000 * index}
        for index, each in enumerate(made(0.02))
        for seed, curve in enumerate(each.curves)
    ]
    path = write(tmp_path / "curves.jsonl", [{"format": 1}, *rows])
    assert len(read_curves(path)) == 24
    command = [sys.executable, str(ROOT / "benchmarks" / "multi_fidelity.py"), str(path), "--orders", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    head, _, *rows_printed = done.stdout.splitlines()
    assert head.startswith("24 architectures, 48 trainings of 9 epochs; 30 orders")
    assert [row.split()[0] for row in rows_printed] == ["full", "halving", "hyperband", "subset"]
    assert rows_printed[0].split()[1:4] == ["100.00", "±", "0.00"]


GOOD = {"architecture": "a", "seed": 0, "curve": [0.1, 0.2], "macs": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], "line 2: not a recorded curve: JSONDecodeError"),
        ([{**GOOD, "curve": ["x"]}], "line 1: not a recorded curve: ValueError"),
        ([{"architecture": "a", "curve": [0.1]}], "line 1: not a recorded curve: KeyError.'macs'"),
        ([{**GOOD, "curve": [0.1, 1.7]}], r"line 1: a curve holds accuracies in .0, 1.: .0.1, 1.7"),
        ([{**GOOD, "curve": []}], "line 1: a curve holds"),
        ([GOOD], "needs two architectures and equally long curves: 1, .2"),
        ([GOOD, {**GOOD, "architecture": "b", "curve": [0.1]}], "equally long curves: 2, .1, 2"),
    ],
)
def test_a_broken_file_of_curves_is_named_by_its_line(lines: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_curves(write(tmp_path / "curves.jsonl", lines))
