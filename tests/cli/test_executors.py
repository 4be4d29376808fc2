"""`nas search` in processes of its own, as a user runs it: the same accuracies, and candidates that go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main

pytestmark = pytest.mark.usefixtures("warm_cache")

FLAGS = ["--runtime", "null", "--target-latency", "1ms", "--seed", "1", "--finalist-seeds", "0", "--json"]
MINE = """
import os
import signal
import time
from pathlib import Path

def accuracy(arch, seed):
    place = 1
    while not begun(place):
        place += 1
    with Path("begun.txt").open("a") as file:
        file.write(f"{place} {arch.digest} {os.getpid()}\\n")
    print("on stdout")
    yield 0.3
    if place == 2:
        time.sleep(600)
    if place == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if place == 4:
        raise ValueError("no such kernel")
    yield 0.4 + int(arch.digest[:4], 16) / 2**17

def begun(place):
    try:
        Path(f"place-{place}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
"""


def search(capfd: pytest.CaptureFixture[str], space: Path, folder: Path, *more: str) -> dict[str, Any]:
    assert main(["search", "--space", str(space), "--run", str(folder), *FLAGS, *more]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.slow
def test_one_worker_gives_what_this_process_gives(
    tiny_space: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stopping = ["--trials", "5", "--proxy-epochs", "2", "--fidelity", "halving", "--finalist-seeds", "2", "--quiet"]
    here = search(capfd, tiny_space, tmp_path / "here", *stopping)
    there = search(capfd, tiny_space, tmp_path / "there", *stopping, "--workers", "1")
    assert there["candidates"] == here["candidates"]
    assert there["stopped"] == here["stopped"] > 0
    assert there["noise"] == here["noise"] is not None
    repeats = [{item["architecture"]: item["repeats"] for item in run["finalists"]} for run in (here, there)]
    assert repeats[0] == repeats[1]
    assert {repeat["longer"] for each in repeats[0].values() for repeat in each} == {1, 2}
    assert there["best"]["test_accuracy"] == here["best"]["test_accuracy"]


def test_candidates_that_hang_or_are_killed_fail_with_the_reason_and_the_search_goes_on(
    tiny_space: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    flags = ["--evaluator", "mine:accuracy", "--trials", "7", "--workers", "2", "--trial-timeout", "10s"]
    result = search(capfd, tiny_space, tmp_path / "run", *flags)
    lines = [line.split() for line in (tmp_path / "begun.txt").read_text().splitlines()]
    begun = {int(place): digest for place, digest, _ in lines}
    assert len(set(begun.values())) == len(lines) == 7
    assert len({pid for _, _, pid in lines}) >= 3  # two, and one for that which was killed
    reasons = {failed["architecture"]: failed["error"] for failed in result["failed"]}
    assert reasons.pop(begun[2]) == "it took longer than 10 s, the limit of a trial"
    assert reasons.pop(begun[3]) == "its process was killed (signal 9): out of memory?"
    assert reasons.pop(begun[4]).startswith("mine:accuracy: ValueError: no such kernel (")
    assert not reasons
    assert result["trials"] == 4
