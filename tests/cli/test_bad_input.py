"""Blocks that cannot be and checkpoints that do not fit, as a user of the commands meets them: one line, status 2."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.cli.main import main
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture

NAME = "mobilenet_v2_0.35"
FIRST = "stages.0.0.conv.0.weight"
State = dict[str, Tensor]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line of error that a command prints."""
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{block: conv, out_channels: 24, groups: 5}", "stage 1.* groups must divide the channels: 16 -> 24, groups 5"),
        ("{block: shufflenet_v1, out_channels: 32, groups: 3}", "groups must divide the channels: 16 -> 8, groups 3"),
        ("{block: squeezenext, out_channels: 24, groups: 4}", "groups must divide 16 and a quarter of 24: 4"),
        ("{block: condense, growth_rate: 8, groups: 3}", "groups must divide the channels: 32 -> 8, groups 3"),
        ("{block: mbconv, out_channels: 24, expand_ratio: 0.5}", "stage 1.* expand_ratio must be at least 1: 0.5"),
        ("{block: fused_mbconv, out_channels: 24, expand_ratio: 0.5}", "expand_ratio must be at least 1: 0.5"),
        ("{block: conv, out_channels: 24, activation: tanh}", "stage 1: activation: must be one of none, .*'tanh'"),
        ("{block: mbconv, out_channels: 24, kernel_size: 4}", "stage 1.* kernel_size must be odd and at least 1: 4"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_is_named_with_its_stage(
    block: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    stem = "{block: conv, out_channels: 16, stride: 2}"
    path.write_text(f"resolution: 32\nstages:\n  - {stem}\n  - {block}\nhead: {{block: classifier}}\n")
    line = refused(capsys, "show", str(path))
    assert re.search(message, line), line
    assert re.search(message, refused(capsys, "export", str(path), "--out", str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


class Runs:
    """A pickle that leaves a file behind where it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (Path("ran"),)


def without_first(state: State) -> State:
    return {key: value for key, value in state.items() if key != FIRST}


def with_one_more(state: State) -> State:
    return {**state, "stages.99.weight": torch.zeros(3)}


def misshapen(state: State) -> State:
    return {**state, FIRST: state[FIRST][:, :1]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_first, f"the tensor '{FIRST}' is missing"),
        (with_one_more, "the tensor 'stages.99.weight' belongs to no layer"),
        (misshapen, f"'{FIRST}' has the shape (16, 1, 3, 3), but '{FIRST}' needs (16, 3, 3, 3)"),
        (lambda _: {"state_dict": Runs()}, "contains more than tensors"),
    ],
    ids=["missing", "extra", "misshapen", "code"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_tensor(
    spoil: Callable[[State], Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(spoil(build(load_architecture(NAME)).state_dict()), "bad.pth")
    line = refused(capsys, "export", NAME, "--weights", "bad.pth", "--out", "out")
    assert "bad.pth: " in line
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"bad.pth"}


def test_the_command_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serch", "--target-latency", "5ms"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "nas: error: unknown command 'serch'; did you mean 'search'?\n"


@pytest.mark.parametrize("arguments", [("list", "presets"), ("list", "presets", "--json")])
def test_a_closed_pipe_is_no_traceback(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "nas.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout
        assert started.stderr
        started.stdout.close()
        said = started.stderr.read().decode()
    assert (started.returncode, said) == (1, "")


@pytest.mark.parametrize("key", ["data", "out", "init-from"])
def test_the_home_of_an_unknown_user_is_refused(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "train", NAME, f"--{key}", "~nobody-of-this-name/pets")
    assert f"--{key}: there is no home folder '~nobody-of-this-name': '~nobody-of-this-name/pets'" in line


def test_an_empty_data_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data: must not be empty" in refused(capsys, "train", NAME, "--data", "")
