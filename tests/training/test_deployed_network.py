"""Networks in int8: tested as the exported file that a runtime quantized."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from torch import nn

from nas.architecture import Architecture
from nas.cli.main import main
from nas.devices.runtimes import make_runtime
from nas.errors import DataError, ExportError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.networks.export import export_folder
from nas.networks.network import build
from nas.spaces.yaml_format import load_space, parse_space
from nas.training.deployed_network import (
    CALIBRATION_IMAGES,
    calibration_images,
    deployed,
    deployed_reports,
    must_deploy,
)
from nas.training.tasks.classification import Classification

INT8 = "onnxruntime_int8"
SMALL = """
resolution: 16
stages:
  - {block: conv, out_channels: 16, stride: 2}
  - {block: mbconv, out_channels: 24, stride: 2, expand_ratio: 2, activation: hard_swish}
head: {block: classifier, hidden_channels: 32, num_classes: 10}
"""


@pytest.fixture(scope="module")
def digits() -> Classification:
    return Classification.load("digits")


def small() -> Architecture:
    return parse_space("small", yaml.safe_load(SMALL), "small.yaml").decode({})


def trained(task: Classification) -> nn.Module:
    """A network that has seen the digits, so that its outputs differ from image to image."""
    torch.manual_seed(0)
    model = build(small())
    images = calibration_images(task, 16)
    labels = torch.tensor([task.calibration_set(16, CALIBRATION_IMAGES)[index][1] for index in range(len(images))])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        model(images)
    return model.eval()


def test_calibration_images_are_of_all_classes_and_not_augmented(digits: Classification) -> None:
    images = calibration_images(digits, 16)
    assert images.shape == (CALIBRATION_IMAGES, 3, 16, 16)
    assert torch.equal(images, calibration_images(digits, 16))
    part = digits.calibration_set(16, CALIBRATION_IMAGES)
    assert {part[index][1] for index in range(len(part))} == set(range(10))


def test_too_few_images_are_refused(digits: Classification) -> None:
    few = Classification(replace(digits.data, train=digits.data.train.take(list(range(7)))))
    with pytest.raises(DataError, match="'digits' has 7 training images; int8 needs at least 8"):
        calibration_images(few, 16)


def test_a_network_is_tested_as_the_quantized_file(digits: Classification) -> None:
    model, test_set = trained(digits), digits.test_set(16)
    float32 = digits.evaluate(model, test_set, torch.device("cpu"))
    (int8,) = deployed_reports(digits, model, INT8, 16, [test_set])
    assert int8.metric_value > 0.5
    assert abs(int8.metric_value - float32.metric_value) < 0.1
    images = calibration_images(digits, 16)[:4]
    with deployed(model, INT8, (3, 16, 16), calibration_images(digits, 16)) as network, torch.no_grad():
        assert not torch.equal(network(images), model(images)), "it is quantized"
        assert torch.equal(network(images[2:3]), network(images)[2:3]), "each image alone"
    assert deployed_reports(digits, model, "onnxruntime", 16, [test_set]) == []
    assert not must_deploy("null_int8"), "it computes nothing"


def test_the_last_accuracy_of_a_candidate_is_that_of_the_quantized_network(
    digits: Classification, tiny_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space(str(tiny_space)).for_classes(10)
    space = replace(space, proxy=replace(space.proxy, epochs=2))
    context = EvaluatorContext(digits, space, Path(), runtime=INT8)
    arch = space.decode({key: values[0] for key, values in space.choices.items()})
    usual = list(ProxyTraining(replace(context, runtime="onnxruntime"), keeps_stuck=True).evaluate(arch, 0))
    evaluator = ProxyTraining(context, keeps_stuck=True)
    values = list(evaluator.evaluate(arch, 0))
    assert values[:1] == usual[:1]
    assert len(values) == 2
    assert evaluator.settings["runtime"] == INT8
    asked = list[str]()

    def other(task: object, model: object, runtime: str, resolution: int, sets: list[object]) -> list[object]:
        asked.append(runtime)
        return [type("Tested", (), {"metric_value": 0.125})()]

    monkeypatch.setattr("nas.evaluators.proxy_training.deployed_reports", other)
    assert list(evaluator.evaluate(arch, 0)) == [usual[0], 0.125]
    assert asked == [INT8]


def test_a_training_exports_tests_and_records_the_int8_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    command = ["train", "small.yaml", "--epochs", "2", "--images", "600", "--out", "run", "--quiet"]
    assert main([*command, "--precision", "int8"]) == 0
    assert "in float32" in capsys.readouterr().out
    result, card = (json.loads(Path("run", name).read_text()) for name in ("result.json", "model/card.json"))
    assert result["exported"] == {"runtime": INT8, "accuracy": result["test_accuracy"], "difference": 0.0}
    assert abs(result["float32"]["test_accuracy"] - result["test_accuracy"]) < 0.2
    assert card["float32"] == result["float32"]
    assert card["test_accuracy"] == result["test_accuracy"]
    ops = {node.op_type for node in read_onnx(Path("run/model/model.int8.onnx"))}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    export = ["export", "run", "--out", "again", "--quiet"]
    assert main([*export, "--precision", "int8"]) == 2
    assert (
        capsys.readouterr().err
        == "nas export: error: --data: int8 needs images, which decide the ranges of activations\n"
    )
    assert not Path("again").exists()
    assert main([*export, "--data", "digits"]) == 2
    assert "--data: has an effect in int8 only: give --precision int8: 'digits'" in capsys.readouterr().err
    assert main([*export, "--precision", "int8", "--data", "digits"]) == 0
    files = Path("run/model/model.int8.onnx"), Path("again/model.int8.onnx")
    image = calibration_images(Classification.load("digits"), 16)[:1].numpy()
    outputs = [onnxruntime.InferenceSession(file).run(None, {"images": image})[0] for file in files]
    assert (outputs[0] == outputs[1]).all(), "the same images give the same ranges"


def read_onnx(path: Path) -> list[onnxruntime.NodeArg]:
    import onnx

    return list(onnx.load(path).graph.node)


def test_a_quantized_file_at_chance_is_refused(digits: Classification, tmp_path: Path) -> None:
    images, model = calibration_images(digits, 16), trained(digits)
    with torch.no_grad():
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert head.bias is not None
        head.bias[0] += 1e5
    with pytest.raises(
        ExportError,
        match=r"model\.int8\.onnx: the error of its output .*; the layer that loses most is '\w+' \(an error of \d+%\)",
    ):
        export_folder(small(), model, tmp_path / "out", INT8, {}, images=images)
    assert not (tmp_path / "out").exists()


def test_int8_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 needs images"):
        export_folder(small(), build(small()).eval(), tmp_path / "out", INT8, {})


def test_a_runtime_without_int8_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--target-latency", "5ms", "--runtime", "ncnn", "--precision", "int8"]) == 2
    error = "--precision: runtime 'ncnn' has none, onnxruntime, openvino, executorch, litert have: 'int8'"
    assert capsys.readouterr().err == f"nas search: error: {error}\n"
    detect = ["search", "--target-latency", "5ms", "--task", "detection", "--precision", "int8"]
    assert main(detect) == main(["train", "efficientdet_d0", *detect[3:]]) == 2
    assert capsys.readouterr().err.count("--precision: detectors are deployed in float32 only: 'int8'\n") == 2
    assert main(["profile", "--precision", "int9"]) == 2
    assert "unknown precision 'int9'" in capsys.readouterr().err
    assert make_runtime(INT8).precision == "int8"


def test_a_half_precision_that_overflows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.devices.runtimes.torch.TorchRuntime._check_processor", lambda self: None)
    model = build(small()).eval()
    export_folder(small(), model, tmp_path / "out", "torch_float16", {})
    assert (tmp_path / "out" / "model.float16.pt2").is_file()
    with torch.no_grad():
        next(model.parameters()).mul_(1e6)
        [module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight.fill_(1e5)
    with pytest.raises(ExportError, match=r"model\.float16\.pt2: its output is not finite"):
        export_folder(small(), model, tmp_path / "other", "torch_float16", {})
