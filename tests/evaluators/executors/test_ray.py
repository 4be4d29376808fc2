"""Searches on a real cluster of several nodes on this machine: as many trials, whatever is killed; and bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluators.executors.ray import PROBE, RayBackend, check_cluster, check_resources, trials_on
from nas.study.study import JOURNAL
from tests.helpers.scripted_evaluator import Scripted

ROOT = Path(__file__).parents[3]
MINE = """
import os
import time
from pathlib import Path

def accuracy(arch, seed):
    with Path("begun.txt").open("a") as file:
        file.write(f"{arch.digest} {os.getpid()}\\n")
    for epoch in range(3):
        time.sleep(0.3)
        yield int(arch.digest[:4], 16) / 2**17 + epoch / 10
"""
TRIALS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that takes no trials and two nodes of one processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    node = {"object_store_memory": 100 << 20}
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])  # nodes have the package
    made = Cluster()
    made.add_node(num_cpus=0, include_dashboard=False, _system_config=quick, **node)
    made.workers = [made.add_node(num_cpus=1, **node) for _ in range(2)]
    yield made
    made.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def command(space: Path, folder: Path, address: str) -> list[str]:
    return [
        sys.executable, "-m", "nas.cli.main", "search", "--space", str(space), "--run", str(folder), "--json",
        "--runtime", "null", "--target-latency", "1ms", "--trials", str(TRIALS), "--evaluator", "mine:accuracy",
        "--finalist-seeds", "0", "--controller", "random", "--against", "none", "--ray", address,
    ]  # fmt: skip


def begin(space: Path, folder: Path, address: str) -> subprocess.Popen[str]:
    """Start the real command beside a user's module."""
    (folder.parent / "mine.py").write_text(MINE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(space, folder, address), cwd=folder.parent, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None and not condition():
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def ended(folder: Path) -> int:
    journal = folder / JOURNAL
    return journal.read_text().count('"metrics"') if journal.is_file() else 0


def check_whole(out: str, folder: Path) -> list[str]:
    """Check that a search ended with all its trials, none failed, none doubled; return what was begun."""
    result = json.loads(out)
    assert result == json.loads((folder / "result.json").read_text())
    candidates = result["candidates"]
    assert len(candidates) == result["trials"] == len({trial["architecture"] for trial in candidates}) == TRIALS
    assert result["failed"] == []
    for trial in candidates:
        best = int(trial["architecture"][:4], 16) / 2**17
        assert trial["curve"] == [best, best + 0.1, best + 0.2]
    begun = [line.split()[0] for line in (folder.parent / "begun.txt").read_text().splitlines()]
    assert set(begun) == {trial["architecture"] for trial in candidates}
    return begun


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_the_same_command(cluster: Any, tiny_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = begin(tiny_space, folder, cluster.address)
    wait_for(lambda: ended(folder) >= 2, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = ended(folder)
    assert 2 <= done < TRIALS
    second = begin(tiny_space, folder, cluster.address)
    out, said = second.communicate(timeout=600)
    assert second.returncode == 0, said
    begun = check_whole(out, folder)
    assert TRIALS < len(begun) <= TRIALS + 2  # those that were under way began again, nothing else did
    assert "(raylet)" not in out + said


@pytest.mark.slow
def test_a_search_outlives_a_node_that_is_killed(cluster: Any, tiny_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search = begin(tiny_space, folder, cluster.address)
    wait_for(lambda: ended(folder) >= 2, search)
    assert busy_pids(tmp_path) == 2
    node = cluster.workers.pop()
    kill_node(node)
    out, said = search.communicate(timeout=600)
    assert search.returncode == 0, said
    begun = check_whole(out, folder)
    assert TRIALS < len(begun) <= TRIALS + 1
    assert said.count("starts over: its node ") == 1
    assert "(raylet)" not in out + said
    cluster.remove_node(node, allow_graceful=False)


def test_slots_follow_the_nodes(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluators.executors.ray.REFRESH_S", 0.0)
    backend = RayBackend(cluster.address, Scripted, 0.5, 0, print)
    try:
        before = backend.slots
        assert before == 2 * len(cluster.workers)
        node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        assert backend.slots == before + 2
        cluster.remove_node(node)
        assert backend.slots == before
    finally:
        backend.close()


def kill_node(node: Any) -> None:
    """Kill a node as a power failure would: all that runs there, whoever could report it first."""
    for each in node.all_processes["raylet"]:
        pid = each.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for number in (pid, *map(int, workers)):
            os.kill(number, signal.SIGKILL)


def busy_pids(folder: Path) -> int:
    """Return how many processes have evaluated something."""
    return len({line.split()[1] for line in (folder / "begun.txt").read_text().splitlines()})


def test_a_cluster_of_another_version_and_one_without_gpus_are_told_in_a_line(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"^--ray-gpus: no node has a GPU: 0.5$"):
        check_cluster(cluster.address, 1, 0.5)
    with pytest.raises(UsageError, match=r"^--ray-cpus: no node has more than 1 CPU: 3$"):
        RayBackend(cluster.address, Scripted, 3, 0, print)
    monkeypatch.setattr("nas.evaluators.executors.ray.PROBE", "import ray\nray.__version__ = '2.0.0'\n" + PROBE)
    with pytest.raises(UsageError, match=r"^--ray: .*Version mismatch: The cluster was started with: Ray: .*2\.0\.0"):
        check_cluster(cluster.address, 1, 0)


@pytest.fixture
def refused(tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return the one line that a wrong command prints, after which nothing was written."""

    def run(*flags: str) -> str:
        folder = tmp_path / "run"
        assert main([*command(tiny_space, folder, "auto")[3:-1], *flags, "--quiet", "--evaluator", "params"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert not folder.exists()
        return captured.err

    return run


def test_what_is_no_cluster_is_told_in_a_line(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("nas.evaluators.executors.ray.PROBE_S", 4.0)
        assert f"--ray: is not a Ray cluster, or did not answer within 4 s: '{taken}'" in refused(taken)
    assert f"--ray: no cluster answers (Connection refused): '{taken}'" in refused(taken)
    for wrong in ("head", "ray://head:10001", "head:port", "head:0"):
        assert f"--ray: must be 'local', 'auto' or host:port, such as 'head:6379': '{wrong}'" in refused(wrong)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--ray: needs the package ray: pip install 'hwnas[ray]'" in refused("auto")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["local", "--workers", "2"], "--ray, --workers: candidates are evaluated in one place"),
        (["local", "--ray-cpus", "0"], "--ray-cpus: must be a whole number or a part of one, above 0: 0"),
        (["local", "--ray-gpus", "1.5"], "--ray-gpus: must be a whole number or a part of one: 1.5"),
        (["local", "--ray-gpus", "-1"], "--ray-gpus: must be a whole number or a part of one: -1"),
        (["local", "--trial-timeout", "5"], "--trial-timeout: must be a duration above zero with its unit, as '90s'"),
        (["local", "--workers", "-1"], "--workers: must be at least 0: -1"),
        (["local", "--ray-cpus", "9999"], "--ray-cpus: no node has more than "),
    ],
)
def test_executor_settings_that_cannot_be(flags: list[str], expected: str, refused: Callable[..., str]) -> None:
    assert expected in refused(*flags)


def test_how_many_trials_a_node_takes() -> None:
    assert trials_on({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}) == 4
    assert trials_on({"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}) == 2
    assert trials_on({"CPU": 3.0}, {"CPU": 0.1, "GPU": 0.0}) == 30
    assert trials_on({"memory": 1e9}, {"CPU": 1.0, "GPU": 0.0}) == 0
    with pytest.raises(UsageError, match=r"^--ray-cpus, --ray-gpus: no node has 4 CPU and 1 GPU together$"):
        check_resources([{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}], {"CPU": 4.0, "GPU": 1.0})
