"""`nas train` as a user runs it: whole trainings, kills, what it reads and writes, and bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nas.cli.main import main
from nas.networks.network import build
from nas.spaces.yaml_format import load_architecture
from nas.training.job import read_architecture
from nas.training.recipe import ADDED, RECIPES
from tests.helpers.nas_process import kill_when, start_nas

NETWORK = """
resolution: 8
stages:
  - {block: conv, out_channels: 8}
  - {block: mbconv, out_channels: 12, stride: 2, expand_ratio: 2}
head: {block: classifier}
"""
SHORT = ["--epochs", "2", "--images", "100", "--batch-size", "25"]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small network of 1000 classes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NETWORK, encoding="utf-8")
    return "net.yaml"


def trained(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["train", *argv, "--json", "--quiet"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["train", *argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err.strip().removeprefix("nas train: error: ")


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is the same each time: not the folder, the hour and the speed."""
    curve = [{key: value for key, value in epoch.items() if key != "images_per_s"} for epoch in result["curve"]]
    return {**{key: value for key, value in result.items() if key not in ("model", "date")}, "curve": curve}


def test_a_training_is_a_folder_that_runs_and_exports(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", net, *SHORT]) == 0
    captured = capsys.readouterr()
    assert "the head is changed to the 10 classes of 'digits'" in captured.err
    assert re.search(r"epoch 2/2: loss \d\.\d+, validation accuracy [\d.]+%, \d+ images/s", captured.err)
    assert "on the test set of digits" in captured.out
    folder = Path("runs/train-net-digits")
    result = json.loads((folder / "result.json").read_text())
    assert result["train_images"] == 100
    assert result["test_images"] == 360
    assert 0 <= result["test_accuracy"] <= 1
    assert [epoch["number"] for epoch in result["curve"]] == [0, 1]
    assert result["curve"][-1]["accuracy"] == result["validation_accuracy"]
    assert result["settings"]["epochs"] == 2
    assert {"hwnas", "torch"} <= set(result["versions"])
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    card = json.loads((folder / "model" / "card.json").read_text())
    for key in ("curve", "settings", "test_accuracy", "date", "trained_on", "data", "started_from"):
        assert card[key] == result[key]
    done = subprocess.run(
        [sys.executable, str(folder / "model" / "model.py")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights = folder / "model" / "model.safetensors"
    assert main(["export", str(folder), "--out", "one", "--quiet"]) == 0
    assert main(["export", net, "--classes", "10", "--weights", str(weights), "--out", "two", "--quiet"]) == 0
    assert main(["export", net, "--weights", str(weights), "--out", "three", "--quiet"]) == 2
    for name in ("one", "two"):
        ours, theirs = load_file(f"{name}/model.safetensors"), load_file(weights)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs if not key.endswith("num_batches_tracked"))
    assert json.loads(Path("two/card.json").read_text())["weights"] == str(weights)


def test_a_finished_training_is_not_done_again_and_another_is_refused(
    net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained(capsys, net, *SHORT, "--out", "a")
    before = {path: path.stat().st_mtime_ns for path in Path("a").rglob("*") if path.is_file()}
    assert trained(capsys, net, *SHORT, "--out", "a") == first
    assert main(["train", net, *SHORT, "--out", "a"]) == 0
    assert "a: finished" in capsys.readouterr().err
    for flag, value, line in (
        ("--seed", "1", "seed is 0 there and 1 now"),
        ("--epochs", "3", "epochs is 2 there and 3 now"),
        ("--resolution", "12", "architecture is"),
        ("--mixup", "0.5", "mixup is 0.0 there and 0.5 now"),
    ):
        found = refused(capsys, net, *SHORT, "--out", "a", flag, value)
        assert found.startswith(f"a: holds another experiment: {line}")
        assert found.endswith("; give another --out")
    assert {path: path.stat().st_mtime_ns for path in Path("a").rglob("*") if path.is_file()} == before


def test_a_killed_training_ends_as_one_that_nothing_interrupted(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [net, "--epochs", "40", "--images", "100", "--batch-size", "25", "--ema-decay", "0.9", "--mixup", "0.2"]
    whole = trained(capsys, *flags, "--out", "whole")
    written: set[int] = set()

    def written_three_times() -> bool:
        if Path("killed/checkpoint.pt").exists():
            written.add(Path("killed/checkpoint.pt").stat().st_mtime_ns)
        return len(written) == 3

    kill_when(start_nas(["train", *flags, "--out", "killed", "--quiet"]), written_three_times)
    stored = torch.load("killed/checkpoint.pt", weights_only=True)
    assert 3 <= len(stored["state"]["curve"]) < 40
    assert not Path("killed/result.json").exists()
    assert comparable(trained(capsys, *flags, "--out", "killed")) == comparable(whole)
    ours, theirs = (load_file(f"{name}/model/model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_folder_of_the_former_default_recipe_continues_with_it(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = trained(capsys, net, *SHORT, "--recipe", "onecycle", "--out", "whole")
    process = start_nas(["train", net, *SHORT, "--recipe", "onecycle", "--out", "old", "--quiet"])
    kill_when(process, Path("old/checkpoint.pt").exists)
    shutil.rmtree("old/model", ignore_errors=True)
    Path("old/result.json").unlink(missing_ok=True)
    assert not set(ADDED) & set(json.loads(Path("old/settings.json").read_text()))
    assert main(["train", net, *SHORT, "--out", "old", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("old: continues with the recipe that it began with, now --recipe onecycle") == 1
    assert comparable(json.loads(captured.out)) == comparable(whole)
    assert trained(capsys, net, *SHORT, "--out", "whole") == whole  # a finished one is not refused either
    found = refused(capsys, net, *SHORT, "--out", "old", "--mixup", "0.5")
    assert found.startswith("old: holds another experiment: ")
    new = trained(capsys, net, *SHORT, "--out", "new")
    assert {key: new["settings"].get(key) for key in ADDED} != {key: whole["settings"].get(key) for key in ADDED}


def test_an_average_that_is_asked_for_replaces_that_of_the_recipe(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = trained(capsys, net, *SHORT, "--ema-decay", "0.9", "--out", "a")["settings"]
    assert settings["ema_decay"] == 0.9
    assert not {"ema_share", "average_last"} & set(settings)


def test_photographs_get_random_resized_crops_and_other_images_do_not(
    net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for data, shape in (("photos", (9, 9, 3)), ("scans", (9, 9))):
        for name in ("a", "b"):
            Path(data, name).mkdir(parents=True)
            for index in range(20):
                Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(Path(data, name, f"{index}.png"))
    for data, flags, scale, words in (
        ("photos", (), RECIPES["default"].crop_scale, "random resized crops of at least"),
        ("scans", (), 0.0, "crops after padding by an eighth, mirroring"),
        ("photos", ("--flip", "off"), 0.0, "crops after padding by an eighth"),
        ("scans", ("--crop-scale", "0.3"), 0.3, "random resized crops of at least 30% of the area, mirroring"),
        ("photos", ("--recipe", "onecycle"), 0.0, "crops after padding by an eighth, mirroring"),
    ):
        out = "-".join(("out", data, *flags)).replace("--", "")
        assert main(["train", net, "--data", data, "--epochs", "1", *flags, "--out", out, "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["settings"].get("crop_scale", 0.0) == scale
        assert f"augmentation: {words}" in captured.err


def test_a_broken_checkpoint_is_named(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    trained(capsys, net, *SHORT, "--out", "a")
    Path("a/result.json").unlink()
    content = Path("a/checkpoint.pt").read_bytes()
    Path("a/checkpoint.pt").write_bytes(content[:1000])
    assert refused(capsys, net, *SHORT, "--out", "a").startswith("a/checkpoint.pt: not a checkpoint: ")
    Path("a/settings.json").write_text("[]")
    assert refused(capsys, net, *SHORT, "--out", "a") == "a/settings.json: must hold a mapping: []"


def test_what_can_be_trained(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = trained(capsys, net, *SHORT, "--out", "a")
    arch = read_architecture("a")
    assert arch.digest == first["architecture"]
    assert arch == read_architecture("a/model") == read_architecture("a/model/card.json")
    Path("arch.json").write_text(json.dumps(arch.to_dict()))
    assert read_architecture("arch.json") == arch
    assert comparable(trained(capsys, "arch.json", *SHORT, "--out", "b")) == {
        **comparable(first),
        "network": "arch.json",
    }
    larger = trained(capsys, "a", *SHORT, "--out", "c", "--resolution", "12")
    assert larger["resolution"] == 12


def test_first_weights_and_a_teacher(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = trained(capsys, net, *SHORT, "--out", "teacher", "--recipe", "imagenet", "--warmup-epochs", "0")
    assert teacher["started_from"] == "fresh, of seed 0"
    assert teacher["settings"]["optimizer"] == "rmsprop"
    torch.save(build(load_architecture(net)).state_dict(), "thousand.pth")
    again = trained(capsys, "teacher", *SHORT, "--out", "b", "--init-from", "teacher", "--teacher", "teacher")
    assert again["started_from"] == "teacher/model/model.safetensors"
    assert again["settings"]["teacher"] == "teacher"
    fresh = trained(capsys, net, *SHORT, "--out", "c", "--init-from", "thousand.pth", "--learning-rate", "1e-9")
    assert fresh["started_from"] == "thousand.pth, the classifier fresh"
    whole = torch.load("thousand.pth", weights_only=True)["stages.0.0.conv.0.weight"]
    kept = load_file("c/model/model.safetensors")["stage0.0.conv.0.weight"] - whole
    assert kept.abs().max() < 1e-5


def test_bad_input_is_one_line_and_writes_nothing(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    trained(capsys, net, *SHORT, "--out", "ten")
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("mine")
    Path("a.json").write_text("{")
    Path("b.json").write_text("[1]")
    Path("c.json").write_text('{"resolution": 8}')
    known = {*Path().iterdir()}
    for argv, line in (
        (["mobilnet_v2_1.0"], "unknown network 'mobilnet_v2_1.0'; did you mean 'mobilenet_v2_1.0'?"),
        (["mnasnet"], "mnasnet: a space with 49 choices, not one network"),
        (["none.json"], "none.json: cannot be read: No such file or directory"),
        (["a.json"], "a.json: not JSON: "),
        (["b.json"], "b.json: not an architecture: must be a mapping: [1]"),
        (["c.json"], "c.json: not an architecture: "),
        (["notes"], "notes: not an exported network: "),
        ([net, "--data", "digit"], "--data: unknown data set or folder 'digit'; did you mean 'digits'?"),
        ([net, "--seed", "-1"], "--seed: must not be negative: -1"),
        ([net, "--resolution", "-8"], "--resolution: must be auto, or whole numbers of pixels"),
        ([net, "--images", "3"], "--images: must be at least the number of classes, 10, or 0: 3"),
        ([net, "--recipe", "imagnet"], "--recipe: unknown recipe 'imagnet'; did you mean 'imagenet'?"),
        ([net, "--recipe", "imagenet", "--epochs", "3"], "--warmup-epochs: must be below --epochs, 3: 5.0"),
        ([net, "--optimizer", "adam"], "--optimizer: unknown optimizer 'adam'; did you mean 'adamw'?"),
        ([net, "--distill-weight", "0.1"], "--distill-weight: has no effect without --teacher: 0.1"),
        ([net, "--runtime", "onnx"], "unknown runtime 'onnx'"),
        ([net, "--teacher", "notes"], "--teacher: notes: not an exported network: "),
        ([net, "--init-from", "notes"], "--init-from: notes/model.safetensors: no such file"),
        ([net, "--out", "notes"], "notes: not a folder of `nas train`: it has files, but no settings.json"),
        ([net, "--out", net], "net.yaml: not a folder"),
    ):
        assert line in refused(capsys, *argv)
    assert {*Path().iterdir()} == known
    assert {*Path("notes").iterdir()} == {Path("notes/mine.txt")}


def test_a_teacher_of_other_classes_is_refused(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", net, "--out", "thousand", "--quiet"]) == 0
    capsys.readouterr()
    line = refused(capsys, net, *SHORT, "--teacher", "thousand")
    assert line == "--data: 'digits' has 10 classes, the teacher in 'thousand' has 1000"
    assert not Path("runs").exists()


def test_a_loss_that_is_not_finite_is_one_line(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, net, *SHORT, "--optimizer", "sgd", "--learning-rate", "1e30", "--clip", "0")
    assert re.fullmatch(r"the loss is (nan|inf) in epoch \d+, step \d+", line)


def test_an_augmentation_that_the_images_do_not_allow_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, stage = tmp_path / "alpha.yaml", "{block: conv, out_channels: 8, stride: 2}"
    network.write_text(f"resolution: 16\nchannels: 4\nstages: [{stage}]\nhead: {{block: classifier}}\n")
    for number in range(40):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (16, 16), (number, 0, 0, 128)).save(path)
    out = tmp_path / "out"
    command = ["train", str(network), "--data", str(tmp_path / "data"), "--epochs", "1", "--out", str(out), "--quiet"]
    assert main([*command, "--randaugment", "5"]) == 2
    assert "--randaugment: applies to gray and RGB images only" in capsys.readouterr().err
    assert not out.exists()
