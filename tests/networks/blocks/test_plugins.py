"""A block of another installed package: searched, drawn, listed and counted as ours are."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nas.cli.main import main

PACKAGE = """
from torch import Tensor, nn


class Gated(nn.Module):
    \"\"\"1x1 with a gate [+ input].\"\"\"

    def __init__(self, in_channels: int, *, out_channels: int = 8, skip: bool = False, identity: str = "none"):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sigmoid()
"""
NETWORK = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: gated, out_channels: 16, skip: true, identity: conv}
head: {block: classifier, num_classes: 10}
"""


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package with the block `gated`; return the file of a network with it."""
    (tmp_path / "gated_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    points = {"nas.networks.blocks": [EntryPoint("gated", "gated_package:Gated", "nas.networks.blocks")]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points.get(group, []))
    yield_path = tmp_path / "gated.yaml"
    yield_path.write_text(NETWORK)
    return yield_path


def test_a_block_of_another_package_is_drawn_counted_and_listed(
    gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "network.svg"
    assert main(["show", str(gated), "--svg", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] > 8 * 16
    assert "gated" in picture.read_text()
    assert main(["list", "blocks", "--json"]) == 0
    listed = {row["name"]: row["about"] for row in json.loads(capsys.readouterr().out)}
    assert listed["gated"] == "1x1 with a gate [+ input]."
    assert "gated_package" in sys.modules
