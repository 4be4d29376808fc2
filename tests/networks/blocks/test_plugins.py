"""A block of another installed package is searched, simplified, scaled, drawn, listed and exported as ours are."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.networks.block_schema import block_spec, simplify
from nas.networks.standalone.source import standalone_source
from nas.scaling.scale import scale
from nas.scaling.sizes import Factors
from nas.spaces.yaml_format import load_architecture

PACKAGE = """
from torch import Tensor, nn


class Gated(nn.Module):
    \"\"\"1x1 with a gate [+ input].\"\"\"

    def __init__(self, in_channels: int, *, out_channels: int = 8, skip: bool = False, identity: str = "none"):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sigmoid()


class Bridge(nn.Module):
    \"\"\"1x1 to `width` channels, between stages.\"\"\"

    width_keywords = ("width",)
    repeatable = False

    @staticmethod
    def canonical_args(in_channels, args):
        return {} if args["gate"] else {"gate_slope": 1.0}

    def __init__(self, in_channels: int, *, width: int, gate: bool = False, gate_slope: float = 1.0):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)
"""
NETWORK = """
resolution: 32
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: gated, out_channels: 16, skip: true, identity: conv}
  - {block: bridge, width: 24, gate_slope: 2.0}
  - {block: gated, out_channels: 24}
head: {block: classifier, num_classes: 10}
"""


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package with the block `gated`; return the file of a network with it."""
    (tmp_path / "gated_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "nas.blocks": [
            EntryPoint("gated", "gated_package:Gated", "nas.blocks"),
            EntryPoint("bridge", "gated_package:Bridge", "nas.blocks"),
        ]
    }
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


def test_a_block_of_another_package_declares_its_traits_as_ours_do(gated: Path) -> None:
    written = block_spec("bridge", {"width": 24, "gate_slope": 2.0})
    assert simplify(written, 16) == block_spec("bridge", {"width": 24})
    opened = block_spec("bridge", {"width": 24, "gate": True, "gate_slope": 2.0})
    assert simplify(opened, 16) == opened
    arch = load_architecture(str(gated))
    scaled = scale(arch, Factors(depth=2.0, width=2.0))
    assert [len(stage) for stage in scaled.stages] == [1, 2, 1, 2]
    assert scaled.stages[2][0].kwargs["width"] == 48


def test_the_exported_source_of_a_block_holds_none_of_its_traits(gated: Path) -> None:
    text = standalone_source(load_architecture(str(gated)), "gated")
    assert "class Bridge(nn.Module):" in text and "class Gated(nn.Module):" in text
    for trait in ("canonical_args", "width_keywords", "repeatable", "repeats_alone", "staticmethod", "canonical_skip"):
        assert trait not in text
    compile(text, "model.py", "exec")
    assert standalone_source(load_architecture(str(gated)), "gated") == text  # the second time, sources are known
