"""`nas check-proxy`: a reference that survives kills, figures for every evaluator, and a search that knows them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli.main import main
from nas.errors import RunError
from nas.evaluators.rank_check.rank_correlation import ceiling
from nas.evaluators.rank_check.records import describe_record, find_record
from nas.evaluators.rank_check.reference_trainings import (
    ReferenceTrainings,
    Training,
    make_trainer,
    stratified_networks,
    train_reference,
)
from nas.networks.network import totals, trace
from nas.spaces.yaml_format import load_space
from nas.training.loop import TrainingError
from nas.utils.paths import shipped
from nas.utils.reporting import Reporter
from tests.helpers.nas_process import ONE_CORE, kill_when, start_nas
from tests.helpers.small_detector import SMALL

HERE = f"""
from nas.evaluators.rank_check import check
from tests.evaluators.rank_check import test_check
check.train_reference = test_check.trained_here
{ONE_CORE}
"""
"""`nas` that trains in its own process, see `trained_here`."""
DATA: dict[str, Any] = {
    "resolution": 8,
    "stages": [
        {"block": "conv", "out_channels": [8, 16], "kernel_size": [3, 5], "stride": 2},
        {"block": "mbconv", "depth": [1, 2], "kernel_size": [1, 3], "expand_ratio": [1, 2, 4], "out_channels": 16},
    ],
    "head": {"block": "classifier", "num_classes": 10},
    "proxy": {"resolution": 8, "epochs": 2, "images": 100},
    "supernet": {"epochs": 1, "children": 1},
}


@pytest.fixture
def space_path(tmp_path: Path) -> str:
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(DATA))
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nas.evaluators.rank_check.rank_correlation.RESAMPLES", 200)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # two threads wait for each other when other tests run


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in the process of the test; `test_trainings_side_by_side_are_the_same_trainings` uses the real ones."""
    monkeypatch.setattr("nas.evaluators.rank_check.check.train_reference", trained_here)


def check(space_path: str, folder: Path, *more: str) -> list[str]:
    return ["check-proxy", "--space", space_path, "--networks", "5", "--run", str(folder), "--quiet", *more]


@pytest.mark.usefixtures("no_processes")
def test_a_check_from_end_to_end(space_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = check(space_path, tmp_path / "run", "--evaluator", "supernet", "--evaluator", "synflow")
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "5 networks of few@" in printed
    assert "agreement between seeds: Kendall" in printed
    result = json.loads((tmp_path / "run" / "check.json").read_text())
    names = [judged["name"] for judged in result["evaluators"]]
    assert names == ["supernet", "synflow", "params", "macs", "training, 1 of 2 epochs", "training, 2 of 2 epochs"]
    for judged in result["evaluators"]:
        low, high = judged["agreement"]["kendall_interval"]
        assert -1 <= low <= judged["agreement"]["kendall"] <= high <= 1
        assert judged["cheaper"] > 0
    assert result["reference"]["noise"] > 0
    assert result["settings"]["epochs"] == 2
    assert (tmp_path / "run" / "check.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "run" / "reference.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5 * 2
    assert main([*command, "--json"]) == 0  # nothing is trained again
    assert (tmp_path / "run" / "reference.jsonl").read_text().splitlines() == lines
    again = json.loads(capsys.readouterr().out)
    assert [item["scores"] for item in again["evaluators"]] == [item["scores"] for item in result["evaluators"]]


@pytest.mark.usefixtures("no_processes")
def test_a_search_tells_what_a_check_found(space_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", "--space", space_path, "--target-latency", "1s", "--runtime", "null", "--evaluator", "params",
              "--trials", "2", "--final-epochs", "1", "--final-images", "100"]  # fmt: skip
    assert main([*search, "--run", str(tmp_path / "before"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["evaluator_check"] is None
    assert "was never checked" in said.err
    assert main(check(space_path, tmp_path / "run", "--evaluator", "params")) == 0
    capsys.readouterr()
    assert main([*search, "--run", str(tmp_path / "after"), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["evaluator_check"]
    assert found["agreement"]["networks"] == 5
    assert describe_record(found) in said.err
    key, settings = load_space(space_path).key, json.loads(said.out)["settings"]["proxy"]
    assert find_record(key, "digits", settings) == found
    assert find_record(key, "digits", {**settings, "evaluator": "macs"}) is not None
    assert find_record(key, "digits", {**settings, "evaluator": "synflow"}) is None
    assert find_record(key, "cifar10", settings) is None
    trained = json.loads((tmp_path / "run" / "check.json").read_text())["evaluators"][-1]
    assert trained["settings"]["evaluator"] == "proxy_training"
    assert find_record(key, "digits", trained["settings"]) is not None


@pytest.mark.usefixtures("no_processes")
def test_a_check_of_detectors_has_ap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.evaluators.zero_cost.REFERENCE", 4)
    path = tmp_path / "detectors.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "proxy": {"resolution": 32, "epochs": 1, "images": 16}}))
    command = ["check-proxy", "--task", "detection", "--space", str(path), "--networks", "4", "--seeds", "1",
               "--evaluator", "grad_norm", "--run", str(tmp_path / "run"), "--quiet"]  # fmt: skip
    assert main(command) == 0
    assert " AP 0." in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "check.json").read_text())
    assert result["metric"] == "AP"
    assert [judged["name"] for judged in result["evaluators"]] == ["grad_norm", "params", "macs"]
    header = json.loads((tmp_path / "run" / "reference.jsonl").read_text().splitlines()[0])["settings"]
    assert {key: header[key] for key in ("task", "metric", "fit", "data")} == {
        "task": "detection", "metric": "AP", "fit": "pad", "data": "digit_canvases"
    }  # fmt: skip
    for judged in result["evaluators"]:  # a search for detectors asks with the settings of its evaluator
        assert find_record(result["space"], "digit_canvases", judged["settings"]) is not None
    assert (tmp_path / "run" / "check.png").read_bytes().startswith(b"\x89PNG")


def trained_here(pending: Any, space: Any, data: str, root: str | None, *_: Any) -> Iterator[Training]:
    """Train in this process instead of others, which start slowly."""
    if not pending:
        return
    trainer = make_trainer(space, data, root, 1, _[-1])
    for arch, seed in pending:
        yield Training(arch, seed, tuple(trainer.evaluate(arch, seed)), 1.0)


def test_a_record_without_a_task_is_that_of_a_classification(tmp_path: Path) -> None:
    ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 2}).add(
        Training(stratified_networks(load_space("cifar"), 4, 0)[0], 0, (0.1, 0.2), 1.5)
    )
    assert len(ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 2, "task": "classification"}).trainings) == 1
    with pytest.raises(RunError, match="'classification' in the file, 'detection' now"):
        ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 2, "task": "detection"})


@pytest.mark.usefixtures("no_processes")
def test_killed_trainings_are_not_repeated(space_path: str, tmp_path: Path) -> None:
    path = tmp_path / "cut" / "reference.jsonl"
    arguments = ("--evaluator", "params", "--proxy-epochs", "3")
    process = start_nas(check(space_path, tmp_path / "cut", *arguments), code=HERE)
    kill_when(process, lambda: path.exists() and path.read_text().count("\n") >= 3)
    kept = path.read_text().splitlines()
    with path.open("a") as file:
        file.write('{"digest": "cut off')
    for name in ("cut", "whole"):
        assert main(check(space_path, tmp_path / name, *arguments)) == 0
    assert path.read_text().splitlines()[: len(kept)] == kept

    def accuracies(name: str) -> Any:
        return json.loads((tmp_path / name / "check.json").read_text())["reference"]["accuracies"]

    assert accuracies("cut") == accuracies("whole")


def test_trainings_side_by_side_are_the_same_trainings(space_path: str, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        assert main(check(space_path, tmp_path / jobs, "--evaluator", "params", "--jobs", jobs)) == 0
    stored = [
        sorted(
            (row["digest"], row["seed"], row["curve"])
            for line in (tmp_path / jobs / "reference.jsonl").read_text().splitlines()[1:]
            for row in [json.loads(line)]
        )
        for jobs in ("1", "2")
    ]
    assert stored[0] == stored[1]


def test_a_training_that_is_killed_ends_the_check_in_one_line(
    space_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.evaluators.rank_check.reference_trainings.make_trainer", Killed)
    assert main(check(space_path, tmp_path / "run", "--evaluator", "params")) == 2
    error = capsys.readouterr().err
    assert "its process was killed (signal 9): out of memory?; fewer --jobs need less memory" in error
    assert error.count("\n") == 1


class Killed:
    """A trainer whose process is killed while it trains."""

    def __init__(self, *_: Any):
        pass

    def evaluate(self, arch: Any, seed: int) -> Iterator[float]:
        yield 0.5
        os.kill(os.getpid(), signal.SIGKILL)


def test_trainings_that_run_when_another_one_fails_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space("cifar")
    (arch, *_) = stratified_networks(space, 4, 0)
    pending = [(arch, 1), (arch, 0)]
    monkeypatch.setattr("nas.evaluators.rank_check.reference_trainings.make_trainer", FailsWithSeed1)
    together = train_reference(pending, space, "digits", None, 2, Reporter(quiet=True))
    assert next(together).seed == 0
    with pytest.raises(TrainingError, match="ValueError: seed 1"):
        next(together)
    with pytest.raises(TrainingError, match="ValueError: seed 1"):
        next(train_reference(pending, space, "digits", None, 1, Reporter(quiet=True)))


class FailsWithSeed1(Killed):
    """A trainer whose trainings fail with seed 1."""

    def evaluate(self, arch: Any, seed: int) -> Iterator[float]:
        yield 0.5
        if seed == 1:
            raise ValueError("seed 1")


def test_the_reference_is_a_sample_of_all_that_networks_cost() -> None:
    space = load_space("cifar")
    archs = stratified_networks(space, 12, 0)
    macs = [totals(trace(arch)).macs for arch in archs]
    assert macs == sorted(macs)
    assert macs[-1] > 5 * macs[0]
    assert len({arch.digest for arch in archs}) == 12
    assert archs == stratified_networks(space, 12, 0)
    assert archs != stratified_networks(space, 12, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rubbish", "line 2: not JSON"),
        ('{"digest": "x"}', "line 2: not a finished training"),
        ('{"seed": 0, "curve": [2], "processor_s": 1, "architecture": {}}', "line 2: not an architecture"),
        ("[]", "line 2: not a finished training"),
    ],
)
def test_a_broken_reference_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "reference.jsonl"
    path.write_text(json.dumps({"format": 1, "settings": {"epochs": 2}}) + "\n" + line + "\n")
    with pytest.raises(Exception, match=message):
        ReferenceTrainings.open(path, {"epochs": 2})


def test_a_reference_of_other_settings_is_refused(tmp_path: Path) -> None:
    reference = ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 2})
    arch = stratified_networks(load_space("cifar"), 4, 0)[0]
    reference.add(Training(arch, 0, (0.1, 0.2), 1.5))
    again = ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 2, "new": 1})
    assert again.trainings == reference.trainings
    with pytest.raises(RunError, match="other settings: 2 in the file, 3 now; use another --run") as caught:
        ReferenceTrainings.open(tmp_path / "a.jsonl", {"epochs": 3})
    assert (caught.value.key, caught.value.where) == ("epochs", f"{tmp_path / 'a.jsonl'}, line 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "3"], "--networks: must be at least 4: 3"),
        (["--seeds", "0"], "--seeds: must be at least 1: 0"),
        (["--evaluator", "synflo"], "unknown evaluator 'synflo'; did you mean 'synflow'?"),
        (["--space", "cifa"], "unknown search space 'cifa'; did you mean 'cifar'?"),
        (["--data", "/nowhere"], "unknown data set or folder '/nowhere'"),
        (["--supernet", "/nowhere"], "--supernet: no supernet (supernet.json) in this folder"),
        (["--accuracies", "/nowhere.csv"], "/nowhere.csv"),
        (["--evaluator", "proxy_training"], "--evaluator: the reference itself is trained by it; "),
        (["--space", "mobilenet_v2_0.35"], "--space: must have at least 4 networks, has 1: 'mobilenet_v2_0.35'"),
        (
            ["--space", "small_detector"],
            "head: block: must be a classifier: 'efficientdet_head'; detectors are for --task",
        ),
        (["--task", "detection", "--space", "cifar"], "head: block: must be the head of a detector: 'classifier'"),
        (["--task", "detection", "--data", "cifar10"], "--data: unknown data set, folder or COCO file 'cifar10'"),
        (["--task", "detection", "--metric", "accurcy"], "unknown metric 'accurcy'"),
        (["--task", "detect"], "--task: unknown task 'detect'; did you mean 'detection'?"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-proxy", "--run", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_recorded_reference_is_of_the_shipped_space() -> None:
    space = load_space("cifar").for_classes(10)
    path = shipped("experiments") / "cifar_reference.jsonl"
    reference = ReferenceTrainings.open(
        path, {"space": space.key, "epochs": space.proxy.epochs, "train_images": 10_000}
    )
    archs = stratified_networks(space, 20, 0)
    assert reference.missing(archs, (0, 1)) == []
    assert ceiling(reference.accuracies(archs, (0, 1))).kendall == pytest.approx(0.86, abs=0.005)
