"""`nas search` in several processes on one run, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli.main import main
from tests.helpers.nas_process import start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

FLAGS = ["--runtime", "null", "--target-latency", "1ms", "--trials", "5", "--json", "--evaluator", "params"]


def args(space: Path, run: Path, *more: str) -> list[str]:
    return ["search", "--space", str(space), "--run", str(run), *FLAGS, *more]


def test_two_searches_in_one_folder_share_the_trials_and_print_one_result(tiny_space: Path, tmp_path: Path) -> None:
    files = [(tmp_path / f"out{number}", tmp_path / f"err{number}") for number in range(2)]
    started = [start_nas(args(tiny_space, tmp_path / "run"), out, err) for out, err in files]
    for process in started:
        process.join()
    told = [(out.read_text(), err.read_text()) for out, err in files]
    assert [process.exitcode for process in started] == [0, 0], told
    one, other = (json.loads(out) for out, _ in told)
    assert one["best"] == other["best"]
    assert one["date"] == other["date"], "one of them named the winner"
    assert one["trials"] == 5
    assert len({trial["architecture"] for trial in one["candidates"]}) == 5
    assert [trial["number"] for trial in one["candidates"]] == list(range(5))
    said = "".join(err for _, err in told)
    assert sum(said.count(f"\ntrial {number}: ") for number in range(1, 6)) == 5
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"journal.log", "model", "result.json", "search.png"} <= names
    assert not {"workers", "begin.lock", "evaluator.lock", "finish.lock", "winner"} & names


@pytest.mark.slow
def test_a_worker_evaluates_and_leaves_the_winner_to_another_machine(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    there, here = tmp_path / "there" / "run", tmp_path / "here" / "run"
    assert main(args(tiny_space, there, "--storage", url, "--worker", "--trials", "3")) == 0
    assert json.loads(capsys.readouterr().out) == {"trials": 3, "evaluated": 3, "run": str(there)}
    assert not (there / "result.json").exists()
    assert main(args(tiny_space, here, "--storage", url)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["trials"] == 5
    assert result["settings"]["storage"] == url
    assert "trial 4: " in captured.err
    assert "trial 3: " not in captured.err
    assert main([*args(tiny_space, there, "--storage", url, "--worker")[:-1], "--quiet"]) == 0
