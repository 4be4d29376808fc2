"""Whole searches within a total time: what they print and record, and what a kill in each part changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.searching.settings import SearchSettings
from tests.helpers.nas_process import NAS, kill_when, start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

SMALL = """
from nas.searching.budget import final_training, pilot, plan, preparation
from nas.searching.budget.training_cost import TrainingCost
pilot.NETWORKS = 3
pilot.pilot_networks.__defaults__ = (3,)
pilot.LEAST_LOW = 0.0
plan.RESERVE_S = final_training.RESERVE_S = 0.0
preparation.measure_training_cost = lambda archs, proxy, task: TrainingCost(2e-4, 0.0, 1149, 288, 32)
"""
"""A search with a small pilot and a plan that does not depend on the speed of the machine."""
FIXED = f"""{SMALL}
final_training._choose_lengths = lambda *_: final_training.Lengths(3, {{}})
"""
"""The same, with a final training that does not depend on it either."""
SLOW = f"""{FIXED}
import time
from nas.training import state
ended = state.TrainingState.finish
def slow(self, epochs):
    time.sleep(0.1)
    return ended(self, epochs)
state.TrainingState.finish = slow
"""
"""The same, slow enough to be killed in each part."""


def flags(space: Path, run: Path, budget: str, *more: str) -> list[str]:
    fixed = ["--runtime", "null", "--target-latency", "1s", "--seed", "1", "--json", "--against", "none"]
    return ["search", "--space", str(space), "--run", str(run), "--budget", budget, *fixed, *more]


def run_small(patches: str, arguments: list[str], folder: Path) -> tuple[int, str, str]:
    out, err = folder / "out.txt", folder / "err.txt"
    process = start_nas(arguments, out, err, code=patches + NAS)
    process.join()
    return process.exitcode, out.read_text(), err.read_text()


def test_a_search_certifies_its_evaluator_and_a_second_one_reuses_the_pilot(
    tiny_space: Path, tmp_path: Path, private_cache: Path
) -> None:
    run = tmp_path / "run"
    status, out, err = run_small(SMALL, flags(tiny_space, run, "12s", "--trials", "6"), tmp_path)
    assert status == 0, err
    result = json.loads(out)
    for part in ("plan for 12 s", "table ", "pilot ", "candidates ", "finalists ", "training "):
        assert part in err
    found = result["evaluator_certificate"]
    assert 0 <= found["low"] <= found["reliability"] <= found["high"] <= 1
    assert found["networks"] == 3
    assert found["budget"]["images_seen"] == found["budget"]["epochs"] * found["budget"]["images"]
    assert found["levels"]
    assert result["settings"]["proxy"]["epochs"] == found["budget"]["epochs"]
    assert result["settings"]["trials"] == result["trials"] == 6
    assert result["settings"]["final"] == {"full_epochs": result["settings"]["training"][0]["epochs"]}
    assert result["settings"]["training"][0]["epochs"] >= 4
    assert set(result["budget"]["spent"]) >= {"table", "pilot", "candidates", "finalists", "training", "total"}
    assert result["budget"]["seconds"] == 12
    assert result["tied"] is not None
    assert (run / "pilot.png").stat().st_size > 1000
    evaluated = {candidate["architecture"] for candidate in result["candidates"]}
    repeats = {key.split()[1].split("/")[0] for key in _attributes(run) if key.startswith("repeat ")}
    assert len(repeats & evaluated) >= 3, "the pilot's second seeds count"
    status, again, err = run_small(SMALL, flags(tiny_space, run, "12s", "--trials", "6"), tmp_path)
    assert status == 0
    assert json.loads(again) == result
    assert "finished on" in err
    status, _, err = run_small(SMALL, flags(tiny_space, run, "1h", "--trials", "6"), tmp_path)
    assert status == 2
    assert "budget_s is 12.0 there and 3600.0 now" in err
    stored = {path: path.read_text() for path in (private_cache / "pilots").iterdir()}
    more = ["--trials", "4", "--finalist-seeds", "0"]
    status, out, err = run_small(FIXED, flags(tiny_space, tmp_path / "second", "12s", *more), tmp_path)
    assert status == 0
    assert "pilot, " not in err, "no progress of trainings"
    assert {path: path.read_text() for path in (private_cache / "pilots").iterdir()} == stored
    second = json.loads(out)
    for key in ("reliability", "low", "high", "noise", "between"):
        assert second["evaluator_certificate"][key] == found[key]
    assert trials_of(second) == trials_of(result)[:4]


@pytest.mark.slow  # tests/searching/test_kill.py kills searches too
def test_a_kill_in_each_part_changes_no_trial_and_no_winner(
    tiny_space: Path, tmp_path: Path, private_cache: Path
) -> None:
    more = ["--trials", "6", "--finalist-seeds", "0"]
    assert run_small(FIXED, flags(tiny_space, tmp_path / "whole", "20s", *more), tmp_path)[0] == 0
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    for path in (private_cache / "pilots").iterdir():
        path.unlink()
    run = tmp_path / "killed"

    def killed(when: Callable[[], bool]) -> None:
        process = start_nas(flags(tiny_space, run, "20s", *more), code=SLOW + NAS)
        kill_when(process, when)
        assert process.exitcode == -9, "it ended before it was killed"

    killed(lambda: _lines(private_cache / "pilots") >= 4)
    assert _trials(run) == 0
    killed(lambda: _trials(run) >= 4)
    killed(lambda: any((run / "winner").glob("*.pt")))
    assert not (run / "result.json").exists()
    status, out, err = run_small(FIXED, flags(tiny_space, run, "20s", *more), tmp_path)
    assert status == 0, err
    result = json.loads(out)
    assert trials_of(result) == trials_of(whole)
    assert result["best"]["architecture"] == whole["best"]["architecture"]
    assert result["best"]["test_accuracy"] == whole["best"]["test_accuracy"]
    for key in ("reliability", "low", "high", "noise", "between", "networks"):
        assert result["evaluator_certificate"][key] == whole["evaluator_certificate"][key]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "5s"], "--budget: is too short: this space, data and machine need at least"),
        (["--budget", "20"], "--budget: must be a duration above zero with its unit, as '90s', '30min' or '2h': '20'"),
        (["--budget", "1h", "--evaluator", "synflow"], "--budget: is for the evaluator 'proxy_training', not"),
        (["--budget", "1h", "--fidelity", "halving"], "--budget: is for --fidelity full: '1h'"),
        (["--budget", "1h", "--reliability", "-1"], "--reliability: must be at least 0: -1.0"),
        (["--budget", "1h", "--reliability", "1"], "--reliability: must be below 1: 1.0"),
    ],
)  # fmt: skip
def test_bad_budgets_are_one_line(
    more: list[str], message: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("nas.searching.budget.training_cost.MEASURE_S", 0.0)
    run = tmp_path / "run"
    arguments = ["search", "--space", str(tiny_space), "--run", str(run), "--runtime", "null", "--target-latency", "1s"]
    assert main([*arguments, *more]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "error: " in line and "mean error" not in line]
    assert len(err) == 1
    assert message in err[0]
    assert not (run / "result.json").exists()


def test_settings_by_hand_switch_the_plan_off_and_older_runs_stay_as_they_were() -> None:
    from nas.searching.budget.total_time import choose_budget

    assert choose_budget(SearchSettings("20ms"), None, 1150, 64) == 600
    assert choose_budget(SearchSettings("20ms", trials=16), None, 1150, 64) is None
    assert choose_budget(SearchSettings("20ms", proxy_epochs=4), None, 1150, 64) is None
    assert choose_budget(SearchSettings("20ms", evaluator="synflow"), None, 1150, 64) is None
    assert choose_budget(SearchSettings("20ms", trials=16, budget="20min"), None, 1150, 64) == 1200
    assert choose_budget(SearchSettings("20ms"), {"seed": 0}, 1150, 64) is None, "a run from before"
    assert choose_budget(SearchSettings("20ms"), {"budget_s": 900.0}, 1150, 64) == 900


def trials_of(result: dict[str, Any]) -> list[tuple[str, list[float]]]:
    return [(candidate["architecture"], candidate["curve"]) for candidate in result["candidates"]]


def _lines(folder: Path) -> int:
    """Return the number of finished trainings in a folder of recorded pilots."""
    files = folder.glob("*.jsonl") if folder.is_dir() else []
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in files)


def _trials(run: Path) -> int:
    path = run / "journal.log"
    return path.read_text().count('"curve"') if path.is_file() else 0


def _attributes(run: Path) -> dict[str, Any]:
    from nas.study.trial_store import find

    return find(run).attributes()
