"""References as a user sees them: trained, tested, measured and exported beside the winner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from nas.cli.main import main
from nas.cli.search import print_comparison
from nas.searching.against.choice import Published
from nas.searching.against.references import make_reference
from nas.searching.winner_training import WinnerTraining, train_seeds
from nas.spaces.search_space import Space
from nas.study.trial_store import evaluated, find
from nas.training.loop import TrainingError
from tests.helpers.nas_process import kill_when, start_nas

pytestmark = pytest.mark.usefixtures("warm_cache")

IN_SPACE = """
resolution: 64
stages:
  - {block: conv, out_channels: 8, stride: 2}
  - {block: separable, out_channels: 12, stride: 2}
  - {block: mbconv, out_channels: 24, kernel_size: 3, skip: identity}
head: {block: classifier, hidden_channels: 16}
"""
OUTSIDE = """
resolution: 48
stages:
  - {block: conv, out_channels: 4, stride: 2}
  - {block: conv, out_channels: 4, stride: 2}
head: {block: classifier, num_classes: 77}
"""
FLAGS = [
    "--runtime", "null", "--trials", "3", "--seed", "1", "--controller", "random", "--finalist-seeds", "0",
    "--target-latency", "1s", "--json", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_space: Path) -> None:
    """Stand in a folder with the tiny space, a network of it and another network."""
    monkeypatch.chdir(tmp_path)
    Path("inside.yaml").write_text(IN_SPACE)
    Path("outside.yaml").write_text(OUTSIDE)


def search_args(run: str, *more: str) -> list[str]:
    return ["search", "--space", "tiny.yaml", "--run", run, *FLAGS, *more]


def searched(capsys: pytest.CaptureFixture[str], run: str, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(search_args(run, *more)) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], run: str, *more: str) -> str:
    capsys.readouterr()
    assert main(search_args(run, *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("warning")]
    return line


def test_a_reference_is_trained_tested_measured_and_exported_as_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    result = searched(capsys, "run", "--against", "outside.yaml")
    (reference,) = result["against"]
    best, card = result["best"], json.loads(Path("run/against-outside/card.json").read_text())
    assert (reference["name"], reference["resolution"], reference["metric"]) == ("outside.yaml", 32, "accuracy")
    assert reference["architecture"] == card["architecture"] != best["architecture"]
    assert reference["accuracies"] == {"1": reference["test_accuracy"]}
    assert card["test_accuracy"] == reference["test_accuracy"]
    assert card["test_images"] == best["test_images"]
    winner = json.loads(Path("run/model/card.json").read_text())
    same = ("resolution", "images", "epochs", "learning_rate", "batch_size")
    assert [[phase.get(key) for key in same] for phase in card["training"]] == [
        [phase.get(key) for key in same] for phase in winner["training"]
    ]
    latency_ms = reference["latency_ms"]
    assert latency_ms["p10"] <= latency_ms["measured"] <= latency_ms["p90"]
    assert latency_ms["predicted"] is None  # the table of the space does not cover its layers
    assert reference["winner_latency_ms"]["measured"] == best["latency_ms"]["measured"]  # simulated time
    assert reference["holds_target"] is True
    assert (reference["params"], reference["macs"]) == (card["params"], card["macs"])
    difference = reference["difference"]
    assert difference["mean"] == pytest.approx(best["test_accuracy"] - reference["test_accuracy"])
    assert 0 < difference["plus_minus"] < 0.2
    assert "one seed each" in difference["basis"]
    assert not Path("run/winner").exists()
    assert searched(capsys, "run", "--against", "outside.yaml") == result
    moved = Path("outside.yaml").rename("moved.yaml")
    assert searched(capsys, "run", "--against", str(moved)) == result
    Path("outside.yaml").write_text(OUTSIDE.replace("4", "6"))
    changed = refused(capsys, "run", "--against", "outside.yaml")
    assert "--against: outside.yaml has changed since this run began" in changed
    assert "against is ['outside.yaml'] there and None now" in refused(capsys, "run", "--against", "none")


def test_a_network_of_the_space_is_evaluated_first_and_may_win(capsys: pytest.CaptureFixture[str]) -> None:
    result = searched(capsys, "run", "--against", "inside.yaml", "--against", "outside.yaml", "--trials", "1")
    first, other = result["against"]
    assert result["candidates"][0]["architecture"] == first["architecture"] == result["best"]["architecture"]
    assert first["difference"] == {"mean": 0, "plus_minus": 0, "basis": "the search found this network itself"}
    assert first["latency_ms"]["predicted"] == pytest.approx(result["best"]["latency_ms"]["predicted"])
    assert other["architecture"] != first["architecture"]
    assert {path.name for path in Path("run").glob("against-*")} == {"against-inside", "against-outside"}
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in ("run/model", "run/against-inside")]
    assert weights[0] == weights[1]
    print_comparison(first, result["best"])
    latency = f"{first['latency_ms']['measured']:.3g} ms, {first['test_accuracy']:.1%}"
    assert capsys.readouterr().out == f"against       inside.yaml: {latency}; the search found this network itself\n"


def test_without_a_reference_the_candidates_are_those_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    without, outside = (
        searched(capsys, run, "--against", name) for run, name in (("a", "none"), ("b", "outside.yaml"))
    )
    assert without["against"] == []
    keys = ("architecture", "accuracy", "curve")
    assert [[trial[key] for key in keys] for trial in without["candidates"]] == [
        [trial[key] for key in keys] for trial in outside["candidates"]
    ]
    assert without["best"]["test_accuracy"] == outside["best"]["test_accuracy"]


def test_a_run_without_a_reference_continues_without_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    searched(capsys, "run", "--against", "none")
    assert "against" not in (find(Path("run")).attributes()["settings"])
    assert main([arg for arg in search_args("run", "--trials", "4") if arg != "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "run: began without --against and continues without it" in captured.err
    assert json.loads(captured.out)["trials"] == 4
    assert "against is None there and ['outside.yaml'] now" in refused(capsys, "run", "--against", "outside.yaml")


def test_goals_share_the_training_of_a_reference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[str]()

    def train(*args: Any) -> tuple[nn.Module, WinnerTraining]:
        trained.append(args[2].digest)
        return train_seeds(*args)

    monkeypatch.setattr("nas.searching.against.comparison.train_seeds", train)
    goals = ["--target-latency", "2s", "--against", "outside.yaml"]
    result = searched(capsys, "run", *goals)
    names = [[reference["name"] for reference in goal["against"]] for goal in result["goals"]]
    assert names == [["outside.yaml"], ["outside.yaml"]]
    assert len(trained) == 1
    assert {path.name for path in Path("run").glob("against-*")} == {"against-outside"}


def test_several_seeds_train_both_and_the_best_by_validation_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    one = searched(capsys, "one", "--against", "outside.yaml")
    result = searched(capsys, "run", "--against", "outside.yaml", "--final-seeds", "3")
    best, (reference,) = result["best"], result["against"]
    assert best["accuracies"].keys() == reference["accuracies"].keys() == {"1", "2", "3"}
    assert best["accuracies"]["1"] == one["best"]["test_accuracy"]
    assert reference["accuracies"]["1"] == one["against"][0]["test_accuracy"]
    for tested in (best, reference):
        assert tested["test_accuracy"] in tested["accuracies"].values()
    differences = [best["accuracies"][seed] - reference["accuracies"][seed] for seed in "123"]
    assert reference["difference"]["mean"] == pytest.approx(sum(differences) / 3)
    assert "between 3 seeds" in reference["difference"]["basis"]
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["accuracies"] == best["accuracies"]
    assert card["test_accuracy"] == best["test_accuracy"]
    shown = [arg for arg in search_args("run", "--against", "outside.yaml", "--final-seeds", "3") if arg != "--json"]
    assert main(shown) == 0
    assert "(mean of 3 seeds, " in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_training_of_a_reference_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--against", "outside.yaml", "--final-epochs", "20"]
    whole = searched(capsys, "whole", *more)["against"][0]
    digest = whole["architecture"]
    process = start_nas(search_args("killed", *more))
    kill_when(process, lambda: any(Path("killed/winner").glob(f"{digest}-*.pt")))
    assert not Path("killed/result.json").exists()
    assert Path("killed/model/card.json").is_file()
    (checkpoint,) = Path("killed/winner").glob(f"{digest}-0.pt")
    assert checkpoint.stat().st_size > 0
    resumed = searched(capsys, "killed", *more)["against"][0]
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    assert resumed["difference"] == whole["difference"]


def test_the_last_lines_compare_and_advise(capsys: pytest.CaptureFixture[str]) -> None:
    args = [arg for arg in search_args("run", "--against", "outside.yaml") if arg != "--json"]
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    (reference,) = json.loads(Path("run/result.json").read_text())["against"]
    (line,) = [line for line in lines if line.startswith("against ")]
    assert line.startswith("against       outside.yaml: ")
    assert f"{reference['test_accuracy']:.1%}; found: " in line
    assert "(1 seed each, " in line
    mean, plus_minus = (reference["difference"][key] for key in ("mean", "plus_minus"))
    assert any("the reference is better by" in line for line in lines) == (mean < -plus_minus)
    assert any("differ by no more than chance" in line for line in lines) == (abs(mean) <= plus_minus)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["mobilenet_v2_1"],
            "--against mobilenet_v2_1: unknown network 'mobilenet_v2_1'; did you mean 'mobilenet_v2_1",
        ),
        (["none", "--against", "outside.yaml"], "--against: 'none' excludes other networks: 'outside.yaml'"),
        ([""], "--against: must be a network's name, YAML file or folder: ''"),
        (["tiny.yaml"], "--against tiny.yaml: a space with"),
        (["absent.yaml"], "--against absent.yaml: no such file"),
        (["folder"], "--against folder: folder: not an exported network"),
        (["odd.yaml"], "--against odd.yaml: stage 2, layer 0"),
        (["efficientdet_d0"], "--against efficientdet_d0: head: is no classifier, as the networks of this search are"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    Path("odd.yaml").write_text(OUTSIDE.replace("head:", "  - {block: shufflenet_v2, out_channels: 5}\nhead:"))
    assert message in refused(capsys, "run", "--against", *flags)
    assert not Path("run").exists()


def test_a_worker_evaluates_only(capsys: pytest.CaptureFixture[str]) -> None:
    result = searched(capsys, "run", "--worker", "--against", "auto")
    assert result["evaluated"] == 3
    settings = find(Path("run")).attributes()["settings"]
    assert settings["against"] == ["auto"]
    assert "against_chosen" not in settings
    searched(capsys, "run")
    assert len(evaluated(find(Path("run")))) == 3
    assert find(Path("run")).attributes()["settings"]["against_chosen"] == {"": None}


@pytest.fixture
def two_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the two networks be the published ones, the network outside of the space the better one."""

    def published(space: Space, resolution: int) -> list[Published]:
        made = [make_reference(name, space, top1) for name, top1 in (("outside.yaml", 80.0), ("inside.yaml", 70.0))]
        return [Published(each, each.at(resolution), (1.0, 1.0, 1.0)) for each in made]

    monkeypatch.setattr("nas.searching.against.choice.published_networks", published)


def test_the_reference_is_chosen_once_and_measured_once(
    capsys: pytest.CaptureFixture[str], two_published: None, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = searched(capsys, "run", "--target-latency", "2s")
    for goal in result["goals"]:
        assert [(each["name"], each["published_top1"]) for each in goal["against"]] == [("outside.yaml", 80.0)]
    chosen = find(Path("run")).attributes()["settings"]["against_chosen"]
    assert {goal: name for goal, (name, _) in chosen.items()} == {"1000ms": "outside.yaml", "2000ms": "outside.yaml"}
    (file,) = (private_cache / "network_latencies").rglob("*.jsonl")
    rows = file.read_text()
    assert searched(capsys, "other")["against"][0]["name"] == "outside.yaml"
    assert file.read_text() == rows
    monkeypatch.setattr("nas.searching.against.choice.published_networks", lambda *_: [])
    more = searched(capsys, "run", "--target-latency", "2s", "--trials", "4")  # it keeps what it has chosen
    assert [goal["against"][0]["name"] for goal in more["goals"]] == ["outside.yaml", "outside.yaml"]
    Path("outside.yaml").write_text(OUTSIDE.replace("4", "6"))
    assert "against_chosen is" in refused(capsys, "run", "--target-latency", "2s", "--trials", "5")


def test_a_device_that_is_not_at_hand_has_references_that_its_table_covers(
    capsys: pytest.CaptureFixture[str], two_published: None, private_cache: Path
) -> None:
    searched(capsys, "first", "--against", "none")
    (table,) = (private_cache / "latency_tables").rglob("*.jsonl")
    header, _, rows = table.read_text().partition("\n")
    other = {**json.loads(header), "device": {"processor": "other", "machine": "other", "cores": 1, "system": "other"}}
    Path("other.jsonl").write_text(f"{json.dumps(other)}\n{rows}")
    (reference,) = searched(capsys, "run", "--table", "other.jsonl", "--any-device")["against"]
    assert reference["name"] == "inside.yaml"
    assert reference["latency_ms"]["measured"] is None
    assert 0 < reference["latency_ms"]["predicted"] < 1000
    assert reference["winner_latency_ms"]["measured"] is None
    named = searched(capsys, "named", "--table", "other.jsonl", "--any-device", "--against", "outside.yaml")
    assert named["against"][0]["latency_ms"]["predicted"] is None
    assert named["against"][0]["holds_target"] is None


def test_shared_weights_favor_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--evaluator", "supernet", "--supernet-epochs", "1", "--against", "inside.yaml", "--trials", "1"]
    (reference,) = searched(capsys, "run", *args)["against"]
    assert "favors the winner" in reference["difference"]["basis"]
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in ("run/model", "run/against-inside")]
    assert weights[0] != weights[1]  # the same network, from other first weights


def test_a_reference_whose_training_fails_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("nas.searching.against.comparison.train_seeds", fail)
    assert main(search_args("run", "--against", "outside.yaml")) == 0
    captured = capsys.readouterr()
    assert "warning: --against outside.yaml: it is left out of the comparison: the loss is not finite" in captured.err
    assert json.loads(captured.out)["against"] == []


def test_the_advice_names_the_folder_of_a_better_reference(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"predicted": 5.0, "measured": 4.8, "p10": 4.7, "p90": 4.9}
    reference = {
        "name": "net", "metric": "accuracy", "test_accuracy": 0.842, "accuracies": {"0": 0.842}, "latency_ms": times,
        "winner_latency_ms": {**times, "measured": 4.3}, "holds_target": True, "model": "run/against-net",
        "difference": {"mean": -0.032, "plus_minus": 0.009, "basis": ""},
    }  # fmt: skip
    best = {"latency_ms": {"predicted": 4.0, "measured": 4.2}, "test_accuracy": 0.81}
    print_comparison(reference, best)
    assert capsys.readouterr().out.splitlines() == [
        "against       net: 4.8 ms, 84.2%; found: 4.3 ms, 81.0% (1 seed each, -3.2 +- 0.9)",
        "              the reference is better by 3.2 points; use it: run/against-net",
    ]
    print_comparison({**reference, "holds_target": False}, best)
    assert "better by 3.2 points; it does not hold the target; it is in run/against-net" in capsys.readouterr().out
    for mean in (-0.005, 0.005):
        print_comparison({**reference, "difference": {"mean": mean, "plus_minus": 0.009}}, best)
        assert "no more than chance; the winner is faster; the reference is in run/" in capsys.readouterr().out
    print_comparison({**reference, "difference": {"mean": 0.01, "plus_minus": None}}, best, "20ms")
    assert capsys.readouterr().out.startswith("against       20ms: net: 4.8 ms, 84.2%; found: 4.3 ms, 81.0% (1 seed")
