"""Every executor by the same rules, and what processes of their own must survive."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.errors import RunError, reason
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.executors.base import Event, Executor, Outcome, Task, evaluate_all
from nas.evaluators.executors.evaluator_host import Build
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.executors.processes import ProcessBackend, describe_exit, threads_per_worker, worker_environment
from nas.evaluators.executors.ray import RayBackend
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor
from nas.evaluators.proxy_training import ProxyTraining
from nas.spaces.yaml_format import load_space
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter
from tests.helpers.scripted_evaluator import (
    DRAWN,
    FINE,
    FULL,
    HANGS,
    KILLED,
    LEAVES,
    NOTHING,
    RAISES,
    SLOW,
    WORD,
    Broken,
    Dying,
    Scripted,
    Several,
    Short,
)

ROOT = Path(__file__).parents[3]


def here(build: Build, limit_s: float | None = None) -> Executor:
    return InProcessExecutor(build())  # type: ignore[arg-type]


def processes(build: Build, limit_s: float | None = None, workers: int = 1) -> Executor:
    return WorkerPoolExecutor(ProcessBackend(build, workers), limit_s, Reporter().warn)


def ray_cluster(build: Build, limit_s: float | None = None) -> Executor:
    return WorkerPoolExecutor(RayBackend("local", build, 1, 0, Reporter().warn), limit_s, Reporter().warn)


EXECUTORS: dict[str, Callable[..., Executor]] = {"here": here, "processes": processes, "ray": ray_cluster}


@pytest.fixture(scope="module")
def ray_once() -> Iterator[None]:
    """One local cluster for all tests, with processors on paper: an executor uses what is connected."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=8, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=EXECUTORS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    """Make an executor of each kind; one that was made is used again, as a search does."""
    yield from made_by(request)


@pytest.fixture(scope="module", params=["processes", "ray"])
def apart(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    """Make executors that are not this process."""
    yield from made_by(request)


def made_by(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    if request.param == "ray":
        request.getfixturevalue("ray_once")
    made: dict[Any, Executor] = {}

    def executor(build: Any, limit_s: float | None = None) -> Executor:
        if (build, limit_s) not in made:
            made[build, limit_s] = EXECUTORS[request.param](build, limit_s)
        return made[build, limit_s]

    yield executor
    for each in made.values():
        each.close()


@pytest.fixture
def arch(tiny_space: Path) -> Architecture:
    space = load_space(str(tiny_space)).for_classes(10)
    return space.decode(space.sample(random.Random(0)))


def curve(executor: Executor, number: int) -> tuple[list[Any], Event]:
    """Return the accuracies of the one candidate under way, and its last event."""
    accuracies = []
    while (event := executor.wait()).accuracy is not None:
        assert event.number == number
        accuracies.append(event.accuracy)
    assert event.number == number
    return accuracies, event


def test_events_come_in_order_and_candidates_one_after_the_other(
    make: Callable[..., Executor], arch: Architecture, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = make(Scripted)
    assert executor.slots >= 1
    for number in (4, 2):
        executor.start(number, arch, FINE)
        accuracies, last = curve(executor, number)
        assert accuracies == [0.25, 0.5, 0.75]
        assert last == Event(number)
        assert last.ended


def test_nothing_is_drawn_beyond_what_was_stopped(
    make: Callable[..., Executor], arch: Architecture, tmp_path: Path
) -> None:
    executor = make(partial(Scripted, str(tmp_path)))
    executor.start(0, arch, DRAWN)
    assert [executor.wait().accuracy for _ in range(2)] == [0.25, 0.5]
    executor.stop(0)
    executor.start(1, arch, FINE)
    assert curve(executor, 1) == ([0.25, 0.5, 0.75], Event(1))
    assert not (tmp_path / "drawn").exists()
    executor.start(2, arch, DRAWN)
    assert curve(executor, 2)[0] == [0.25, 0.5, 0.6, 0.75]
    assert (tmp_path / "drawn").exists()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (RAISES, "ValueError: no such kernel (scripted_evaluator.py:"),
        (NOTHING, "an accuracy must be a number in [0, 1]: None"),
    ],
)
def test_what_an_evaluator_raises_is_an_event_and_the_next_candidate_works(
    script: int, expected: str, make: Callable[..., Executor], arch: Architecture
) -> None:
    executor = make(Scripted)
    executor.start(0, arch, script)
    accuracies, last = curve(executor, 0)
    assert accuracies == [0.25, 0.5]
    assert last.error is not None
    assert reason(last.error).startswith(expected)
    executor.start(1, arch, FINE)
    assert curve(executor, 1) == ([0.25, 0.5, 0.75], Event(1))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (WORD, "an accuracy must be a number in [0, 1]: '0.9'"),
        (LEAVES, "SystemExit: 3 (scripted_evaluator.py:"),
        (KILLED, "its process was killed"),
    ],
)
def test_what_would_end_this_process_fails_one_candidate(
    script: int, expected: str, apart: Callable[..., Executor], arch: Architecture
) -> None:
    executor = apart(Scripted)
    executor.start(7, arch, script)
    accuracies, last = curve(executor, 7)
    assert accuracies == [0.25, 0.5]
    assert str(last.error).startswith(expected)
    executor.start(8, arch, FINE)
    assert curve(executor, 8) == ([0.25, 0.5, 0.75], Event(8))


def test_a_candidate_over_its_limit_ends_and_the_next_one_works(
    apart: Callable[..., Executor], arch: Architecture
) -> None:
    executor = apart(Scripted, 2.0)
    started = time.monotonic()
    executor.start(0, arch, HANGS)
    accuracies, last = curve(executor, 0)
    assert accuracies == [0.25, 0.5]
    assert str(last.error) == "it took longer than 2 s, the limit of a trial"
    assert time.monotonic() - started < 300
    executor.start(1, arch, FINE)
    assert curve(executor, 1) == ([0.25, 0.5, 0.75], Event(1))
    executor.start(2, arch, HANGS, 2)
    assert str(curve(executor, 2)[1].error) == "it took longer than 4 s, the limit of a trial"


def test_what_no_candidate_can_survive_ends_the_search(apart: Callable[..., Executor], arch: Architecture) -> None:
    executor = apart(Broken)
    executor.start(0, arch, FINE)
    with pytest.raises(
        RunError, match=r"^the evaluator cannot be created in another process: ValueError: no such file"
    ):
        executor.wait()
    executor = apart(Scripted)
    executor.start(0, arch, FULL)
    with pytest.raises(RunError, match="the disk is full"):
        curve(executor, 0)


def test_a_process_that_dies_while_it_makes_its_evaluator_ends_the_search(
    apart: Callable[..., Executor], arch: Architecture, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = apart(Dying)
    executor.start(0, arch, FINE)
    with pytest.raises(RunError, match=r"^no worker can be started: its process was killed .*: out of memory\? \(3 "):
        executor.wait()
    assert capsys.readouterr().err.count("a worker ended while it created the evaluator; starting another one") == 2


def test_trainings_give_the_same_accuracies_to_the_bit(
    make: Callable[..., Executor], tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    space = load_space(str(tiny_space)).for_classes(10)
    setup = EvaluatorContext(Classification.load("digits"), space, tmp_path, reporter=Reporter(quiet=True))
    archs = [space.decode(space.sample(random.Random(seed))) for seed in range(2)]
    direct = [list(ProxyTraining(setup).longer(2).evaluate(arch, 5)) for arch in archs]
    executor = make(partial(ProxyTraining, setup))
    tasks = [Task(arch, 5, times) for arch in archs for times in (2, 1)]
    found = {outcome.task: list(outcome.curve) for outcome in evaluated(executor, tasks, 1)}
    assert [found[Task(arch, 5, 2)] for arch in archs] == direct
    assert [len(accuracies) for accuracies in direct] == [2, 2]
    assert [len(found[Task(arch, 5)]) for arch in archs] == [1, 1]


def evaluated(executor: Executor, tasks: list[Task], at_once: int) -> list[Outcome]:
    """Evaluate so many tasks at once: other tests' executors hold some of the cluster's eight processors."""
    starts = range(0, len(tasks), at_once)
    return [outcome for start in starts for outcome in evaluate_all(executor, tasks[start : start + at_once])]


def test_all_tasks_come_to_an_end_and_those_that_fail_say_why(
    make: Callable[..., Executor], arch: Architecture
) -> None:
    tasks = [Task(arch, seed, times) for seed, times in [(FINE, 1), (RAISES, 1), (WORD, 1), (FINE, 2), (NOTHING, 1)]]
    executor = make(Scripted)
    outcomes = {outcome.task: outcome for outcome in evaluated(executor, tasks, 2)}
    assert list(evaluate_all(executor, [])) == []
    assert set(outcomes) == set(tasks)
    assert {outcomes[task].curve for task in (tasks[0], tasks[3])} == {(0.25, 0.5, 0.75)}
    errors = [str(outcomes[task].error) for task in tasks]
    assert errors[0] == errors[3] == "None"
    assert errors[1].startswith("ValueError: no such kernel (scripted_evaluator.py:")
    assert errors[2] == "an accuracy must be a number in [0, 1]: '0.9'"
    assert errors[4] == "an accuracy must be a number in [0, 1]: None"
    with pytest.raises(RunError, match="the disk is full"):
        list(evaluate_all(here(Scripted), [Task(arch, FULL), Task(arch, FINE)]))


def test_an_evaluator_that_cannot_go_on_longer_fails_the_task(
    make: Callable[..., Executor], arch: Architecture
) -> None:
    (outcome,) = evaluate_all(make(Short), [Task(arch, FINE, 2)])
    assert str(outcome.error).startswith("ValueError: once is all")


def test_as_many_tasks_are_under_way_as_there_are_slots_and_a_lost_one_begins_again(arch: Architecture) -> None:
    several = Several(Scripted())
    tasks = [Task(arch, FINE), Task(arch, FINE, 2), Task(arch, WORD)]
    assert [outcome.task for outcome in evaluate_all(several, tasks)] == tasks
    assert several.most == 2
    lost = Several(Scripted(), again=True)
    (outcome,) = evaluate_all(lost, tasks[:1])
    assert outcome == Outcome(tasks[0], (0.25, 0.5, 0.75))


def test_a_training_that_is_stopped_is_closed_at_once(arch: Architecture) -> None:
    closed = []

    class Training(Scripted):
        def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
            try:
                yield from (0.1, 0.2, 0.3)
            finally:
                closed.append(True)

    executor = here(Training)
    executor.start(0, arch, FINE)
    assert [executor.wait().accuracy for _ in range(2)] == [0.1, 0.2]
    assert not closed
    executor.stop(0)
    assert closed == [True]


def test_two_workers_work_at_once_and_a_killed_one_leaves_the_other_alone(
    arch: Architecture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = processes(partial(Scripted, str(tmp_path)), 300.0, 2)
    try:
        assert executor.slots == 2
        executor.start(0, arch, SLOW)
        executor.start(1, arch, KILLED)
        events = [executor.wait() for _ in range(5)]
        assert sorted((event.number, event.accuracy or 0) for event in events) == [
            (0, 0.25), (0, 0.5), (1, 0), (1, 0.25), (1, 0.5)
        ]  # fmt: skip
        executor.start(2, arch, FINE)
        assert curve(executor, 2) == ([0.25, 0.5, 0.75], Event(2))
        executor.stop(0)  # in the middle of an epoch
        executor.start(3, arch, FINE)
        assert curve(executor, 3) == ([0.25, 0.5, 0.75], Event(3))
    finally:
        executor.close()
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count(f"evaluating {arch.digest}") == 4
    for path in tmp_path.glob("pid-*"):
        assert not running(int(path.name.removeprefix("pid-")))


PARENT = """
import signal, sys
from functools import partial
from nas.architecture import Architecture, BlockSpec
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor
from nas.evaluators.executors import processes
from nas.evaluators.executors.processes import ProcessBackend
from tests.helpers.scripted_evaluator import SLOW, Scripted

if __name__ == "__main__":
    processes.PRELOADED = ()  # a scripted evaluator needs no torch
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    pool = WorkerPoolExecutor(ProcessBackend(partial(Scripted, sys.argv[1]), 1), None, print)
    pool.start(0, Architecture(8, (), BlockSpec("classifier")), SLOW)
    try:
        while True:
            pool.wait()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: bool(list(tmp_path.glob("pid-*"))) or parent.poll() is not None)
    (path,) = tmp_path.glob("pid-*")
    worker = int(path.name.removeprefix("pid-"))
    assert running(worker)
    assert ignores(worker, signal.SIGINT)
    os.killpg(parent.pid, how) if how == signal.SIGINT else parent.send_signal(how)
    _, said = parent.communicate(timeout=60)
    wait_until(lambda: not running(worker))
    assert not running(worker)
    if how == signal.SIGINT:
        assert parent.returncode == 130
        assert said.count("\n") == 1  # what the evaluator printed


def test_a_process_ignores_ctrl_c_from_its_first_moment_on(tmp_path: Path) -> None:
    """The first that a program starts, too: with it multiprocessing starts a tracker, and unblocks the signal."""
    script = tmp_path / "first.py"
    script.write_text(FIRST)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


FIRST = """
import signal
from functools import partial
from nas.evaluators.executors import processes
from nas.evaluators.executors.processes import ProcessBackend
from tests.helpers.scripted_evaluator import Scripted

def ignores(pid, number):
    status = open(f"/proc/{pid}/status").read()
    mask, = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)

if __name__ == "__main__":
    processes.PRELOADED = ()
    worker = ProcessBackend(partial(Scripted), 1).start_worker()
    print(ignores(worker._process.pid, signal.SIGINT))
    worker.kill()
"""


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_per_worker(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_per_worker(workers) for workers in (1, 2, 3)] == [3, 3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert threads_per_worker(2) == 4
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = signal.getsignal(signal.SIGINT)
    with worker_environment(2):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
    assert signal.getsignal(signal.SIGINT) == before
    assert os.environ["OMP_NUM_THREADS"] == "4,2"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_end_of_a_process_is_told_in_words() -> None:
    assert describe_exit(-9) == "its process was killed (signal 9): out of memory?"
    assert describe_exit(-11) == "its process was killed (signal 11: Segmentation fault)"
    assert describe_exit(3) == "its process ended with status 3"
