"""Published tables are recognized by their content: JSON where YAML is read, YAML where JSON is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli.main import main
from nas.errors import TableError
from nas.latency.published import read_published
from nas.networks.network import input_shapes
from nas.spaces.automaton import reachable
from nas.spaces.yaml_format import load_space


def keyed() -> dict[str, dict[str, float]]:
    """ProxylessNAS's keys of its space, with made-up times."""
    found = {}
    for index, layer in enumerate(reachable(load_space("proxylessnas")), start=1):
        (channels, height, width), *_ = input_shapes(layer)
        shapes, args = f"input:{height}x{width}x{channels}-output:", layer.spec.kwargs
        value = {"mean": float(index), "count": 3}
        if layer.spec.op == "classifier":
            found[f"Conv_1-{shapes}{height}x{width}x1280"] = value
            found[f"Logits-input:{height}x{width}x1280-output:1000"] = value
            continue
        out, *size = layer.out_shape
        shapes += f"{size[0]}x{size[1]}x{out}"
        stride = args.get("stride", 1)
        tail = (
            f"-expand:{args.get('expand_ratio', 6.0):.0f}-kernel:{args.get('kernel_size', 3)}-stride:{stride}"
            f"-idskip:{int(stride == 1 and channels == out)}"
        )
        found[f"Conv-{shapes}" if layer.spec.op == "conv" else f"expanded_conv-{shapes}{tail}"] = value
    return found


def single_path() -> dict[int, dict[int, float]]:
    return {layer: {choice: 1.0 + layer + choice / 10 for choice in range(4)} for layer in range(22)}


@pytest.mark.parametrize("name", ["t.json", "t.yaml", "t.txt", "t"])
@pytest.mark.parametrize("content", [keyed(), single_path()], ids=["keyed", "single-path"])
def test_json_and_yaml_of_the_same_values_are_the_same_table(name: str, content: Any, tmp_path: Path) -> None:
    texts = (json.dumps(content), json.dumps(content, indent="\t"), yaml.safe_dump(content, sort_keys=False))
    tables = []
    for text in texts:
        (tmp_path / name).write_text(text)
        tables.append(read_published([tmp_path / name]))
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0].rows) > 20


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"Conv-input:1x1x1-output:1": 3}', "must be a mapping with 'mean'"),
        ('{"Conv-input:1x1x1-output:1": {"mean": -1}}', "must be a finite number above zero"),
        ('{"Conv-input:1x1x1-output:1": {"mean": 1}, "Conv-input:1x1x1-output:1": {"mean": 2}}', "appears twice"),
        ('{"Conv-input:1x1x1-output:1": ', "invalid JSON, the file may be cut off"),
        ("some text", "not a published latency table"),
        ("{a: b", "invalid JSON"),
        ("3: [", "not a published latency table"),
    ],
)
def test_broken_files_are_one_line(text: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(TableError, match=rule):
        read_published([tmp_path / "t.json"])
    assert main(["profile", "--import", str(tmp_path / "t.json"), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("cache/latency_tables/**/*.jsonl"))
