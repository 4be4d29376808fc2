"""Offline bundles: written, measured and imported; tables that survive kills and full disks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.devices.offline_runner import keep_whole_batches
from nas.devices.timing import Protocol
from nas.errors import DeviceError
from nas.latency.calibration_networks import whole_networks
from nas.latency.offline_bundle import read_bundle
from nas.latency.table import LatencyTable
from nas.spaces.yaml_format import load_space
from tests.helpers.nas_process import kill_when, start_nas

SMALL_BATCHES = """
import nas.latency.profiler, nas.latency.calibration_networks, nas.cli.main
nas.latency.profiler.GRAPHS_PER_BATCH = 3
nas.latency.calibration_networks.CALIBRATING, nas.latency.calibration_networks.CERTIFYING = 6, 4
nas.latency.calibration_networks.SMALL_MACS = 0.0
raise SystemExit(nas.cli.main.main())
"""


def profile_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["profile", *argv, "--json", "--quiet"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line of stderr of a `nas profile` that exits with status 2."""
    assert main(["profile", *argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def times_of(path: Path) -> dict[object, list[float]]:
    """Return the times of each row of a table, sorted."""
    return {name: sorted(ms for _, ms in samples) for name, samples in LatencyTable.open(path).rows.items()}


def measure(bundle: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a bundle as on a device: from another directory, without our package on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(bundle / "run.py")]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small space for the null runtime, in batches of three graphs, not measured yet."""
    folder = tmp_path_factory.mktemp("bundle")
    space = folder / "small.yaml"
    space.write_text(SMALL_SPACE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.latency.profiler.GRAPHS_PER_BATCH", 3)
        command = ["profile", "--space", str(space), "--runtime", "null", "--bundle", str(folder / "bundle"), "--quiet"]
        assert main(command) == 0
    assert {path.name for path in folder.iterdir()} == {"small.yaml", "bundle"}
    return folder / "bundle"


SMALL_SPACE = """
resolution: 16
stages:
  - {block: conv, out_channels: [8, 16], stride: 2}
  - {block: separable, out_channels: [8, 16], kernel_size: [3, 5]}
head: {block: classifier}
"""


@pytest.fixture(scope="module")
def finished(written: Path) -> Path:
    """The same bundle, measured."""
    folder = written.with_name("finished")
    shutil.copytree(written, folder)
    done = measure(folder)
    assert done.returncode == 0, done.stderr
    assert "nas profile --import finished" in done.stdout
    return folder


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy of the measured bundle that a test may modify."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_bundle_gives_the_table_of_a_live_profile(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bundle / "graphs")  # need not come back
    live, imported = tmp_path / "live.jsonl", tmp_path / "imported.jsonl"
    here = profile_json(capsys, "--space", str(bundle / "small.yaml"), "--runtime", "null", "--table", str(live))
    there = profile_json(capsys, "--import", str(bundle), "--table", str(imported))
    counted = [{name: set(ms) for name, ms in times_of(path).items()} for path in (live, imported)]
    assert counted[0] == counted[1]
    for key in ("space", "layers", "measured"):
        assert here[key] == there[key]
    for key in ("fastest_ms", "slowest_ms"):
        assert here[key] == pytest.approx(there[key])
    assert here["certificate"]["mean_error"] == pytest.approx(there["certificate"]["mean_error"])
    assert there["settings"]["protocol"] == here["settings"]["protocol"]
    assert there["settings"]["worker"]["runtime_version"] == "1"
    again = profile_json(capsys, "--import", str(bundle), "--table", str(imported))
    assert again["measured"] == 0


def test_an_import_finds_the_table_of_its_device_by_itself(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = profile_json(capsys, "--import", str(bundle))
    assert result["settings"]["host"] in Path(result["table"]).parent.name.replace("-", result["settings"]["host"])
    assert Path(result["table"]).is_file()


def test_keys_and_names_come_from_the_content(written: Path, tmp_path: Path) -> None:
    space, folder = written / "small.yaml", tmp_path / "again"
    assert main(["profile", "--space", str(space), "--runtime", "null", "--bundle", str(folder), "--quiet"]) == 0
    names = [sorted(path.name for path in (bundle / "graphs").iterdir()) for bundle in (written, folder)]
    assert names[0] == names[1]
    requests = [json.loads(line) for line in (written / "requests.jsonl").read_text().splitlines()]
    assert requests[0] == {"runtime": "null", "threads": 1}
    assert {graph["path"] for batch in requests[1:] for graph in batch["graphs"]} == {f"graphs/{n}" for n in names[0]}
    networks = {network.arch.digest for network in whole_networks(load_space(str(space)))}
    assert all(sum(graph["key"] not in networks for graph in batch["graphs"]) <= 3 for batch in requests[1:])


@pytest.mark.parametrize("lines", [1, 5, 40, 100])
def test_a_killed_board_continues(written: Path, tmp_path: Path, finished: Path, lines: int) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(written, folder)
    process = subprocess.Popen(
        [sys.executable, str(folder / "run.py")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    answers = folder / "answers.jsonl"
    wait(process, lambda: answers.is_file() and answers.read_bytes().count(b"\n") >= lines)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with answers.open("ab") as file:
        file.write(b'{"key": "cut o')
    assert measure(folder).returncode == 0
    assert visits_of(folder) == visits_of(finished)
    assert measure(folder).returncode == 0  # there is nothing left to do
    assert visits_of(folder) == visits_of(finished)


def visits_of(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    _, worker = read_bundle(folder)
    recorded = itertools.chain.from_iterable(worker._samples.values())
    return [(sample.key, sample.ms) for sample in recorded]


def wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not condition():
        time.sleep(0.002)


def test_a_second_run_in_the_folder_is_refused(bundle: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (bundle / "answers.jsonl").open("ab") as answers:
        fcntl.flock(answers, fcntl.LOCK_EX)
        done = measure(bundle)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another run.py is running in this folder" in done.stderr


def test_a_board_without_the_wheel_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "small.yaml"
    space.write_text(SMALL_SPACE, encoding="utf-8")
    folder = tmp_path / "bundle"
    assert main(["profile", "--space", str(space), "--bundle", str(folder), "--quiet"]) == 0
    code = f"import sys, runpy; sys.argv[0] = {str(folder / 'run.py')!r}; runpy.run_path(sys.argv[0])"
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    done = subprocess.run(
        [str(bare / "bin" / "python"), "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "runtime 'onnxruntime' is not installed: pip install onnxruntime" in done.stderr
    capsys.readouterr()
    assert "run 'python3 run.py'" in refused(capsys, "--import", str(folder))


def test_a_board_refuses_a_graph_that_was_spoilt_on_the_way(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(written, folder)
    graph = min((folder / "graphs").iterdir())
    graph.write_bytes(b"spoilt")
    done = measure(folder)
    assert done.returncode == 2
    assert f"graphs/{graph.name}: was modified after the bundle was written" in done.stderr


def edit_answers(folder: Path, edit: Callable[[list[str]], list[str]]) -> None:
    path = folder / "answers.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda folder: edit_answers(folder, lambda lines: lines[:-2]), "not finished; run"),
    "not begun": (lambda folder: (folder / "answers.jsonl").unlink(), "not measured yet; run 'python3 run.py'"),
    "no bundle": (lambda folder: (folder / "bundle.json").unlink(), "needs a folder that --bundle wrote"),
    "not JSON": (lambda folder: (folder / "bundle.json").write_text("{"), "bundle.json: cannot be read"),
    "no object": (lambda folder: (folder / "bundle.json").write_text("[]"), "format: must exist"),
    "another format": (
        lambda folder: (folder / "bundle.json").write_text(
            (folder / "bundle.json").read_text().replace('"format": 1', '"format": 9')
        ),
        "format: must be 1: 9",
    ),
    "another space": (lambda folder: (folder / "small.yaml").write_text(SMALL_SPACE + "#"), "checksum mismatch"),
    "other requests": (lambda folder: (folder / "requests.jsonl").write_text("{}\n"), "checksum mismatch"),
    "answers of another bundle": (
        lambda folder: edit_answers(folder, lambda lines: ['{"bundle": "x", "settings": {}, "device": {}}\n', *lines]),
        "the answers belong to another bundle",
    ),
    "infinite": (
        lambda folder: edit_answers(
            folder, lambda lines: [lines[0], '{"key": "a", "at": 0, "ms": [1, Infinity, 1]}\n']
        ),
        "finite 'ms' above zero",
    ),
    "negative": (
        lambda folder: edit_answers(folder, lambda lines: [lines[0], '{"key": "a", "at": 0, "ms": [1, -1, 1]}\n']),
        "finite 'ms' above zero",
    ),
    "foreign": (
        lambda folder: edit_answers(folder, lambda lines: [lines[0], '{"key": "a", "at": 0, "ms": [1, 1, 1]}\n']),
        "this sample was not requested",
    ),
    "no lines": (lambda folder: edit_answers(folder, lambda lines: [lines[0], "[1]\n"]), "line 2: must be an object"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_bundle_is_one_line(case: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = SPOILT[case]
    spoil(bundle)
    line = refused(capsys, "--import", str(bundle))
    assert message in line
    assert str(bundle) in line


def test_nothing_of_an_imported_folder_is_executed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run.py", "nas.py", "sitecustomize.py"):
        (bundle / name).write_text("raise SystemExit('executed')")
    (bundle / "worker.zip").write_bytes(b"")
    assert profile_json(capsys, "--import", str(bundle))["measured"] > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--import", "x", "--space", "mnasnet"], "--space: cannot be combined with --import"),
        (["--import", "x", "--bundle", "y"], "--bundle: cannot be combined with --import"),
        (["--bundle", "x", "--device", "ssh://board"], "--device: cannot be combined with --bundle"),
        (["--bundle", "/"], "--bundle: the folder must not exist yet: '/'"),
        (["--bundle", "x", "--runtime", "onnxruntme", "--space", "mobilenet_v2_1.0"], "did you mean 'onnxruntime'"),
        (["--import", "/nowhere"], "/nowhere: no such file"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *argv)
    assert not list(tmp_path.iterdir())


def test_a_worker_asked_for_what_was_not_recorded_is_a_device_error(bundle: Path) -> None:
    from nas.devices.client import Graph

    _, worker = read_bundle(bundle)
    with pytest.raises(DeviceError, match="of this space was not measured"):
        list(worker.measure([Graph("another", "", ())], Protocol(), 0))


def test_whole_batches_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"bundle": 1}\n{"key": 1}\n{"done": true}\n{"key": 2}\n{"done": tr')
    with path.open("a+b") as file:
        assert keep_whole_batches(file) == 1
    assert path.read_bytes() == b'{"bundle": 1}\n{"key": 1}\n{"done": true}\n'


@pytest.mark.parametrize("appends", [0, 1, 3, 7])
def test_a_killed_profile_continues_to_the_same_rows(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, appends: int
) -> None:
    table, whole = tmp_path / "table.jsonl", tmp_path / "whole.jsonl"
    arguments = ["--space", str(tiny_space), "--runtime", "null", "--quiet", "--table"]
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed process leaves its exported graphs there
    process = start_nas(["profile", *arguments, str(table)], code=SMALL_BATCHES)
    lines = 3 * appends
    kill_when(process, lambda: not appends or (table.is_file() and table.read_bytes().count(b"\n") > lines))
    if table.is_file():
        assert set(LatencyTable.open(table, {}).header) >= {"format"}
    profile_json(capsys, *arguments, str(table))
    profile_json(capsys, *arguments, str(whole))
    rows, expected = times_of(table), times_of(whole)
    assert {key: set(times) for key, times in rows.items()} == {key: set(ms) for key, ms in expected.items()}
    assert all(len(times) >= Protocol().visits for times in rows.values())


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of one page on the folder; skip the test if that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if (
        os.geteuid()
        or not shutil.which("mount")
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_table_opens(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.latency.profiler.GRAPHS_PER_BATCH", 3)
    table = tmp_path / "disk" / "table.jsonl"
    with tiny_disk(tmp_path / "disk"):
        line = refused(capsys, "--space", str(tiny_space), "--runtime", "null", "--table", str(table))
        assert f"{table}: cannot be written: " in line
        assert "No space left on device" in line
        assert LatencyTable.open(table, {}).rows


def test_a_file_that_may_not_grow_is_one_line_and_the_table_opens(tiny_space: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    command = [sys.executable, "-c", SMALL_BATCHES, "profile", "--space", str(tiny_space), "--runtime", "null"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [*command, "--quiet", "--table", str(table)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"nas profile: error: {table}: cannot be written: [Errno 27] File too large\n"
    assert LatencyTable.open(table, {}).rows
