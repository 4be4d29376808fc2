"""--metric and --class-weights through every command, on images of which 95 % belong to one class."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.cli.main import main
from nas.errors import RunError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.rank_check.reference_trainings import Training, make_trainer
from nas.evaluators.supernet.evaluator import SupernetEvaluator
from nas.searching.context import resolve
from nas.searching.evaluation import make_remote_evaluator
from nas.searching.settings import SearchSettings
from nas.spaces.trainings import Proxy, SupernetTraining
from nas.spaces.yaml_format import load_space
from nas.study.study import read_trials
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter

NETWORK = """
resolution: 8
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: mbconv, depth: 1, out_channels: 8, expand_ratio: 2}
head: {block: classifier}
"""
TRAIN = ["train", "net.yaml", "--data", "photos", "--runtime", "null", "--epochs", "1"]
SEARCH = [
    "search", "--space", "tiny.yaml", "--data", "photos", "--runtime", "null", "--target-latency", "1s",
    "--trials", "2", "--finalist-seeds", "0", "--proxy-images", "40",
]  # fmt: skip
SCALE = [
    "scale", "net.yaml", "--search", "--data", "photos", "--budget", "macs", "--times", "2", "--step", "0.2",
    "--tolerance", "0.3", "--trials", "2", "--runtime", "null", "--proxy-epochs", "1", "--proxy-images", "40",
    "--finalist-seeds", "0", "--compare-seeds", "0",
]  # fmt: skip
CHECK = [
    "check-proxy", "--space", "tiny.yaml", "--data", "photos", "--networks", "4", "--seeds", "1", "--proxy-epochs", "1",
    "--proxy-images", "40", "--evaluator", "params",
]  # fmt: skip
BALANCED = ["--metric", "balanced_accuracy"]


@pytest.fixture(autouse=True)
def photos(tiny_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write 95 noisy pictures of one class for each 5 of the other, which look the same, and stand beside them."""
    monkeypatch.chdir(tiny_space.parent)
    Path("net.yaml").write_text(NETWORK, encoding="utf-8")
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name, count in (("common", 95), ("rare", 5)):
            folder = Path("photos", part, name)
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def result_of(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--quiet", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("warning: ")]
    return line.partition("error: ")[2]


def recalls(confusion: dict[str, dict[str, int]]) -> list[float]:
    return [row.get(name, 0) / sum(row.values()) for name, row in confusion.items()]


def are_of_one_confusion(accuracy: float, balanced: float) -> bool:
    """Return whether some confusion matrix of 95 and 5 images has this accuracy and balanced accuracy."""
    hits = round(100 * accuracy)
    return any(abs(((hits - rare) / 95 + rare / 5) / 2 - balanced) < 1e-9 for rare in range(6))


def test_a_training_shows_the_class_that_the_accuracy_hides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--epochs", "8", "--out", "run"]) == 0
    captured = capsys.readouterr()
    assert "warning: accuracy can hide the class 'rare' (15 of 300 images); consider --metric" in captured.err
    assert "warning: the accuracy of 95.0% hides classes of which few images are recognized: 'rare'" in captured.err
    assert "accuracy      95.0% on the test set of photos, " in captured.out
    assert "worst classes 'rare' (0 of 5 found)" in captured.out
    result = json.loads(Path("run/result.json").read_text())
    assert (result["metric"], result["test_accuracy"]) == ("accuracy", 0.95)
    assert result["confusion"] == {"common": {"common": 95}, "rare": {"common": 5}}
    assert result["by_class"]["common"] == {"recall": 1.0, "precision": 0.95, "support": 95}
    assert result["by_class"]["rare"] == {"recall": 0.0, "precision": None, "support": 5}
    assert not {"metric", "class_weights"} & result["settings"].keys()
    card = json.loads(Path("run/model/card.json").read_text())
    assert all(card[key] == result[key] for key in ("metric", "by_class", "confusion", "test_accuracy"))
    assert Path("run/confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("metric", "words"), [("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro f1")])
def test_a_training_reports_the_metric_by_name(metric: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--metric", metric, "--class-weights", "balanced", "--out", "run"]) == 0
    captured = capsys.readouterr()
    assert "warning: accuracy can hide" not in captured.err
    result = json.loads(Path("run/result.json").read_text())
    assert result["metric"] == result["settings"]["metric"] == metric
    assert result["settings"]["class_weights"] == "balanced"
    assert f"epoch 1/1: loss {result['curve'][0]['loss']:.4f}, validation {words} " in captured.err
    value, validation = result[f"test_{metric}"], result[f"validation_{metric}"]
    assert f"metric        {words} {value:.1%} on the test set of photos, {validation:.1%} on the val" in captured.out
    assert f"accuracy      {result['test_accuracy']:.1%} on the test set of photos" in captured.out
    if metric == "balanced_accuracy":
        assert value == pytest.approx(sum(recalls(result["confusion"])) / 2)
        assert are_of_one_confusion(result["validation_accuracy"], validation)
    assert result["curve"][0]["metric_value"] == validation
    line = refused(capsys, *TRAIN, "--class-weights", "balanced", "--out", "run")
    assert line == f"run: holds another experiment: metric is '{metric}' there and 'accuracy' now; give another --out"
    line = refused(capsys, *TRAIN, "--metric", metric, "--out", "run")
    assert line.startswith("run: holds another experiment: class_weights is 'balanced' there and 'none' now")


def test_a_search_ranks_by_the_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, *BALANCED, "--run", "run"]) == 0
    captured, result = capsys.readouterr(), json.loads(Path("run/result.json").read_text())
    assert "at 8 px, are ranked by balanced accuracy on photos" in captured.err
    assert f"trial 1: balanced accuracy {result['candidates'][0]['accuracy']:.1%} at " in captured.err
    space, trials = load_space("tiny.yaml").for_classes(2), result["candidates"]
    context = EvaluatorContext(Classification.load("photos"), replace(space, proxy=Proxy(8, 1, 40)), Path())
    for arch in [trial.architecture for trial in read_trials(Path("run"), space)]:
        (accuracy,) = ProxyTraining(context).evaluate(arch, 0)
        (found,) = [trial["accuracy"] for trial in trials if trial["architecture"] == arch.digest]
        assert are_of_one_confusion(accuracy, found)
        assert accuracy != found
    best, card = result["best"], json.loads(Path("run/model/card.json").read_text())
    assert result["metric"] == "balanced_accuracy"
    assert best["test_balanced_accuracy"] == pytest.approx(sum(recalls(best["confusion"])) / 2)
    for key in ("metric", "test_accuracy", "test_balanced_accuracy", "by_class", "confusion"):
        assert card[key] == best[key]
    assert Path("run/confusion.png").read_bytes().startswith(b"\x89PNG")
    value = f"balanced accuracy {best['test_balanced_accuracy']:.1%} on the test set, {best['accuracy']:.1%} as a proxy"
    assert f"metric        {value}" in captured.out
    settings = SearchSettings("1s", "tiny.yaml", "photos", runtime="null", start_from="run", run="next")
    for metric, is_known in (("balanced_accuracy", True), ("accuracy", False)):
        (prior,) = resolve(replace(settings, metric=metric, proxy_images=40), Reporter(quiet=True)).prior_sources
        assert prior.same is is_known
    line = refused(capsys, *SEARCH, "--run", "run")
    assert line.startswith("run: holds another experiment: metric is 'balanced_accuracy' there and 'accuracy' now")
    for source in ("run", "run/result.json"):
        line = refused(capsys, *SEARCH, "--accuracies", source)
        assert f"the table '{source}' holds the balanced accuracy: 'accuracy'" in line


def test_evaluators_in_other_processes_have_the_metric_and_the_class_weights() -> None:
    task = Classification.load("photos", None, "macro_f1", "balanced")
    space = load_space("tiny.yaml").for_classes(2)
    build = pickle.loads(pickle.dumps(partial(make_remote_evaluator, SearchSettings("1s"), task, space, None)))
    assert build().settings["metric"] == "macro_f1"
    assert build().settings["class_weights"] == "balanced"
    trainer = make_trainer(space, "photos", None, 1, task.settings)
    assert trainer.settings == build().settings


def test_a_supernet_belongs_to_its_class_weights_and_serves_every_metric() -> None:
    space = replace(load_space("tiny.yaml").for_classes(2), supernet=SupernetTraining(epochs=1, children=1))
    for weights, other in (("none", "balanced"), ("balanced", "none")):
        trained, here, ranking = (
            Classification.load("photos", None, metric, each)
            for metric, each in (("accuracy", weights), ("accuracy", other), ("macro_f1", weights))
        )
        first = SupernetEvaluator(EvaluatorContext(trained, space, Path(weights)))
        assert first.settings["training"].get("class_weights", "none") == weights
        with pytest.raises(RunError, match="the supernet is for another search") as caught:
            SupernetEvaluator(EvaluatorContext(here, space, Path("run"), Path(weights)))
        assert caught.value.key == "class_weights"
        assert (
            SupernetEvaluator(EvaluatorContext(ranking, space, Path("run"), Path(weights))).settings["metric"]
            == "macro_f1"
        )
    cards = [json.loads(Path(weights, "supernet", "supernet.json").read_text()) for weights in ("none", "balanced")]
    assert cards[0]["losses"] != cards[1]["losses"]


def test_a_coefficient_search_ranks_by_the_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SCALE, *BALANCED, "--run", "run"]) == 0
    captured = capsys.readouterr()
    result = json.loads(Path("run/scale.json").read_text())["search"]
    assert result["metric"] == result["settings"]["metric"] == "balanced_accuracy"
    for candidate in result["candidates"]:
        assert any(are_of_one_confusion(hits / 100, candidate["accuracy"]) for hits in range(101))
    assert "best          balanced accuracy " in captured.out
    assert refused(capsys, *SCALE, "--run", "run").startswith("run: holds another experiment: metric is ")


def test_a_rank_check_uses_the_metric(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluators.rank_check.check.train_reference", train_here)
    monkeypatch.setattr("nas.evaluators.zero_cost.REFERENCE", 4)
    monkeypatch.setattr("nas.evaluators.rank_check.rank_correlation.RESAMPLES", 20)
    assert main([*CHECK, *BALANCED, "--run", "run"]) == 0
    captured = capsys.readouterr()
    result = json.loads(Path("run/check.json").read_text())
    assert result["metric"] == "balanced_accuracy"
    reference = result["reference"]
    assert f"balanced accuracy {reference['lowest']:.1%} to {reference['highest']:.1%}" in captured.out
    for flags, here in (([], "accuracy"), (["--metric", "macro_f1"], "macro_f1")):
        line = refused(capsys, *CHECK, *flags, "--run", "run")
        assert f"metric: the trainings have other settings: 'balanced_accuracy' in the file, '{here}' now" in line
    line = refused(capsys, *CHECK, *BALANCED, "--class-weights", "balanced", "--run", "run")
    assert "class_weights: the trainings have other settings: 'none' in the file, 'balanced' now" in line


def train_here(pending: Any, space: Any, *args: Any) -> Iterator[Training]:
    """Stand in for the trainings in other processes."""
    trainer = make_trainer(space, args[0], args[1], 1, args[-1])
    for arch, seed in pending:
        yield Training(arch, seed, tuple(trainer.evaluate(arch, seed)), 0.1)


@pytest.mark.parametrize("command", [TRAIN, SEARCH, SCALE, CHECK], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--metric", "balanced_acuracy"],
            "--metric: unknown metric 'balanced_acuracy'; did you mean 'balanced_accuracy'?",
        ),
        (["--class-weights", "inverse"], "--class-weights: unknown class_weights 'inverse'; known: balanced, none"),
    ],
)
def test_an_unknown_value_is_refused(
    command: list[str], flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(capsys, *command, *flags)
    assert not Path("runs").exists()


@pytest.mark.parametrize("evaluator", ["synflow", "params", "mine:accuracy"])
@pytest.mark.parametrize("command", [SEARCH, SCALE], ids=["search", "scale"])
def test_an_evaluator_with_values_of_its_own_refuses_another_metric(
    command: list[str], evaluator: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(".")
    Path("mine.py").write_text("def accuracy(arch, seed):\n    return 0.5\n", encoding="utf-8")
    line = refused(capsys, *command, "--evaluator", evaluator, "--metric", "macro_f1")
    assert line == (
        f"--metric: the evaluator '{evaluator}' cannot apply it, it has values of its own: 'macro_f1'; "
        "proxy_training and supernet can"
    )
    assert not Path("runs").exists()


def test_a_table_of_accuracies_has_no_other_metric(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text(f"architecture,accuracy\n{'0' * 16},0.5\n", encoding="utf-8")
    line = refused(capsys, *SEARCH, "--accuracies", "table.csv", *BALANCED)
    assert line == ("--metric: the table 'table.csv' holds the accuracy: 'balanced_accuracy'; did you mean 'accuracy'?")


def test_class_weights_are_refused_where_nothing_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *SCALE, "--evaluator", "params", "--class-weights", "balanced")
    assert line == "--class-weights: has no effect: the evaluator 'params' does not apply it: 'balanced'"
    for flags in (BALANCED, ["--class-weights", "balanced"]):
        line = refused(capsys, "scale", "net.yaml", *flags)
        assert line == f"{flags[0]}: applies only to the coefficient search: add --search"
