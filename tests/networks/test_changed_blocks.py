"""Weights of a network whose block has changed since its training: nothing is exported or measured with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nas.cli.main import main
from nas.networks.blocks import find_block
from nas.networks.export import export_folder
from nas.networks.network import build
from nas.spaces.yaml_format import parse_space

MODULE = """
from torch import nn

class Own(nn.Module):
    def __init__(self, in_channels: int, *, out_channels: int = 8):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        return self.layer(x)
"""
NETWORK = """
resolution: 8
stages: [{block: "changed_block:Own"}]
head: {block: classifier, num_classes: 10}
"""


@pytest.mark.parametrize("command", [["export", "model", "--out", "again"], ["profile", "model", "--runtime", "torch"]])
def test_weights_are_refused_if_the_code_of_a_block_has_changed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("changed_block.py").write_text(MODULE)
    arch = parse_space("net", yaml.safe_load(NETWORK), "net.yaml").decode({})
    export_folder(arch, build(arch), tmp_path / "model", "onnxruntime", {})
    block = find_block("changed_block:Own")
    former = block.forward
    monkeypatch.setattr(block, "forward", lambda self, x: 2 - former(self, x))
    assert main([*command, "--quiet"]) == 2
    rule = "does not compute what it did when this network was trained: its code has changed since"
    assert f"model/card.json: block: {rule}: 'changed_block:Own'" in capsys.readouterr().err
    assert not Path("again").exists()


@pytest.mark.parametrize("command", [["show"], ["export"], ["train"]])
def test_an_error_of_a_block_names_the_run_folder(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arch = parse_space(
        "net", yaml.safe_load(NETWORK.replace('changed_block:Own"', 'conv", out_channels: 4')), "net.yaml"
    ).decode({})
    export_folder(arch, build(arch), tmp_path / "model", "onnxruntime", {})
    card = Path("model/card.json")
    card.write_text(card.read_text().replace('"conv"', '"gone_module:Own"'))
    assert main([*command, "model"]) == 2
    message = capsys.readouterr().err
    assert "error: model" in message
    assert ", stage 0, layer 0: block: no such module" in message
