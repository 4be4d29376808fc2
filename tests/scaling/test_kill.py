"""A search for coefficients is killed, by SIGKILL and at any of its stages: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.scaling.test_coefficient_search import found

ROOT = Path(__file__).parents[2]


def test_a_search_that_is_killed_at_every_stage_ends_as_one_that_was_not(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.helpers.killed_scale", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    ends = dict(told["ends"])
    assert ends.pop("no more") == 0
    assert set(ends.values()) == {signal.SIGKILL}, ends

    whole, killed = (json.loads((tmp_path / name / "scale.json").read_text("utf-8")) for name in ("whole", "killed"))
    assert found(killed) == found(whole)
    assert killed["search"]["base_ms"] == whole["search"]["base_ms"]
    assert killed["search"]["noise"] == whole["search"]["noise"]
    assert (tmp_path / "killed" / "scaling.png").read_bytes() == (tmp_path / "whole" / "scaling.png").read_bytes()

    notes = (tmp_path / "killed.txt").read_text("utf-8").splitlines()
    ended = Counter(note for note in notes if note.startswith("ended"))
    began = Counter(note for note in notes if note.startswith("began"))
    assert set(ended.values()) == {1}  # what was finished was not begun again
    assert len(ended) == told["every"] == told["trials"] + 2 + told["compared"]
    assert sum(began.values()) == told["every"] + 6  # and six were under way when they were killed
    names, left = ({path.name for path in (tmp_path / name).iterdir()} for name in ("whole", "killed"))
    assert left - {"workers"} == names  # no lock or half a file is left
