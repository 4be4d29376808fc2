"""`nas compare`: networks beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.latency.side_by_side import PROTOCOL, ROUNDS

NETWORK = """
resolution: 16
stages:
  - {block: conv, out_channels: 8, stride: 2}
head: {block: classifier, hidden_channels: 16, num_classes: 10}
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The result of a training in the folder `run`, beside `net.yaml`."""
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    assert main(["train", "net.yaml", "--epochs", "2", "--out", "run", "--quiet"]) == 0
    result: dict[str, Any] = json.loads(Path("run/result.json").read_text())
    return result


def test_a_run_in_two_precisions_an_onnx_file_and_a_fresh_network(
    trained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ["run", "run/model/model.onnx", "net.yaml"]
    capsys.readouterr()
    assert main(["compare", *sources, "--data", "digits", "--json", "--quiet"]) == 0
    run, file, fresh = json.loads(capsys.readouterr().out)["networks"]
    assert run["test_accuracy"] == file["test_accuracy"] == pytest.approx(trained["test_accuracy"])
    assert run["recorded"] == {"test_accuracy": trained["test_accuracy"]}
    assert fresh["test_accuracy"] < 0.5
    assert fresh["notes"] == ["not trained"]
    assert run["size_bytes"] == Path("run/model/model.onnx").stat().st_size
    assert all(0 < each["p10"] <= each["latency_ms"] <= each["p90"] for each in (run, file, fresh))
    assert main(["compare", "run", "--data", "digits", "--precision", "float32,int8", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime_int8" in out
    assert "1.00" in out


def test_runtimes_take_turns(
    monkeypatch: pytest.MonkeyPatch, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas.devices.client import RestartingWorker

    seen = list[int]()
    measure = RestartingWorker.measure

    def noted(self: RestartingWorker, graphs: Any, protocol: Any, seed: int) -> Any:
        seen.append(len(graphs))
        return measure(self, graphs, protocol, seed)

    monkeypatch.setattr(RestartingWorker, "measure", noted)
    command = ["compare", "run", "net.yaml", "--runtime", "null", "--precision", "float32,int8", "--json", "--quiet"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["networks"]
    assert seen == [2, 2] * ROUNDS
    assert [each["runtime"] for each in found] == ["null", "null_int8", "null", "null_int8"]
    assert found[1]["notes"] == ["its ranges are random, without --data"]
    assert "test_accuracy" not in found[0]
    assert PROTOCOL.visits * ROUNDS >= 30


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothing_like_it"], "unknown network 'nothing_like_it'"),
        (["run", "--threads", "0"], "--threads: must be at least 1: 0"),
        (["run", "--precision", "int7"], "unknown precision 'int7'; did you mean 'int8'"),
        (["run/model/model.onnx", "--runtime", "torch"], "does not run ONNX files such as run/model/model.onnx"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["compare", *flags, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nas compare: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_data_that_does_not_fit_is_one_line_before_anything_is_measured(
    trained: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.latency.side_by_side.measure_side_by_side", lambda *_: pytest.fail("measured"))
    assert main(["export", "run", "--batch", "8", "--out", "eight", "--quiet"]) == 0
    Path("five.yaml").write_text(NETWORK.replace("num_classes: 10", "num_classes: 5"))
    for source, message in (
        ("eight/model.onnx", "takes 8x3x16x16, not one image 1xCxHxW"),
        ("five.yaml", "'digits' has 10 classes"),
    ):
        assert main(["compare", source, "--data", "digits", "--quiet"]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", "run", "--data", "no_such_folder", "--quiet"]) == 2
    assert main(["compare", "run/model/model.onnx", "--precision", "int8", "--quiet"]) == 2
    assert "does not run ONNX files such as run/model/model.onnx" in capsys.readouterr().err


def test_files_of_the_same_name_are_several_files_on_a_device(
    trained: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas.devices.client import RestartingWorker, graph_files

    names = list[str]()
    measure = RestartingWorker.measure

    def noted(self: RestartingWorker, graphs: Any, protocol: Any, seed: int) -> Any:
        names.extend(graph_files(graphs))
        return measure(self, graphs, protocol, seed)

    monkeypatch.setattr(RestartingWorker, "measure", noted)
    assert main(["export", "net.yaml", "--out", "fresh", "--quiet"]) == 0
    assert main(["compare", "run", "fresh", "--quiet"]) == 0
    assert sorted(set(names)) == ["graphs/n0.onnx", "graphs/n1.onnx"]


def test_a_file_of_eight_images_is_exported_again_to_be_measured(
    trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "run", "--batch", "8", "--out", "eight", "--quiet"]) == 0
    assert main(["profile", "eight", "--quiet"]) == 0
    assert "eight has no model.onnx of one image: its network was exported again" in capsys.readouterr().out


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_are_the_slowest_nodes_of_the_runtime(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(runtime, reason=f"needs {runtime}")
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    assert main(["compare", "net.yaml", "--runtime", runtime, "--layers", "2", "--quiet", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["networks"]
    times = [node["ms"] for node in found["layers"]]
    assert len(times) == 2 and times == sorted(times, reverse=True) and times[-1] >= 0
    assert all(node["op"] and node["name"] and 0 <= node["share"] <= 1 for node in found["layers"])


def test_a_runtime_without_a_profiler_says_which_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK)
    assert main(["compare", "net.yaml", "--runtime", "torch", "--layers", "2", "--quiet"]) == 2
    assert "times no nodes; onnxruntime, onnxruntime_int8, openvino" in capsys.readouterr().err
