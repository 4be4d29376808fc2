"""A coefficient search that is killed by SIGKILL at given moments: run as a script, it prints how each process ended.

The script imports once and forks, so that a search starts within milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 -- imported before the forks: each child would do it again
import sklearn.linear_model
import sklearn.model_selection  # noqa: F401
import torchvision.transforms.v2  # noqa: F401

from nas.architecture import Architecture
from nas.cli.main import main
from nas.scaling.coefficient_search import run_scale_search  # noqa: F401
from nas.scaling.network_latency import NETWORKS_FILE
from tests.helpers.scaled_networks import TINY_BASE

FLAGS = ["--search", "--runtime", "null", "--step", "0.25", "--divisor", "4", "--tolerance", "0.15", "--phi", "0..1",
         "--evaluator", "tests.helpers.killed_scale:mortal", "--finalist-seeds", "1", "--compare-seeds", "1",
         "--quiet"]  # fmt: skip
BEGAN = "began "


def mortal(arch: Architecture, seed: int) -> Iterator[float]:
    """Note the start and end of each evaluation, and kill the process in evaluation number KILL_AT."""
    note = f"{arch.digest} {seed}\n"
    with Path(os.environ["NOTES"]).open("a+", encoding="utf-8") as file:
        file.write(BEGAN + note)
        file.seek(0)
        count = sum(line.startswith(BEGAN) for line in file)
    if count == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    yield 0.2 + int(arch.digest[:4], 16) / 2**17 + (seed % 7) / 100
    with Path(os.environ["NOTES"]).open("a", encoding="utf-8") as file:
        file.write(f"ended {note}")


def begin(folder: Path, kill_at: int = 0) -> int:
    """Start a search in `folder` that is killed in evaluation number `kill_at`; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= {"NOTES": str(notes_of(folder)), "KILL_AT": str(kill_at)}
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
        status = main(["scale", str(folder.with_name("base.yaml")), *FLAGS, "--run", str(folder)])
    finally:
        os._exit(status)


def notes_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.txt")


def began(folder: Path) -> int:
    path = notes_of(folder)
    return path.read_text(encoding="utf-8").count(BEGAN) if path.is_file() else 0


def lines(folder: Path) -> int:
    """Return the number of lines of the latency table."""
    path = folder / NETWORKS_FILE
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_when(folder: Path, happened: Callable[[], bool]) -> int:
    """Kill a search as soon as `happened` returns true; return its exit status."""
    child, deadline = begin(folder), time.monotonic() + 120
    while not happened() and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def killed(base: Path) -> dict[str, Any]:
    """Run one search without interruption, and one that is killed in each of its stages."""
    (base / "base.yaml").write_text(TINY_BASE, encoding="utf-8")
    whole, folder = base / "whole", base / "killed"
    assert os.waitpid(begin(whole), 0)[1] == 0
    result = json.loads((whole / "scale.json").read_text(encoding="utf-8"))
    trials, every = result["search"]["trials"], began(whole)
    compared = sum(len(entry["accuracies"]) for entry in result["comparison"])
    ends = {}
    ends["measuring the spread"] = kill_when(folder, lambda: lines(folder) > 3)
    some = lines(folder)
    ends["measuring more"] = kill_when(folder, lambda: lines(folder) > some + 4)
    assert began(folder) == 0
    for count, (moment, number) in enumerate(
        {"first trial": 1, "a trial": trials // 2 + 1, "last trial": trials, "a finalist": trials + 1}.items()
    ):
        ends[moment] = os.waitpid(begin(folder, number + count), 0)[1]
    some = lines(folder)
    ends["measuring contestants"] = kill_when(folder, lambda: lines(folder) > some + 2)
    assert not (folder / "contestants.json").exists()
    for count, (moment, number) in enumerate({"first compared": every - compared + 1, "last compared": every}.items()):
        ends[moment] = os.waitpid(begin(folder, number + 4 + count), 0)[1]
    ends["no more"] = os.waitpid(begin(folder), 0)[1]
    return {"ends": ends, "trials": trials, "compared": compared, "every": every}


if __name__ == "__main__":
    print(json.dumps(killed(Path(sys.argv[1]))))
