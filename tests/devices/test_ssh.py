"""Devices over ssh, with a real sshd on this machine; workers that crash, hang or fail to start."""

from __future__ import annotations

import ast
import contextlib
import os
import queue
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas.cli.main import main
from nas.devices import client as device
from nas.devices.client import Graph, Worker, local_worker, open_worker
from nas.devices.process_pipe import TIMEOUT_VARIABLE
from nas.devices.ssh import SSH_VARIABLE, device_files, parse_address, ssh_command, worker_sources
from nas.devices.timing import Protocol, Sample
from nas.errors import DeviceError, UsageError
from nas.latency.profiler import default_table_path, measure_networks, profile, table_header
from nas.latency.table import LatencyTable
from nas.spaces.yaml_format import load_architecture, load_space
from nas.utils.reporting import Advance, Reporter
from tests.helpers.ssh_server import Sshd, free_port, parent, processes, serve

QUIET = Reporter(quiet=True)
SLOW = Protocol(visits=4, flush_bytes=16 << 20)
"""Slow enough that a connection can be cut in the middle."""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with serve(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def board(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a device whose temporary directory is `tmp_path/board`; restarts follow quickly."""
    monkeypatch.setenv(SSH_VARIABLE, sshd.ssh)
    monkeypatch.setitem(device.PAUSES_S, "remote", (0.1, 0.2, 0.4))
    (tmp_path / "board").mkdir()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho welcome\nTMPDIR={tmp_path}/board exec {sys.executable} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return sshd.url(str(python))


@pytest.fixture
def graphs(tmp_path: Path) -> list[Graph]:
    """Three graphs of the null runtime."""
    found = []
    for number in range(3):
        path = tmp_path / f"graph{number}.json"
        path.write_text(f'{{"flops": {number * 1000}}}')
        found.append(Graph(f"key{number}", str(path), ((1, 3, 8, 8),)))
    return found


def rows_of(path: Path | str) -> dict[object, list[float]]:
    """Return the times of a table file."""
    return times_of(LatencyTable.open(Path(path)))


def times_of(table: LatencyTable) -> dict[object, list[float]]:
    """Return the times of each row, sorted."""
    return {name: sorted(ms for _, ms in samples) for name, samples in table.rows.items()}


def one_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line of stderr of a command that exits with status 2."""
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not condition():
        time.sleep(0.02)
    return condition()


def kill_children(word: bytes, number: signal.Signals) -> None:
    """Send a signal to our child processes whose command line contains `word`."""
    for pid in processes():
        if parent(pid) == os.getpid() and word in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, number)


def lose_answers(worker: Worker) -> None:
    """Drop the answers that are not read yet: on a busy machine the worker may have finished its batch."""
    assert isinstance(worker, device.RestartingWorker)
    lines = worker._worker._pipe._lines
    with contextlib.suppress(queue.Empty):
        while lines.get(timeout=1):
            pass
        lines.put(b"")  # the end of the process, as the pipe reports it


class Interrupting(Reporter):
    """A reporter that calls `action` once, after the first step of the measurement."""

    def __init__(self, action: Callable[[], object]):
        super().__init__(quiet=True)
        self.said: list[str] = []
        self._action: Callable[[], object] | None = action

    def say(self, message: str) -> None:
        self.said.append(message)

    def _plain(self, description: str, total: int) -> Advance:
        def advance(count: int) -> None:
            if self._action and description.startswith("measuring"):
                action, self._action = self._action, None
                action()

        return advance


@pytest.mark.parametrize("runtime", ["null", "onnxruntime"])
def test_a_profile_over_ssh(
    runtime: str,
    board: str,
    tiny_space: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # needed on the device only
    there, here = tmp_path / "there.jsonl", tmp_path / "here.jsonl"
    command = ["profile", "--space", str(tiny_space), "--runtime", runtime, "--quiet"]
    assert main([*command, "--table", str(there), "--device", board]) == 0
    assert not list((tmp_path / "board").iterdir())
    assert "28 measured now" in capsys.readouterr().out
    table = LatencyTable.open(there)
    assert table.header["host"] == socket.gethostname()
    assert all(len(minima) >= Protocol().visits for minima in table.rows.values())
    if runtime == "null":
        assert main([*command, "--table", str(here)]) == 0
        assert rows_of(here) == rows_of(there)


def test_finalists_are_measured_on_the_device(board: str) -> None:
    arch = load_architecture("mnasnet_a1_1.0").at(32)
    (there,), (here,) = measure_networks([arch], "null", 1, QUIET, board), measure_networks([arch], "null", 1, QUIET)
    assert replace(there, memory_bytes=None) == replace(here, memory_bytes=None)


def test_a_search_on_a_device(board: str, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--space", str(tiny_space), "--runtime", "null", "--target-latency", "1ms", "--trials", "2"]
    command += ["--run", str(tmp_path / "run"), "--quiet"]
    assert main([*command, "--device", board]) == 0
    assert f'"host": "{socket.gethostname()}"' in (tmp_path / "run" / "model" / "card.json").read_text()
    capsys.readouterr()
    assert "device is 'ssh://" in one_line(capsys, *command[:-1])


def test_another_machine_has_a_table_of_its_own(board: str) -> None:
    there, here = table_header("null", 1, board), table_header("null", 1)
    assert there["device"] == here["device"]
    assert default_table_path(there) != default_table_path(here)


def test_a_cut_connection_loses_nothing(board: str, sshd: Sshd, tiny_space: Path, tmp_path: Path) -> None:
    space, header = load_space(str(tiny_space)), table_header("null", 1)
    tables = [LatencyTable.open(tmp_path / name, header) for name in ("there.jsonl", "here.jsonl")]
    reporter = Interrupting(sshd.cut)
    profile(space, tables[0], reporter, SLOW, open_worker(board, "null", 1, reporter.say))
    assert any("trying again in 0.1 s" in line for line in reporter.said)
    profile(space, tables[1], QUIET, SLOW)
    assert times_of(tables[0]) == times_of(tables[1]) == rows_of(tmp_path / "there.jsonl")
    assert eventually(lambda: not list((tmp_path / "board").iterdir()))


def test_a_device_that_stays_away_is_one_line_after_some_tries(
    graphs: list[Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as server:
        monkeypatch.setenv(SSH_VARIABLE, server.ssh)
        monkeypatch.setitem(device.PAUSES_S, "remote", (0.1, 0.2))
        said: list[str] = []
        message = r"refused \(after 2 more attempts\); the same command continues"
        with pytest.raises(DeviceError, match=message), open_worker(server.url(), "null", 1, said.append) as worker:
            server.process.terminate()
            server.process.wait()
            for sample in worker.measure(graphs, Protocol(visits=1000, flush_bytes=8 << 20), 0):
                assert sample.key
                kill_children(b"nas.devices.worker", signal.SIGKILL)
        assert [line.rpartition("; ")[2] for line in said] == ["trying again in 0.1 s", "trying again in 0.2 s"]


def test_a_worker_that_hangs_on_the_board_goes_with_its_connection(board: str, sshd: Sshd, tmp_path: Path) -> None:
    with open_worker(board, "null", 1) as worker:
        assert worker.settings
        (folder,) = (tmp_path / "board").iterdir()
        (pid,) = [pid for pid in processes() if parent(parent(pid)) and working_directory(pid) == folder]
        os.kill(pid, signal.SIGSTOP)
        sshd.cut()
        assert eventually(lambda: not folder.exists())
        assert eventually(lambda: working_directory(pid) != folder)


def working_directory(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def test_many_graphs_do_not_block(board: str, tmp_path: Path) -> None:
    graphs = []
    for number in range(300):
        path = tmp_path / f"{number}.json"
        path.write_text(f'{{"flops": 1, "padding": "{"x" * 20_000}"}}')
        graphs.append(Graph(str(number), str(path), ((1, 1),)))
    with open_worker(board, "null", 1) as worker:
        samples = list(worker.measure(graphs, Protocol(visits=2, flush_bytes=0), 0))
        assert not list((tmp_path / "board").glob("*/graphs/*"))
    assert sorted(sample.key for sample in samples) == sorted(2 * [graph.key for graph in graphs])


def test_a_graph_of_several_files_travels_whole(board: str, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.json").write_text('{"flops": 1}')
    (folder / "a.bin").write_bytes(b"\0\n\xff")
    (folder / "b.json").write_text('{"flops": 1}')
    assert list(device.graph_files([Graph("a", str(folder / "a.json"), ())])) == ["graphs/a.bin", "graphs/a.json"]
    with open_worker(board, "null", 1) as worker:
        assert len(list(worker.measure([Graph("a", str(folder / "a.json"), ((1,),))], Protocol(visits=1), 0))) == 1


def test_a_refusing_port_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ssh"):
        pytest.skip("needs OpenSSH: no ssh here")
    monkeypatch.setenv(SSH_VARIABLE, "ssh -F none")
    port = free_port()
    line = one_line(capsys, "profile", "--runtime", "null", "--device", f"ssh://127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in line
    assert "Connection refused" in line


@pytest.mark.parametrize("ssh", ["ssh -F none", "sh -c 'exec sleep 100'"], ids=["ssh", "no time-out of its own"])
def test_a_host_that_says_nothing_is_one_line(
    ssh: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("ssh"):
        pytest.skip("needs OpenSSH: no ssh here")
    monkeypatch.setenv(SSH_VARIABLE, ssh)
    monkeypatch.setenv(TIMEOUT_VARIABLE, "2")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ssh://127.0.0.1:{listener.getsockname()[1]}"
        line = one_line(capsys, "profile", "--runtime", "null", "--device", url)
    assert "timed out" in line or "no answer for 2 s" in line


def test_a_python_without_the_wheel_says_what_to_install(
    board: str, sshd: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv.create(tmp_path / "bare")
    url = sshd.url(str(tmp_path / "bare" / "bin" / "python"))
    line = one_line(capsys, "profile", "--runtime", "onnxruntime", "--device", url)
    assert f"127.0.0.1:{sshd.port}: runtime 'onnxruntime' is not installed: pip install onnxruntime" in line


def test_a_python_that_is_not_there_is_one_line(board: str, sshd: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(capsys, "profile", "--runtime", "null", "--device", sshd.url("/nowhere/python"))
    assert "/nowhere/python" in line


def test_an_ssh_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SSH_VARIABLE, "/nowhere/ssh")
    assert "cannot start /nowhere/ssh" in one_line(capsys, "profile", "--device", "ssh://board")


@pytest.mark.parametrize(
    "url",
    ["board", "ssh://", "ssh://board:0", "ssh://board:70000", "ssh://board:x", "ssh://-oProxyCommand=x", "http://board",
     "ssh://user:secret@board", "ssh://-l@board", "ssh://board/a\nb", "ssh:// board", ""],
)  # fmt: skip
def test_a_malformed_device_is_a_usage_error_with_the_form(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="ssh://user@host:port/path/to/python"):
        parse_address(url)
    assert "ssh://user@host:port" in one_line(capsys, "search", "--target-latency", "1ms", f"--device={url}")


def test_addresses_become_ssh_commands() -> None:
    full = parse_address("ssh://pi@board.local:2222/opt/my python/bin/python3")
    assert (full.user, full.host, full.port, full.python) == ("pi", "board.local", 2222, "/opt/my python/bin/python3")
    command = ssh_command(full, [full.python, "-c", "print('x')"])
    assert command[command.index("--") + 1 :] == [
        "pi@board.local",
        "'/opt/my python/bin/python3' -c 'print('\"'\"'x'\"'\"')'",
    ]
    assert parse_address("ssh://Board").host == "Board"
    assert parse_address("ssh://board/").python == "python3"
    assert parse_address("ssh://board/~/venv/bin/python").python == "./venv/bin/python"
    assert parse_address("ssh://[fe80::1%eth0]:22/").host == "fe80::1%eth0"


def test_a_worker_that_is_killed_is_started_again(graphs: list[Graph]) -> None:
    said: list[str] = []
    with open_worker("local", "null", 1, said.append) as worker:
        samples: list[Sample] = []
        for sample in worker.measure(graphs, Protocol(visits=50, flush_bytes=8 << 20), 0):
            samples.append(sample)
            if len(samples) == 1:
                kill_children(b"nas.devices.worker", signal.SIGKILL)
                lose_answers(worker)
    assert sorted(sample.key for sample in samples) == sorted(50 * [graph.key for graph in graphs])
    assert len(said) == 1
    assert "the worker of runtime 'null' ended" in said[0]


def test_another_device_at_the_same_address_is_an_error(graphs: list[Graph]) -> None:
    boards = iter(({"processor": "A"}, {"processor": "B"}))

    def make() -> device.ProcessWorker:
        worker = local_worker("null", 1)
        answer, mine = worker._answer, next(boards)
        worker._answer = lambda: {**answer(), "device": mine}  # type: ignore[method-assign]
        return worker

    with (
        pytest.raises(DeviceError, match="another device answers after the restart"),
        device.RestartingWorker(make, [0.0]) as worker,
    ):
        for sample in worker.measure(graphs, Protocol(visits=50, flush_bytes=8 << 20), 0):
            assert sample.key
            kill_children(b"nas.devices.worker", signal.SIGKILL)
            lose_answers(worker)


def test_a_worker_that_hangs_is_started_again(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "5")
    monkeypatch.setitem(device.PAUSES_S, "local", (0.1,) * 10)  # on a busy machine a new worker too may seem to hang
    said: list[str] = []
    with open_worker("local", "null", 1, said.append) as worker:
        measured = worker.measure(graphs, Protocol(visits=50, flush_bytes=8 << 20), 0)
        samples = [next(measured)]
        kill_children(b"nas.devices.worker", signal.SIGSTOP)
        lose_answers(worker)
        samples += measured
    assert sorted(sample.key for sample in samples) == sorted(50 * [graph.key for graph in graphs])
    assert "no answer for 5 s" in said[0]


def test_a_graph_that_a_runtime_cannot_load_is_one_line_without_new_tries(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    said: list[str] = []
    with (
        pytest.raises(DeviceError, match=r"the worker failed: InvalidProtobuf: .*broken\.onnx"),
        open_worker("local", "onnxruntime", 1, said.append) as worker,
    ):
        list(worker.measure([Graph("a", str(tmp_path / "broken.onnx"), ((1, 3),))], Protocol(), 0))
    assert said == []


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_out_must_be_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(UsageError, match="must be a number of seconds above zero"), local_worker("null", 1):
        pass


def test_the_sources_of_a_worker_run_alone(tmp_path: Path) -> None:
    assert worker_sources() == worker_sources()
    (tmp_path / "worker.zip").write_bytes(worker_sources())
    code = (
        "import sys; sys.path.insert(0, 'worker.zip'); import nas.devices.worker, nas.devices.offline_runner; "
        "print(nas.devices.worker.__file__, [n for n in sys.modules if n in ('torch', 'numpy', 'yaml')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{Path('worker.zip', 'nas', 'devices', 'worker.py')} []"


def test_the_sources_of_a_worker_are_of_python_3_9() -> None:
    for path in device_files(Path(nas.__file__).parent):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                given = {(call.func.id, keyword.arg) for keyword in call.keywords}
                assert not given & {("zip", "strict"), ("dataclass", "slots")}, path  # of Python 3.10
