"""A training that taught nothing is reported, recorded, and fails a candidate of a search."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.cli.main import main
from nas.errors import WeightsError
from nas.networks.network import Network, build, build_seeded
from nas.spaces.yaml_format import parse_space
from nas.training.checkpoint import RENEWED, load_checkpoint, save_checkpoint
from nas.training.state import Epoch
from nas.training.stuck import chance_loss, constant_output
from nas.training.tasks.classification import Classification

NETWORK = """
resolution: 8
stages: [{block: conv, out_channels: 4, stride: 2}]
head: {block: classifier, num_classes: 10}
"""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification.load("digits")


def dead(network: Network) -> Network:
    """Return the network with a classifier that no feature reaches, as after a ReLU that is never positive."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            module.weight.requires_grad_(False)
    return network


def small() -> Network:
    text = {"resolution": 8, "stages": [{"block": "conv", "out_channels": 4}],
            "head": {"block": "classifier", "num_classes": 10}}  # fmt: skip
    return build(parse_space("small", text, "small").decode({}))


def test_only_equal_outputs_for_all_images_are_constant(task: Classification) -> None:
    images = task.validation_set(8)
    assert constant_output(small(), task, images, CPU) == ""
    assert "the same output for every image" in constant_output(dead(small()), task, images, CPU)
    weak = dead(small())
    for module in weak.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1e-4)
            nn.init.normal_(module.bias)
    assert constant_output(weak, task, images, CPU) == ""


@pytest.mark.parametrize(
    ("losses", "accuracies", "is_stuck"),
    [
        ([2.31, 2.3026], [0.1, 0.11], True),
        ([2.31, 2.25], [0.1, 0.11], False),
        ([2.31, 2.3026], [0.1, 0.3], False),
        ([2.31, 2.3026], [0.3, 0.1], True),
        ([], [], False),
    ],
)
def test_the_loss_of_guessing(
    losses: list[float], accuracies: list[float], is_stuck: bool, task: Classification
) -> None:
    curve = [Epoch(i, loss, acc, 0.1, 1.0) for i, (loss, acc) in enumerate(zip(losses, accuracies, strict=True))]
    reason = chance_loss(curve, task, 300)
    assert bool(reason) == is_stuck
    assert not is_stuck or f"ln(10) = {math.log(10):.3f}" in reason


def test_a_training_that_learns_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.yaml").write_text(NETWORK)
    monkeypatch.setattr("nas.training.initial_weights.build_seeded", lambda *args: dead(build_seeded(*args)))
    command = ["train", str(tmp_path / "net.yaml"), "--epochs", "1", "--images", "64", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    reason = "the network gives the same output for every image, so it learned nothing"
    assert f"warning: {reason}" in capsys.readouterr().err
    for file in ("result.json", "model/card.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["training_problem"] == reason


@pytest.mark.parametrize("options", [[], ["--finalists", "2"]])
def test_a_candidate_that_learns_nothing_fails_with_the_reason(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = NETWORK.replace("out_channels: 4", "out_channels: [4, 8]") + (
        "proxy: {resolution: 8, epochs: 1, images: 64}\nfinal: {epochs: 1, images: 64}\n"
    )
    (tmp_path / "own.yaml").write_text(space)
    monkeypatch.setattr("nas.evaluators.proxy_training.build_seeded", lambda *args: dead(build_seeded(*args)))
    command = ["search", "--space", str(tmp_path / "own.yaml"), "--target-latency", "1000ms", "--data", "digits"]
    command += ["--runtime", "null", "--trials", "2", "--run", str(tmp_path / "run"), *options]
    assert main(command) == 2
    assert "the network gives the same output for every image" in capsys.readouterr().err


def test_a_checkpoint_from_before_other_first_weights_is_continued(tmp_path: Path) -> None:
    path, before = tmp_path / "checkpoint.pt", {"seed": 0, "first_weights": "a"}
    save_checkpoint(path, before, {"batch_size": 4})
    now = {"seed": 0, "first_weights": "b", RENEWED: "torchvision"}
    assert load_checkpoint(path, now) == {"batch_size": 4}
    with pytest.raises(WeightsError, match="seed is 0 there and 1 now"):
        load_checkpoint(path, {**now, "seed": 1})
    save_checkpoint(path, now, {"batch_size": 4})
    with pytest.raises(WeightsError, match="first_weights is"):
        load_checkpoint(path, {**now, "first_weights": "c"})


def test_a_network_without_normalization_layers_learns_with_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "squeezenet_1.1", "--resolution", "32", "--epochs", "1", "--images", "64", "--out", "a"]
    assert main([*command, "--quiet"]) == 0
    result = json.loads(Path("a/result.json").read_text())
    assert result["settings"]["learning_rate"] == pytest.approx(0.001 / 6)
    assert main([*command[:-1], "b", "--learning-rate", "0.003", "--quiet"]) == 0
    assert json.loads(Path("b/result.json").read_text())["settings"]["learning_rate"] == 0.003
    capsys.readouterr()
    assert main([*command[:-1], "c"]) == 0
    assert "learning rate 0.000166667 instead of 0.001; --learning-rate sets another" in capsys.readouterr().err
