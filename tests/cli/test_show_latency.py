"""`nas show SPACE --table`: figures, plots, and one line for each invalid flag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from nas.cli.main import main
from nas.latency.profiler import default_table_path, table_header
from nas.latency.table import LatencyTable
from nas.networks.network import canonical
from nas.spaces.automaton import reachable
from nas.spaces.search_space import enumerate_choices
from nas.spaces.yaml_format import load_space


@pytest.fixture
def table(tiny_space: Path, tmp_path: Path) -> LatencyTable:
    """A table of all layers of the tiny space, with pseudo-random times."""
    table = LatencyTable.open(tmp_path / "table.jsonl", table_header("null", 1))
    rng = np.random.default_rng(0)
    table.append((layer, [(0.0, float(ms))]) for layer, ms in _with(reachable(load_space(str(tiny_space))), rng))
    return table


def _with(layers: list[Any], rng: np.random.Generator) -> list[tuple[Any, float]]:
    return list(zip(layers, 0.1 + rng.random(len(layers)), strict=True))


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["show", *argv, "--json", "--quiet"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["show", *argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_numbers_are_those_of_all_networks(
    table: LatencyTable, tiny_space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space(str(tiny_space))
    archs = {canonical(arch) for arch in enumerate_choices(lambda choose: space.walk(choose)[0])}
    ordered = np.sort([table.predictor("").predict(arch) for arch in archs])
    target = float(np.quantile(ordered, 0.35))
    result = shown(capsys, str(tiny_space), "--table", str(table.path), "--target-latency", f"{target}ms")
    found = result["latency"]
    assert result["size"] == space.size
    assert found["networks"] == len(ordered) < space.size
    assert (found["fastest_ms"], found["slowest_ms"]) == pytest.approx((ordered[0], ordered[-1]))
    assert found["quantiles_ms"]["0.5"] == pytest.approx(np.median(ordered), abs=0.1)
    assert sum(found["histogram"]["shares"]) == pytest.approx(1.0)
    assert len(found["histogram"]["edges_ms"]) == len(found["histogram"]["shares"]) + 1
    bounds = found["target"]["networks"]
    assert bounds["low"] <= (ordered <= target).sum() <= bounds["high"]
    assert found["target"]["share"] == pytest.approx((ordered <= target).mean(), abs=0.02)
    assert (found["runtime"], found["threads"]) == ("null", 1)


def test_this_machines_own_table_is_found(
    table: LatencyTable, tiny_space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = default_table_path(table.header)
    args = (str(tiny_space), "--runtime", "null")
    assert "no such latency table; 'nas profile --space " in refused(capsys, *args)
    own.parent.mkdir(parents=True)
    table.path.rename(own)
    assert shown(capsys, *args)["latency"] == shown(capsys, *args, "--table", "default")["latency"]
    assert "t2" in refused(capsys, *args, "--threads", "2")


def test_the_terminal_has_quantiles_histogram_and_target(
    table: LatencyTable, tiny_space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tiny_space), "--table", str(table.path), "--target-latency", "0.1ms", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("fastest", "1 %", "10 %", "median", "90 %", "slowest"))
    assert "█" in out or "#" in out
    assert "0.0% of them, about 0, are within 0.1 ms" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_distribution_is_drawn(
    suffix: str, table: LatencyTable, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / f"latency.{suffix}"
    args = (str(tiny_space), "--table", str(table.path), "--plot", str(picture), "--target-latency", "2ms")
    assert shown(capsys, *args)["latency"]["plot"] == str(picture)
    if suffix == "png":
        assert Image.open(picture).size > (500, 300)
    else:
        assert ET.parse(picture).getroot().tag.endswith("svg")


def test_a_table_that_does_not_cover_the_space_names_a_layer(
    table: LatencyTable, tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "x.png"
    args = (str(tiny_space), "--table", str(table.path), "--classes", "3", "--plot", str(picture))
    line = refused(capsys, *args)
    assert "num_classes=3" in line
    assert "is not covered; nearest is classifier(" in line
    assert not picture.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mobilenet_v2_1.0", "--table", "default"], "--table: applies to search spaces only"),
        (["mobilenet_v2_1.0", "--target-latency", "5ms"], "--target-latency: applies to search spaces only"),
        (["mobile", "--table", "none.jsonl"], "none.jsonl: no such latency table"),
        (["mobile", "--table", "none.jsonl", "--threads", "2"], "--threads: selects this machine's table"),
        (["mobile", "--threads", "0"], "--threads: must be at least 1: 0"),
        (["mobile", "--runtime", "onxruntime"], "did you mean 'onnxruntime'?"),
        (["mobile", "--target-latency", "20"], "a latency needs a unit"),
        (["mobile", "--plot", "x.pdf"], "--plot: must end in .png or .svg: 'x.pdf'"),
        (["mobile", "--plot", "none/x.png"], "--plot: none/x.png cannot be written: no such folder: 'none'"),
        (["mobile", "--classes", "0"], "--classes: must be at least 1: 0"),
    ],
)
def test_a_wrong_flag_is_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *args)
