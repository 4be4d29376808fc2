"""Where things are and where they are written: `python -m nas`, read-only folders, files for others, named files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.errors import RunError
from nas.utils.files import check_writable
from tests.helpers.paths import ROOT

NETWORK = (
    "resolution: 32\nstages:\n  - {block: conv, out_channels: 8, stride: 2}\n"
    "  - {block: mbconv, out_channels: 16, stride: 2}\nhead: {block: classifier, num_classes: 10}\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(NETWORK)
    Path("bad.yaml").write_text(NETWORK.replace("16,", "16, se_ratio: 2.0,"))


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_python_m_nas_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nas", "lst"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "nas: error: unknown command 'lst'; did you mean 'list'?\n"


def test_a_file_in_place_of_a_folder_is_found_before_anything_is_measured(
    tiny_space: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.searching.job.select_tables", lambda context: pytest.fail("measured"))
    for folder in ("good.yaml/run", "/proc/run"):
        args = ["search", "--space", str(tiny_space), "--target-latency", "1ms", "--runtime", "null", "--run", folder]
        assert main([*args, "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"nas search: error: {folder}: cannot be written: ")
        assert said.count("\n") == 1


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "good.yaml"]

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nas.utils.files.tempfile.TemporaryFile", full)
    with pytest.raises(RunError, match="No space left on device"):
        check_writable(tmp_path)


def test_exported_files_can_be_read_by_those_who_may_read_the_folder(group_umask: None) -> None:
    assert main(["export", "good.yaml", "--out", "m", "--quiet"]) == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path("m").iterdir()}
    assert set(modes.values()) == {0o640}
    assert {"model.safetensors", "model.onnx", "card.json", "model.py"} <= set(modes)


@pytest.mark.parametrize(
    "command",
    [["show", "bad.yaml"], ["train", "bad.yaml"], ["export", "bad.yaml"], ["scale", "bad.yaml"],
     ["profile", "--space", "bad.yaml", "--runtime", "null"], ["check-proxy", "--space", "bad.yaml"],
     ["search", "--space", "bad.yaml", "--target-latency", "1ms", "--runtime", "null"],
     ["search", "e.yaml", "--target-latency", "1ms", "--runtime", "null"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_an_error_of_a_rule_of_a_block_names_the_file_and_the_stage(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("e.yaml").write_text("space: bad.yaml\n")
    assert main([*command, "--quiet"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("error: bad.yaml, stage 1, layer 0: mbconv: se_ratio must be in [0, 1]: 2.0")
