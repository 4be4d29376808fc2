"""Processes that search are killed, by SIGKILL and at any instant: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TRIALS = 10


def killed(kind: str, space: Path, base: Path, seeds: int, *more: str) -> dict[str, Any]:
    """Return what the script of killed searches printed."""
    command = [sys.executable, "-m", "tests.helpers.killed_search", kind, str(space), str(base), str(seeds), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_serial(found: dict[str, Any]) -> None:
    whole = found["whole"]
    assert len(whole["trials"]) + len(whole["failed"]) == TRIALS
    assert not any(withdrawn for _, withdrawn in whole["states"])
    for run in found["killed"]:
        assert run["trials"] == whole["trials"]
        assert run["failed"] == whole["failed"]
        assert run["left"] == []
        assert all(state != "RUNNING" for state, _ in run["states"])


def check_shared(found: dict[str, Any]) -> None:
    for run in found["killed"]:
        digests = [trial[1] for trial in run["trials"]] + [failure[1] for failure in run["failed"]]
        assert len(digests) == len(set(digests)) == TRIALS
        numbers = sorted([trial[0] for trial in run["trials"]] + [failure[0] for failure in run["failed"]])
        assert numbers == list(range(TRIALS))
        assert run["left"] == []
        counted = [state for state, withdrawn in run["states"] if not withdrawn]
        assert len(counted) == TRIALS
        assert "RUNNING" not in counted


def test_a_search_that_is_killed_twice_ends_with_the_trials_of_one_that_was_not(
    tiny_space: Path, tmp_path: Path
) -> None:
    check_serial(killed("serial", tiny_space, tmp_path, 4))


def test_of_two_processes_on_one_study_one_is_killed_and_the_other_takes_over(tiny_space: Path, tmp_path: Path) -> None:
    check_shared(killed("shared", tiny_space, tmp_path, 2))


def test_and_so_in_a_database(tiny_space: Path, tmp_path: Path) -> None:
    check_shared(killed("shared", tiny_space, tmp_path, 1, f"sqlite:///{tmp_path / 'shared.db'}"))


@pytest.mark.slow
def test_killed_at_many_more_instants(tiny_space: Path, tmp_path: Path) -> None:
    check_serial(killed("serial", tiny_space, tmp_path / "a", 60))
    check_shared(killed("shared", tiny_space, tmp_path / "b", 20))
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    check_shared(killed("shared", tiny_space, tmp_path / "c", 10, url))
