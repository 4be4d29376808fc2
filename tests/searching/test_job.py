"""What the main job leaves behind: nothing after a bad source, the winner's training after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.searching.settings import SearchSettings
from nas.spaces.yaml_format import load_space
from nas.training.recipe import WINNERS
from tests.helpers.nas_process import kill_when, start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

NULL = ["--runtime", "null", "--target-latency", "1s", "--objective", "constrained", "--quiet"]
OWN = "class Unmade:\n    def __init__(self, setup):\n        raise OSError('no weights')\n"


def search_args(space: Path, run: Path, *more: str) -> list[str]:
    return ["search", "--space", str(space), "--run", str(run), "--trials", "3", "--seed", "1", *NULL, *more]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--supernet", "FOLDER"], "--supernet: no supernet (supernet.json) in this folder"),
        (["--supernet", "FOLDER/broken"], "not the card of a supernet"),
        (["--supernet", "FOLDER/other"], "space: the supernet is for another search: None there"),
        (["--accuracies", "FOLDER/table.csv"], "unknown column: 'acuracy'"),
        (["--evaluator", "nas_test_unmade:Unmade"], "cannot be instantiated (OSError: no weights"),
    ],
)
def test_an_evaluator_that_cannot_be_made_leaves_no_run_folder(
    flags: list[str], message: str, tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], private_cache: Path,
) -> None:  # fmt: skip
    shutil.rmtree(private_cache)
    sources = tmp_path / "sources"
    for name, card in (("broken", "{"), ("other", json.dumps({"settings": {}, "losses": []}))):
        (sources / name).mkdir(parents=True)
        (sources / name / "supernet.json").write_text(card)
    (sources / "table.csv").write_text(f"architecture,acuracy\n{'0' * 16},0.5\n")
    (tmp_path / "nas_test_unmade.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    assert main(search_args(tiny_space, run, *(flag.replace("FOLDER", str(sources)) for flag in flags))) == 2
    assert message in capsys.readouterr().err
    assert not run.exists()
    if flags[0] != "--evaluator":
        assert not list(tmp_path.rglob("cache/**/*.jsonl")), "it was profiled before the source was read"


def test_the_run_folder_is_named_after_another_evaluator_than_the_default() -> None:
    assert SearchSettings("20ms").folder == Path("runs/mnasnet-digits-20ms-soft-seed0")
    assert SearchSettings("20ms", evaluator="synflow").folder == Path("runs/mnasnet-digits-20ms-soft-synflow-seed0")
    assert SearchSettings("20ms", evaluator="my.own:f").folder == Path("runs/mnasnet-digits-20ms-soft-my_own_f-seed0")


def test_a_finished_run_goes_on_with_other_finalists_and_names_a_broken_result(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def repeats(*flags: str) -> int:
        assert main(search_args(tiny_space, run, "--json", *flags)) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["trials"] == 3
        return sum(len(finalist["repeats"]) for finalist in result["finalists"])

    assert repeats("--finalist-seeds", "0") == 0
    written = (run / "result.json").read_text()
    assert repeats("--finalist-seeds", "0") == 0
    assert (run / "result.json").read_text() == written
    assert repeats("--finalist-seeds", "1") >= 2
    for broken, message in (("{", "cannot be read"), ("[]", "must hold a mapping"), ("{}", "not the result of")):
        (run / "result.json").write_text(broken)
        assert main(search_args(tiny_space, run)) == 2
        assert f"result.json: {message}" in capsys.readouterr().err


def told(folder: Path) -> dict[str, Any]:
    """Return what a result tells of the winner, the measured latency left out."""
    result = json.loads((folder / "result.json").read_text())
    best = {key: value for key, value in result["best"].items() if key not in ("latency_ms", "model")}
    return {**best, "training": result["settings"]["training"]}


def test_a_winner_whose_training_was_killed_is_trained_on_to_the_same_weights(tiny_space: Path, tmp_path: Path) -> None:
    def args(folder: Path) -> list[str]:
        return search_args(tiny_space, folder, "--evaluator", "params", "--final-epochs", "8")

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(args(whole)) == 0
    assert not (whole / "winner").exists()
    kill_when(start_nas(args(killed)), lambda: any(killed.glob("winner/*-1.pt")))
    assert len(list(killed.glob("winner/*.pt"))) >= 2
    assert not (killed / "result.json").exists()
    assert main(args(killed)) == 0
    assert told(killed) == told(whole)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    assert not (killed / "winner").exists()


def test_a_full_training_of_the_winner_uses_all_images_and_continues_after_a_kill(
    tiny_space: Path, tmp_path: Path
) -> None:
    text = tiny_space.read_text().replace("final: {epochs: 1, images: 100}", "final: {full_epochs: 6}")
    tiny_space.write_text(text)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(search_args(tiny_space, whole, "--evaluator", "params")) == 0
    process = start_nas(search_args(tiny_space, killed, "--evaluator", "params"))
    kill_when(process, lambda: any(killed.glob("winner/*-full6-0.pt")))
    assert not (killed / "result.json").exists()
    assert main(search_args(tiny_space, killed, "--evaluator", "params")) == 0
    assert told(killed) == told(whole)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    (training,) = json.loads((whole / "result.json").read_text())["settings"]["training"]
    expected = replace(WINNERS, epochs=6, crop_scale=0.0, first_size=1.0).to_dict()  # no photographs, few epochs
    assert {key: training[key] for key in expected} == expected
    assert (training["resolution"], training["images"]) == (32, 1149)


def test_a_space_without_a_full_training_keeps_its_digest() -> None:
    space = load_space("mnasnet")
    full = replace(space, final=replace(space.final, full_epochs=3))
    assert replace(full, final=space.final).digest == space.digest
    assert full.digest != space.digest
    assert full.key == space.key
