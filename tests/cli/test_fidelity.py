"""`nas search` with stopped trainings and finalists, as a user runs it: killed for real, and with wrong flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.evaluators import EVALUATORS
from nas.study.study import JOURNAL
from tests.helpers.nas_process import kill_when, start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

FLAGS = ["--runtime", "null", "--target-latency", "1ms", "--trials", "7", "--seed", "2", "--proxy-epochs", "4"]
HALVING = ["--fidelity", "halving", "--eta", "2"]


def killed_when(arguments: list[str], journal: Path, text: str, times: int) -> None:
    """Run `nas` and kill it, with no time to clean up, once the journal holds `text` so often."""
    kill_when(start_nas(arguments), lambda: journal.is_file() and journal.read_text().count(text) >= times)


def told(folder: Path) -> dict[str, Any]:
    """Return what a result tells of the search, the dates and the measured latencies left out."""
    result = json.loads((folder / "result.json").read_text())
    finalists = [{k: v for k, v in finalist.items() if k != "measured_ms"} for finalist in result["finalists"]]
    keys = ("candidates", "front", "failed", "epochs", "noise", "noise_model", "trials", "stopped")
    return {**{key: result[key] for key in keys}, "finalists": sorted(finalists, key=lambda f: str(f["number"]))}


@pytest.mark.slow  # tests/searching/test_kill.py kills searches too
def test_a_search_killed_at_a_rung_and_among_its_finalists_ends_as_one_that_was_not(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def args(folder: Path) -> list[str]:
        return ["search", "--space", str(tiny_space), "--run", str(folder), *FLAGS, *HALVING]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(args(whole)) == 0
    said = capsys.readouterr().err
    result = json.loads((whole / "result.json").read_text())
    stopped = [trial for trial in result["candidates"] if trial["stopped_at"]]
    assert result["stopped"] == len(stopped) > 0
    assert f", stopped after {stopped[0]['stopped_at']} of 4 epochs; best so far" in said
    assert all(len(trial["curve"]) == (trial["stopped_at"] or 4) for trial in result["candidates"])
    assert all(trial["accuracy"] == trial["curve"][-1] for trial in result["candidates"])
    assert result["epochs"]["spent"] == sum(len(trial["curve"]) for trial in result["candidates"])
    assert result["epochs"]["spent"] < result["epochs"]["full"] == 28
    assert f"{result['epochs']['spent']} epochs spent, " in said
    ended = {trial["architecture"] for trial in result["candidates"] if not trial["stopped_at"]}
    assert result["best"]["architecture"] in ended
    assert {trial["architecture"] for trial in result["front"] + result["finalists"]} <= ended
    assert result["noise"] > 0
    assert sum(bool(finalist["repeats"]) for finalist in result["finalists"]) >= 2
    assert result["finalists"][0]["repeats"]

    killed_when(args(killed), killed / JOURNAL, '"digest"', 3)
    assert '"repeat_of"' not in (killed / JOURNAL).read_text()
    killed_when(args(killed), killed / JOURNAL, '"repeat_of"', 1)
    assert not (killed / "result.json").exists()
    repeats = [line for line in (killed / JOURNAL).read_text().splitlines() if '"repeat_of"' in line]
    assert main(args(killed)) == 0
    assert told(killed) == told(whole)
    assert repeats[0] in (killed / JOURNAL).read_text().splitlines()


def test_without_finalist_seeds_nothing_is_evaluated_again(tiny_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    args = ["search", "--space", str(tiny_space), "--run", str(folder), "--trials", "3", "--finalist-seeds", "0"]
    assert main([*args, "--quiet", "--runtime", "null", "--target-latency", "1ms"]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (result["noise"], result["noise_model"], result["epochs"]["finalists"]) == (None, None, 0)
    assert all(finalist["repeats"] == [] for finalist in result["finalists"])
    assert result["best"]["estimate"] == result["best"]["accuracy"]
    assert (result["epochs"]["spent"], result["epochs"]["full"], result["stopped"]) == (3, 3, 0)


def test_what_has_no_epochs_cannot_be_stopped(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain:
        """An evaluator with the protocol and nothing more."""

    monkeypatch.setitem(EVALUATORS, "plain", Plain)
    args = ["search", "--space", str(tiny_space), "--run", str(tmp_path / "a"), "--quiet", *FLAGS, *HALVING]
    assert main([*args, "--evaluator", "plain"]) == 2
    assert "--fidelity: 'plain' has no epochs after which to stop: 'halving'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fidelity", "halfing"], "--fidelity: unknown fidelity 'halfing'; did you mean 'halving'?"),
        (["--eta", "1"], "--eta: must be at least 2: 1"),
        (["--train-finalists", "2"], "--train-finalists: is for evaluators that do not train"),
        (["--train-finalists", "-1", "--evaluator", "macs"], "--train-finalists: must be at least 0: -1"),
        (["--min-epochs", "0"], "--min-epochs: must be at least 1: 0"),
        (["--finalists", "1"], "--finalists: must be at least 2: 1"),
        (["--finalist-seeds", "-1"], "--finalist-seeds: must be at least 0: -1"),
        (["--fidelity", "hyperband", "--proxy-epochs", "4", "--min-epochs", "4"],
         "--min-epochs: must be below the 4 epochs of a full training: 4"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line_before_anything_is_written(
    flags: list[str], message: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["search", "--space", str(tiny_space), "--run", str(tmp_path / "a"), "--quiet", *flags]
    assert main([*args, "--runtime", "null", "--target-latency", "1ms"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "a").exists()
