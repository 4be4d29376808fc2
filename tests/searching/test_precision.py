"""A search for a device that computes in int8: candidates, winner and references are judged as quantized files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.cli.main import main
from nas.searching import winners
from nas.searching.settings import make_settings
from nas.searching.winner_training import WinnerTraining

SPACE = """
resolution: 16
stages:
  - {block: conv, out_channels: [8, 16], stride: 2}
  - {block: mbconv, out_channels: 16, stride: 2, expand_ratio: 2}
head: {block: classifier, hidden_channels: 16}
proxy: {resolution: 16, epochs: 1, images: 200}
final: {full_epochs: 1}
"""


def test_candidates_winner_and_reference_are_int8_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    reference = SPACE.replace("[8, 16]", "12").replace("proxy", "#").replace("final", "#")
    Path("other.yaml").write_text(reference)
    flags = ["--precision", "int8", "--target-latency", "1s", "--trials", "2", "--finalist-seeds", "0", "--run", "run"]
    assert main(["search", "--space", "space.yaml", *flags, "--against", "other.yaml", "--quiet"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    best, (against,) = result["best"], result["against"]
    assert result["settings"]["proxy"]["runtime"] == result["settings"]["runtime"] == "onnxruntime_int8"
    assert result["settings"]["precision"] == "int8"
    for each in (best, against):
        assert each["float32"].keys() == {"test_accuracy", "validation_accuracy"}
    assert best["exported"] == {"runtime": "onnxruntime_int8", "accuracy": best["test_accuracy"], "difference": 0.0}
    assert best["latency_ms"]["exported"] > 0
    assert best["size_bytes"] == Path("run/model/model.int8.onnx").stat().st_size
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["float32"] == best["float32"]
    assert card["measured_on"]["dtype"] == "int8"
    assert card["latency_ms"]["exported"] == best["latency_ms"]["exported"]
    assert Path("run/against-other/model.int8.onnx").is_file()
    table = json.loads(Path(result["settings"]["table"]).read_text().splitlines()[0])
    assert (table["runtime"], table["dtype"]) == ("onnxruntime_int8", "int8")


def test_a_precision_names_the_runtime_and_the_folder() -> None:
    settings = make_settings({"target_latency": "5ms", "precision": "int8", "runtime": "openvino"})
    assert settings.runtime == "openvino_int8"
    assert settings.folder == Path("runs/mnasnet-digits-5ms-soft-int8-seed0")
    assert make_settings({"target_latency": "5ms", "precision": "float32"}).runtime == "onnxruntime"
    assert make_settings({"precision": "float32", "runtime": "onnxruntime_int8"}).runtime == "onnxruntime"


@pytest.mark.parametrize(
    ("drops", "validations", "chosen", "warned"),
    [
        ([0.0, 0.0], [0.5, 0.9], 0, 0),
        ([0.2, 0.01, 0.0], [0.5, 0.6, 0.9], 1, 1),
        ([0.2, 0.1], [0.5, 0.6], 1, 2),
        ([0.2, 0.1, 0.3, 0.0], [0.7, 0.6, 0.1, 0.9], 0, 3),
    ],
)
def test_a_finalist_that_quantization_ruins_is_replaced_by_the_next(
    drops: list[float], validations: list[float], chosen: int, warned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalists: list[Any] = [
        SimpleNamespace(trial=SimpleNamespace(digest=f"n{number}", architecture=number), holds=lambda target_ms: True)
        for number in range(len(drops))
    ]

    def train_once(search: Any, goal: Any, number: int) -> tuple[None, Any]:
        validation = {"validation_accuracy": validations[number]}
        return None, SimpleNamespace(
            drop=drops[number], validation=validation, report=SimpleNamespace(metric="accuracy")
        )

    monkeypatch.setattr(winners, "train_once", train_once)
    warnings = list[str]()
    settings, reporter = SimpleNamespace(runtime="onnxruntime_int8"), SimpleNamespace(warn=warnings.append)
    search: Any = SimpleNamespace(context=SimpleNamespace(settings=settings, reporter=reporter))
    goal: Any = SimpleNamespace(target_ms=2.0)
    found, _, training = winners.train_first_sound(search, goal, finalists)
    assert found is finalists[chosen]
    assert training.validation["validation_accuracy"] == validations[chosen]
    assert len(warnings) == warned
    assert all("onnxruntime_int8 costs" in text for text in warnings)


def test_the_drop_is_that_of_the_validation_images() -> None:
    report: Any = SimpleNamespace(metric="accuracy")
    training = WinnerTraining(report, {"validation_accuracy": 0.5}, [], float32={"validation_accuracy": 0.625})
    assert training.drop == 0.125
    assert WinnerTraining(report, {"validation_accuracy": 0.5}, []).drop == 0.0
