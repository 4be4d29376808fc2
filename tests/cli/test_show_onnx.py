"""`nas show` and `nas profile` of exported folders and of ONNX files from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nas.cli.main import main
from nas.networks.onnx_graph import read_graph

NETWORK = (
    "resolution: 16\nstages:\n  - {block: conv, out_channels: 8, stride: 2}\n"
    "  - {block: mbconv, out_channels: 16, stride: 2}\nhead: {block: classifier, num_classes: 10}\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result_of(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main([*argv, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def foreign(batch: Any = 1, size: Any = 8, op: str = "Softmax", domain: str = "", kind: int = TensorProto.FLOAT) -> Any:
    """A small graph from elsewhere: Conv 3x3, Gemm by a transposed weight, MatMul and another operator."""
    weights = {
        "conv": np.ones((4, 3, 3, 3), np.float32),
        "gemm": np.ones((5, 4), np.float32),
        "bias": np.ones(5, np.float32),
        "matmul": np.ones((5, 6), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["c"], "flat"),
        helper.make_node("Gemm", ["c", "gemm", "bias"], ["d"], "gemm", transB=1),
        helper.make_node("MatMul", ["d", "matmul"], ["e"], "mix"),
        helper.make_node(op, ["e"], ["y"], "last", domain=domain),
    ]
    graph = helper.make_graph(
        nodes, "foreign",
        [helper.make_tensor_value_info("x", kind, [batch, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_foreign_graph_is_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(foreign(), "f.onnx")
    shown = result_of(capsys, "show", "f.onnx")
    macs = {layer["name"]: layer["macs"] for layer in shown["layers"]}
    assert macs == {"first": 4 * 64 * 27, "pool": None, "flat": 0, "gemm": 20, "mix": 30, "last": None}
    assert (shown["macs"], shown["params"]) == (4 * 64 * 27 + 50, 108 + 25 + 30)
    assert shown["not_counted"] == {"GlobalAveragePool": 1, "Softmax": 1}
    assert main(["show", "f.onnx"]) == 0
    assert "MACs are not counted for 1 GlobalAveragePool, 1 Softmax" in capsys.readouterr().out


def test_convolutions_of_every_kind_are_counted(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((6, 1, 3, 3), np.float32), "w")
    up = numpy_helper.from_array(np.ones((6, 2, 2, 2), np.float32), "u")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "depthwise", group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "u"], ["y"], "up", strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weight, up],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "g.onnx")
    found = read_graph(tmp_path / "g.onnx").nodes
    assert [node.macs for node in found] == [6 * 16 * 9, 6 * 16 * 8]
    assert found[1].out_shape == (1, 2, 8, 8)


def test_an_open_batch_size_becomes_one_and_open_sizes_need_a_resolution(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(foreign("N"), "n.onnx")
    shown = result_of(capsys, "show", "n.onnx")
    assert shown["notes"] == ["the open batch size (N) of the input 'x' is set to 1"]
    assert shown["macs"] == 4 * 64 * 27 + 50
    onnx.save(foreign("N", "S"), "s.onnx")
    assert "dimension 2 (S) of the input 'x' is open; give --resolution" in refused(capsys, "show", "s.onnx")
    assert result_of(capsys, "show", "s.onnx", "--resolution", "16")["macs"] == 4 * 256 * 27 + 50


def test_external_data_lies_next_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(foreign("N"), "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    assert result_of(capsys, "show", "e.onnx")["params"] == 163
    assert result_of(capsys, "profile", "e.onnx")["latency_ms"] > 0
    Path("e.data").unlink()
    for command in ("show", "profile"):
        assert "e.onnx: " in refused(capsys, command, "e.onnx")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x08\x08", None], ids=["empty", "text", "no graph", "cut"])
def test_a_bad_file_is_one_line(content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("f.onnx").write_bytes(foreign().SerializeToString()[:300] if content is None else content)
    for command in ("show", "profile"):
        assert f"nas {command}: error: f.onnx: " in refused(capsys, command, "f.onnx")
        assert "none.onnx: no such file" in refused(capsys, command, "none.onnx")


def test_operators_of_others_are_listed_but_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(foreign(op="Own", domain="com.example"), "o.onnx")
    assert result_of(capsys, "show", "o.onnx")["not_counted"]["com.example.Own"] == 1
    assert "error: o.onnx: " in (message := refused(capsys, "profile", "o.onnx"))
    assert "Own" in message
    onnx.save(foreign(kind=TensorProto.INT64), "i.onnx")
    assert "the input 'x' is int64; only float32 inputs can be measured" in refused(capsys, "profile", "i.onnx")


def test_a_foreign_graph_is_measured_node_by_node(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(foreign("N"), "f.onnx")
    measured = result_of(capsys, "profile", "f.onnx")
    assert {"Conv", "Gemm", "MatMul", "Softmax"} <= {node["op"] for node in measured["nodes"]}
    assert all(node["ms"] >= 0 for node in measured["nodes"])
    assert 0 < measured["latency"]["p10"] <= measured["latency_ms"] <= measured["latency"]["p90"]
    assert (measured["settings"]["runtime"], measured["settings"]["threads"]) == ("onnxruntime", 1)
    assert measured["notes"] == ["the open batch size (N) of the input 'x' is set to 1"]
    assert "does not run ONNX files; onnxruntime" in refused(capsys, "profile", "f.onnx", "--runtime", "torch")
    assert "--space: cannot be combined with NETWORK" in refused(capsys, "profile", "f.onnx", "--space", "mnasnet")


def test_an_exported_folder_is_shown_and_measured_without_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.yaml").write_text(NETWORK)
    Path("runs/x").mkdir(parents=True)
    assert main(["export", "net.yaml", "--out", "runs/x/model", "--quiet"]) == 0
    Path("runs/x/model/model.py").write_text("raise SystemExit('executed')\n")
    capsys.readouterr()
    by_name = result_of(capsys, "show", "net.yaml")
    for name in ("runs/x", "runs/x/", "runs/x/model", "runs/x/model/card.json"):
        shown = result_of(capsys, "show", name)
        assert {key: shown[key] for key in ("architecture", "params", "macs", "layers")} == {
            key: by_name[key] for key in ("architecture", "params", "macs", "layers")
        }
    assert result_of(capsys, "show", "runs/x/model/model.onnx")["macs"] == by_name["macs"]
    measured = result_of(capsys, "profile", "runs/x")
    assert measured["nodes"]
    assert main(["profile", "runs/x/model"]) == 0
    said = capsys.readouterr().out
    assert "latency  " in said
    assert "onnxruntime" in said
    other = result_of(capsys, "profile", "runs/x", "--runtime", "null")
    assert other["notes"] == ["runs/x/model has no model.json: its network was exported again"]


@pytest.mark.parametrize("command", ["show", "profile"])
def test_another_folder_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert "empty: not an exported network: it has no card.json" in refused(capsys, command, "empty")
    Path("empty/card.json").write_text("{}")
    assert "empty" in refused(capsys, command, "empty")
    Path("cifar").mkdir()
    if command == "show":
        assert result_of(capsys, "show", "cifar")["size"] > 1
