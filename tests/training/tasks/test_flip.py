"""`--flip`: without it, training images keep left and right apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.cli.main import main
from nas.searching.settings import read_settings
from nas.training.stuck import advice
from nas.training.tasks.classification import Classification
from tests.helpers.pictures import save_png

NETWORK = """
resolution: 8
stages: [{block: conv, out_channels: 8}]
head: {block: classifier}
"""


@pytest.fixture(autouse=True)
def arrows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write two classes: pictures that get brighter to the right, in steps, and their mirror images."""
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK, encoding="utf-8")
    noise = np.random.default_rng(0)
    for name, step in (("right", 1), ("left", -1)):
        Path("arrows", name).mkdir(parents=True)
        for number in range(20):
            picture = np.tile(np.arange(8) % 4 * 60, (8, 1))[:, ::step] + noise.integers(0, 20, (8, 8))
            save_png(picture.astype(np.uint8), Path("arrows", name, f"{number}.png"))


def train(flip: str) -> int:
    command = ["train", "net.yaml", "--data", "arrows", "--epochs", "1", "--out", "run"]
    return main([*command, "--runtime", "null", "--quiet", "--flip", flip])


def test_a_training_records_its_flip_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("off") == 0
    result = json.loads(Path("run/result.json").read_text(encoding="utf-8"))
    assert result["settings"]["flip"] == "off"
    assert train("auto") == 2
    assert "flip is 'off' there and 'auto' now" in capsys.readouterr().err


def test_only_digits_are_not_flipped_by_default() -> None:
    found = {data: Classification.load(data).flips for data in ("digits", "arrows")}
    assert found == {"digits": False, "arrows": True}
    assert Classification.load("digits", flip="on").flips
    task = Classification.load("arrows", flip="off")
    assert "flip" not in Classification.load("arrows").settings
    assert task.settings["flip"] == "off"
    assert "--flip" in advice(Classification.load("arrows"))
    assert "--flip" not in advice(task)


def test_an_image_keeps_its_sides_without_a_flip() -> None:
    torch.manual_seed(0)
    images = Classification.load("arrows", flip="off").train_set(8)
    label = Classification.load("arrows").data.classes.index("right")
    for index in [index for index, each in enumerate(images.labels) if each == label]:
        steps = images[index][0][0, 2:6, 2:6].float().mean(0).diff()
        assert (steps > 0).sum() >= 2


def test_an_unknown_flip_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("of") == 2
    assert capsys.readouterr().err == "nas train: error: --flip: unknown flip 'of'; did you mean 'off'?\n"


@pytest.mark.parametrize(("text", "flip"), [("off", "off"), ("on", "on"), ("auto", "auto"), ("'off'", "off")])
def test_an_experiment_file_can_set_the_flip(text: str, flip: str) -> None:
    Path("experiment.yaml").write_text(f"flip: {text}\n", encoding="utf-8")
    assert read_settings("experiment.yaml") == {"flip": flip}
