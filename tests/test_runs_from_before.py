"""Runs, tables and checkpoints that were written before the modules were moved open, continue and repeat themselves.

`golden/runs.tar.gz` holds them, `golden/trials.json` the trials of a run of each controller. Latencies are of the null
runtime; accuracies come from a table or from trainings on the digits.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nas.cli.main import main
from nas.latency.table import LatencyTable
from nas.networks.standalone.state_names import exported_state
from nas.spaces.yaml_format import load_space
from nas.study.trial_store import evaluated, find

GOLDEN = Path(__file__).parent / "golden"
TRIALS: dict[str, list[list[Any]]] = json.loads((GOLDEN / "trials.json").read_text())
TABLE = ["--table", "table.jsonl", "--any-device", "--space", "tiny.yaml", "--runtime", "null"]
SEARCH = ["search", *TABLE, "--target-latency", "50ms", "--quiet", "--json"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack the runs and stand among them."""
    with tarfile.open(GOLDEN / "runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result_of(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(list(argv)) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def trials_in(run: str) -> list[list[Any]]:
    return [
        [frozen.user_attrs["digest"], frozen.params, frozen.user_attrs["curve"]]
        for _, frozen in evaluated(find(Path(run)))
    ]


@pytest.mark.parametrize("controller", sorted(name[2:] for name in TRIALS if name.startswith("c-")))
def test_a_controller_asks_for_the_same_candidates(controller: str, without_winner: None) -> None:
    args = ["--run", "again", "--controller", controller, "--accuracies", "accuracies.csv", "--trials", "8"]
    assert main([*SEARCH, *args]) == 0
    assert trials_in("again") == TRIALS[f"c-{controller}"]


@pytest.mark.parametrize(("run", "flags"), [("search", []), ("halving", ["--fidelity", "halving"])])
def test_a_search_has_the_same_candidates(run: str, flags: list[str], without_winner: None) -> None:
    count = len(TRIALS[run])
    assert main([*SEARCH, "--run", "again", "--trials", str(count), *flags]) == 0
    assert [trial[:2] for trial in trials_in("again")] == [trial[:2] for trial in TRIALS[run]]


def test_a_finished_search_is_found_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads(Path("search/result.json").read_text())
    assert result_of(capsys, *SEARCH, "--run", "search", "--trials", "5") == before
    after = result_of(capsys, *SEARCH, "--run", "search", "--trials", "6")
    assert after["trials"] == 6
    assert after["candidates"][:5] == before["candidates"]
    assert before.keys() <= after.keys()


@pytest.mark.parametrize("run", ["halving", "goals", "supernet"])
def test_another_finished_run_is_found(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {
        "halving": ["--fidelity", "halving"],
        "goals": ["--target-latency", "30ms", "--accuracies", "accuracies.csv"],
        "supernet": ["--evaluator", "supernet", "--supernet-epochs", "1"],
    }[run]
    goals = ["search", *TABLE, *flags, "--target-latency", "50ms", "--quiet", "--json"]
    count = len(TRIALS[run])
    found = result_of(capsys, *(goals if run == "goals" else [*SEARCH, *flags]), "--run", run, "--trials", str(count))
    assert found == json.loads(Path(run, "result.json").read_text())


def test_a_supernet_is_searched_again_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    bank = Path("supernet/supernet/supernet.safetensors")
    before = bank.read_bytes()
    args = ["--evaluator", "supernet", "--supernet-epochs", "1", "--trials", "5"]
    assert result_of(capsys, *SEARCH, "--run", "supernet", *args)["trials"] == 5
    assert bank.read_bytes() == before


def test_a_table_keeps_its_calibration_and_certificate() -> None:
    table, space = LatencyTable.open(Path("table.jsonl")), load_space("tiny.yaml").for_classes(10)
    assert space.key in table.certificates
    assert table.predictor(space.key).calibration == table.calibrations[space.key]
    first = json.loads(Path("search/result.json").read_text())["candidates"][0]
    arch = next(trial for trial in evaluated(find(Path("search"))))[1].params
    predicted = table.predictor(space.key).predict(space.decode(arch))
    assert predicted == pytest.approx(first["latency_ms"], rel=1e-9)


def test_a_training_is_found_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "net.yaml", "--epochs", "2", "--runtime", "null", "--out", "train", "--quiet", "--json"]
    state = Path("train/checkpoint.pt").read_bytes()
    found = result_of(capsys, *train)
    card = json.loads(Path("train/model/card.json").read_text())
    assert found["test_accuracy"] == card["test_accuracy"]
    assert Path("train/checkpoint.pt").read_bytes() == state
    assert result_of(capsys, "export", "train", "--runtime", "null", "--out", "again", "--quiet", "--json")
    before, again = (load_file(folder / "model.safetensors") for folder in (Path("train/model"), Path("again")))
    before = exported_state(before)  # exports name tensors by their stage now
    assert before.keys() == again.keys() and all(torch.equal(before[key], again[key]) for key in again)


def test_scalings_are_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    header = json.loads(Path("scale-search/networks.jsonl").read_text().splitlines()[0])
    monkeypatch.setattr("nas.latency.profiler.describe_processor", lambda: header["device"])
    by_rule = [
        "scale",
        "net.yaml",
        "--coefficients",
        "1.2,1.1,1.15",
        "--phi",
        "0,1,2",
        "--run",
        "scale",
        "--quiet",
        "--json",
    ]
    before = json.loads(Path("scale/family.json").read_text())
    result_of(capsys, *by_rule)
    after = json.loads(Path("scale/family.json").read_text())
    assert {**after, "date": ""} == {**before, "date": ""}
    search = [
        "scale", "net.yaml", "--search", "--budget", "macs", "--times", "2", "--step", "0.2", "--trials", "4",
        "--runtime", "null", "--run", "scale-search", "--proxy-epochs", "1", "--proxy-images", "100",
        "--finalists", "2", "--finalist-seeds", "1", "--quiet", "--json",
    ]  # fmt: skip
    assert result_of(capsys, *search) == json.loads(Path("scale-search/scale.json").read_text())


def test_a_rank_check_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = result_of(
        capsys, "check-proxy", "--space", "tiny.yaml", "--networks", "4", "--run", "proxy", "--quiet", "--json"
    )
    assert found["evaluators"] == json.loads(Path("proxy/check.json").read_text())["evaluators"]
