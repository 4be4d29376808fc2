"""Searches in processes of their own, which are killed for real: run as a script, it prints what became of them.

The script imports once and forks: a search is a child that begins in milliseconds, so that many can be killed.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna.storages.journal  # noqa: F401 -- imported before the forks: each child would do it again
import sqlalchemy.engine  # noqa: F401

from nas.architecture import Architecture
from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.searching.early_stopping import make_rungs
from nas.searching.loop import SearchPlan, search
from nas.spaces.encoded_space import encode_space
from nas.spaces.encoding import EncodedSpace
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.objectives import make_objective
from nas.study.storage import CARD
from nas.study.study import JOURNAL, open_study, read_trials
from nas.utils.reporting import Reporter

EPOCHS, TRIALS = 4, 10
GOAL = make_objective("soft", 1.0)


class Slow:
    """An epoch takes a few milliseconds, no two curves cross, and one candidate in four fails at its end."""

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        best = 0.2 + int(arch.digest[:4], 16) / 2**17
        for epoch in range(1, EPOCHS + 1):
            time.sleep(0.004)
            yield best * (1 - math.exp(-epoch))
        if int(arch.digest[-1], 16) < 4:
            raise RuntimeError("it cannot be built")


@functools.cache
def domain_of(space: Space) -> EncodedSpace:
    """Return the encoded space, made before the first fork: each child would make it again."""
    return encode_space(space, lambda layer: layer.macs / 1e6)


def begin(space: Space, folder: Path, url: str | None = None) -> int:
    """Return the process that searches in `folder`."""
    domain = domain_of(space)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open_study(folder, {}, space, GOAL.directions, url) as study:
            problem = Problem(domain, GOAL)
            controller = CONTROLLERS["tpe"](problem)
            rungs = make_rungs("halving", 2, 1, EPOCHS)
            plan = SearchPlan(space, controller, Slow(), GOAL, latency_ms, rungs)
            search(plan, study, TRIALS, 0, Reporter(quiet=True))
        status = 0
    except BaseException:
        traceback.print_exc()  # `os._exit` would hide it
    finally:
        sys.stderr.flush()
        os._exit(status)


def latency_ms(arch: Architecture) -> float:
    """Return the latency of a network: any function of it will do."""
    return 1.0 + int(arch.digest[4:8], 16) / 2**16


def ended(child: int) -> bool:
    """Wait for a process; return whether it came to its end by itself, without an error."""
    return os.waitpid(child, 0)[1] == 0


def wrote(folder: Path) -> int:
    journal = folder / JOURNAL
    return journal.stat().st_size if journal.is_file() else 0


def wait_for(path: Path) -> None:
    """Wait until a file exists, for a minute at most."""
    deadline = time.monotonic() + 60
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.001)


def kill_after(child: int, folder: Path, size: int, more_s: float) -> None:
    """Kill a process once the journal has a size, and a little later; not where it ends before."""
    deadline = time.monotonic() + 60
    while wrote(folder) < size and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.001)
    time.sleep(more_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def facts(folder: Path, space: Space, url: str | None = None) -> dict[str, Any]:
    """Return what a study holds as a user sees it, and the states of all that Optuna sees."""
    with open_study(folder, {}, space, GOAL.directions, url) as study:
        trials = [[t.number, t.digest, list(t.curve), t.stopped_at, list(t.values)] for t in study.evaluated]
        left = [claim.digest for claim in study.stale()]
        states = [[f.state.name, "withdrawn" in f.user_attrs] for f in study._store.trials()]
        failed = [[t.number, t.digest, t.error] for t in study.failed]
    assert [trial.digest for trial in read_trials(folder, space)] == [trial[1] for trial in trials]
    return {"trials": trials, "failed": failed, "left": left, "states": states}


def serial(space: Space, base: Path, seeds: int) -> dict[str, Any]:
    """Kill a search twice and let the third go on to the end, for each seed."""
    assert ended(begin(space, base / "whole"))
    size = wrote(base / "whole")
    found = []
    for seed in range(seeds):
        rng, folder = random.Random(seed), base / f"killed{seed}"
        for cut in sorted(rng.random() * 1.1 for _ in range(2)):
            kill_after(begin(space, folder), folder, int(cut * size), rng.random() * 0.01)
        assert ended(begin(space, folder))
        found.append(facts(folder, space))
    return {"whole": facts(base / "whole", space), "killed": found}


def shared(space: Space, base: Path, seeds: int, url: str | None) -> dict[str, Any]:
    """Let two processes work on a study and kill one of them, for each seed."""
    found = []
    for seed in range(seeds):
        rng, folder = random.Random(seed), base / f"shared{seed}"
        one, other = begin(space, folder, url), begin(space, folder, url)
        wait_for(folder / (CARD if url else JOURNAL))  # Optuna cannot open a database whose tables are half made
        time.sleep(0.3 + rng.random() * 0.6)
        os.kill(one, signal.SIGKILL)
        os.waitpid(one, 0)
        assert ended(other)
        found.append(facts(folder, space, url))
    return {"killed": found}


if __name__ == "__main__":
    kind, file, base, seeds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    given = load_space(file).for_classes(10)
    if kind == "serial":
        print(json.dumps(serial(given, base, seeds)))
    else:
        print(json.dumps(shared(given, base, seeds, sys.argv[5] if len(sys.argv) > 5 else None)))
