"""Whole commands on people's own images: equal pictures give equal results, and a run keeps its images and its fit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.evaluators.rank_check.reference_trainings import Training
from tests.helpers.pictures import save_16_bit, save_png, save_transparent, save_turned, write_classes

NETWORK = """
resolution: 8
stages: [{block: conv, out_channels: 8}, {block: mbconv, out_channels: 8, expand_ratio: 2}]
head: {block: classifier}
"""
SPACE = """
resolution: 8
stages: [{block: conv, out_channels: [8, 12], kernel_size: [3, 5], stride: 2}]
head: {block: classifier}
proxy: {resolution: 8, epochs: 1, images: 100}
final: {epochs: 1, images: 100}
supernet: {epochs: 1, children: 1}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder with a network and a space. Rank checks train nothing: their processes start slowly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.evaluators.rank_check.check.train_reference", made_up_trainings)
    monkeypatch.setattr("nas.evaluators.rank_check.rank_correlation.RESAMPLES", 20)
    Path("net.yaml").write_text(NETWORK, encoding="utf-8")
    Path("space.yaml").write_text(SPACE, encoding="utf-8")


def made_up_trainings(pending: Any, *_: Any) -> Iterator[Training]:
    """Stand in for `train_reference`."""
    for arch, seed in pending:
        yield Training(arch, seed, (int(arch.digest[:4], 16) / 2**16,), 1.0)


COMMANDS = {
    "train": ["train", "net.yaml", "--epochs", "1", "--runtime", "null"],
    "search": ["search", "--space", "space.yaml", "--trials", "2", "--finalist-seeds", "0", "--runtime", "null",
               "--target-latency", "1s", "--objective", "constrained"],
    "scale": ["scale", "net.yaml", "--search", "--budget", "macs", "--times", "2", "--step", "0.2", "--trials", "1",
              "--runtime", "null", "--proxy-epochs", "1", "--finalist-seeds", "0", "--compare-seeds", "0"],
    "check-proxy": ["check-proxy", "--space", "space.yaml", "--networks", "4", "--seeds", "1", "--evaluator", "params"],
}  # fmt: skip


def folder_flag(command: str) -> str:
    return "--out" if command == "train" else "--run"


def done(capsys: pytest.CaptureFixture[str], command: str, data: str, run: str, *flags: str) -> dict[str, Any]:
    assert main([*COMMANDS[command], "--data", data, folder_flag(command), run, "--json", *flags]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], command: str, data: str, run: str, *flags: str) -> str:
    assert main([*COMMANDS[command], "--data", data, folder_flag(command), run, "--quiet", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_the_same_pictures_in_another_form_train_to_the_same_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for place, save in enumerate((save_png, save_16_bit, save_transparent, save_turned)):
        write_classes(Path(f"{place}/pets"), save)
        found.append(reached(done(capsys, "train", f"{place}/pets", f"run{place}")))
    for place, names in enumerate((("train", "val", "test"), ("Training", "VALID", "tst"))):
        for name in names:
            write_classes(Path(f"splits{place}/pets") / name, count=5)
        Path(f"splits{place}/pets", names[0], ".ipynb_checkpoints").mkdir()
        found.append(reached(done(capsys, "train", f"splits{place}/pets", f"run{place}-splits")))
    assert found[1:4] == [found[0]] * 3
    assert found[4] == found[5]


def reached(result: dict[str, Any]) -> tuple[float, list[tuple[float, float]]]:
    """Return the test accuracy of a training, and the loss and validation accuracy of each epoch."""
    return result["test_accuracy"], [(epoch["loss"], epoch["accuracy"]) for epoch in result["curve"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_reports_and_keeps_its_fit_and_its_images(
    command: str, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(Path("pets"), shape=(8, 20))
    Path("pets/cat/.DS_Store").write_text("x")
    assert main([*COMMANDS[command], "--data", "pets", folder_flag(command), "run", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    for line in (
        "pets: 2 classes, 16 images: 8 per class\n",
        "pets: skipped 1 file or folder of the system: cat/.DS_Store\n",
        "pets: images are not square (a center crop loses 60% of their area on average); --fit pad: ",
    ):
        assert said.err.count(line) == 1
    assert (result["search"] if command == "scale" else result)["settings"]["fit"] == "pad"
    error = refused(capsys, command, "pets", "run", "--fit", "crop")
    assert "fit" in error
    assert re.search(r"'pad' (there|in the file)(,| and) 'crop' now", error)
    shutil.copytree("pets", "copy")
    done(capsys, command, "copy", "run")
    shutil.copy("pets/cat/1.png", "pets/dog/3.png")
    error = refused(capsys, command, "pets", "run")
    assert "run: data: 1 of 20 images was replaced (first: dog/3.png) since this run began" in error
    assert f"give another {folder_flag(command)}" in error


def test_the_fit_is_in_the_card_and_in_the_network_and_later_trainings_keep_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_classes(Path("pets"), shape=(8, 20))
    result = done(capsys, "search", "pets", "run", "--fit", "stretch")
    assert result["settings"]["fit"] == "stretch"
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["preprocessing"]["fit"] == "stretch"
    assert 'FIT = "stretch"' in Path("run/model/model.py").read_text()
    train = ["train", "run", "--data", "pets", "--epochs", "1", "--runtime", "null", "--out", "again", "--json"]
    assert main(train) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["fit"] == "stretch"
    assert main(["export", "again", "--out", "exported", "--runtime", "null", "--quiet"]) == 0
    assert json.loads(Path("exported/card.json").read_text())["preprocessing"]["fit"] == "stretch"


def test_a_run_from_before_there_was_a_fit_continues_with_crop(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("pets"), shape=(8, 20))
    done(capsys, "train", "pets", "run", "--fit", "crop")
    settings = json.loads(Path("run/settings.json").read_text())
    assert "fit" not in settings
    del settings["image_files"]
    Path("run/settings.json").write_text(json.dumps(settings))
    for name in ("images.json", "result.json"):
        Path("run", name).unlink()
    again = done(capsys, "train", "pets", "run")
    assert again["settings"]["fit"] == "crop"
    assert "fit" not in json.loads(Path("run/settings.json").read_text())
    assert json.loads(Path("run/model/card.json").read_text())["preprocessing"]["fit"] == "crop"
    assert Path("run/images.json").is_file()


def test_a_supernet_is_for_its_fit_and_its_images(without_winner: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("pets"), shape=(8, 20))
    done(capsys, "search", "pets", "run", "--evaluator", "supernet", "--train-finalists", "0")
    again = ["--supernet", "run/supernet", "--seed", "1"]
    error = refused(capsys, "search", "pets", "crop", *again, "--fit", "crop")
    assert "fit: the supernet is for another search: 'pad' there, 'crop' here" in error
    shutil.copy("pets/cat/1.png", "pets/dog/3.png")
    error = refused(capsys, "search", "pets", "again", *again)
    assert "1 of 20 images was replaced (first: dog/3.png)" in error
    assert "give another --supernet" in error
    assert not Path("again").exists()


def test_a_broken_image_ends_each_command_before_it_writes(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("pets"))
    Path("pets/dog/3.png").write_bytes(b"")
    for command in COMMANDS:
        assert "pets/dog/3.png: not a readable image: the file is empty" in refused(capsys, command, "pets", command)
        assert not Path(command).exists()
