"""Detectors on the command line: what belongs to another task is refused in one line, and several resolutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.spaces.automaton import reachable
from nas.spaces.resolutions import at_resolutions
from nas.spaces.yaml_format import parse_space
from nas.study.objectives import make_objective
from nas.study.study import open_study
from tests.cli.test_bad_input import refused
from tests.helpers.box_files import annotation, image, write_coco
from tests.helpers.small_detector import SMALL

SEARCH = ("search", "--target-latency", "9ms", "--runtime", "null")
DETECTION = (*SEARCH, "--task", "detection")
DETECTORS_ELSEWHERE = "detectors are for --task detection"
CLASSIFIERS_ELSEWHERE = "classifiers are for --task classification, the default"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of the small space of detectors, in the current directory."""
    monkeypatch.chdir(tmp_path)
    data = {**SMALL, "proxy": {"resolution": 32, "epochs": 1}}
    Path("small.yaml").write_text(json.dumps(data))
    return "small.yaml"


def write_data(images: int = 12) -> str:
    """Write images with boxes and return their COCO file."""
    return str(write_coco(Path("pets") / "pets.json", images))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*DETECTION, "--space", "mnasnet"], f"must be the head of a detector: 'classifier'; {CLASSIFIERS_ELSEWHERE}"),
        ([*SEARCH, "--space", "small_detector"], f"classifier: 'efficientdet_head'; {DETECTORS_ELSEWHERE}"),
        (["train", "efficientdet_d0", "--data", "digits"],
         f"efficientdet_d0, head: block: must be a classifier: 'efficientdet_head'; {DETECTORS_ELSEWHERE}"),
        (["train", "mobilenet_v2_1.0", "--task", "detection"],
         f"mobilenet_v2_1.0, head: block: must be the head of a detector: 'classifier'; {CLASSIFIERS_ELSEWHERE}"),
        ([*DETECTION, "--against", "mobilenet_v2_1.0"],
         "--against mobilenet_v2_1.0: head: is no detector, as the networks of this search are: 'classifier'"),
        ([*SEARCH, "--against", "efficientdet_d0"],
         "--against efficientdet_d0: head: is no classifier, as the networks of this search are: 'efficientdet_head'"),
        ([*DETECTION, "--metric", "accuracy"], "--metric: unknown metric 'accuracy'; known: AP, AP50"),
        ([*SEARCH, "--metric", "AP"], "--metric: unknown metric 'AP'; known: accuracy, balanced_accuracy, macro_f1"),
        ([*DETECTION, "--class-weights", "balanced"], "--class-weights: applies to classification only: 'balanced'"),
        (["train", "efficientdet_d0", "--task", "detection", "--teacher", "x", "--resolution", "64"],
         "--teacher: the task of 'digit_canvases' cannot learn from the outputs of a teacher: 'x'"),
        (["show", "efficientdet_d0", "--resolution", "256,320"],
         "--resolution: applies to search spaces only if it lists several, and 'efficientdet_d0' is a network"),
    ],
)  # fmt: skip
def test_a_network_or_a_setting_of_another_task_is_refused(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *argv)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("metric", "argv", "rule"),
    [
        ("accuracy", DETECTION, "ranked by accuracy, those of detection by one of AP, AP50"),
        ("AP", (*SEARCH, "--metric", "accuracy"), "ranked by AP, those of classification by one of accuracy, "),
    ],
)
@pytest.mark.parametrize("is_folder", [True, False])
def test_accuracies_of_another_task_are_refused(
    metric: str, argv: tuple[str, ...], rule: str, is_folder: bool, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_folder:
        space, objective = parse_space("small", SMALL, small), make_objective("soft", 1.0)
        with open_study(Path("other"), {"metric": metric}, space, objective.directions):
            pass
    else:
        Path("other").mkdir()
        Path("other/result.json").write_text(json.dumps({"metric": metric, "candidates": []}))
    name = "other" if is_folder else "other/result.json"
    line = refused(capsys, *argv, "--accuracies", name, "--run", "run")
    assert f"--accuracies: is a run of another task: its networks are {rule}" in line
    assert name in line
    assert not Path("run").exists()


def test_weights_and_settings_of_another_task_are_refused(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.yaml").write_text(json.dumps(first_choices(SMALL)))
    assert main(["export", "one.yaml", "--runtime", "null", "--out", "detector", "--quiet"]) == 0
    capsys.readouterr()
    line = refused(capsys, "train", "mobilenet_v2_0.35", "--resolution", "32", "--teacher", "detector", "--out", "a")
    assert f"--teacher detector, head: block: must be a classifier: 'efficientdet_head'; {DETECTORS_ELSEWHERE}" in line
    card = json.loads(Path("detector/card.json").read_text())
    Path("detector/card.json").write_text(json.dumps({**card, "data": {"name": "digits"}}))
    line = refused(capsys, "train", "detector", "--out", "a")
    assert f"detector, head: block: must be a classifier: 'efficientdet_head'; {DETECTORS_ELSEWHERE}" in line
    assert not Path("a").exists()


def first_choices(data: Any) -> Any:
    """Return the description of a space with the last value of each choice."""
    if isinstance(data, dict):
        return {key: [first_choices(each) for each in value] if key in ("stages", "neck") else first_choices(value)
                for key, value in data.items() if key != "per_layer"}  # fmt: skip
    return first_choices(data[0]) if isinstance(data, list) else data


def test_a_target_below_the_post_processing_says_its_share(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = ("search", "--task", "detection", "--runtime", "null", "--space", small, "--data", write_data())
    line = refused(capsys, *search, "--resolution", "32", "--target-latency", "1us", "--run", "run")
    assert "--target-latency: the fastest network of 'small' takes 0." in line
    assert " ms of it for post-processing alone, more than the target, this is out of reach: '0.001 ms'" in line
    assert not Path("run").exists()


def test_a_part_without_boxes_is_refused_and_a_class_without_boxes_is_named(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, part in enumerate(("train", "val", "test")):
        first = 10 * number + 1
        images = [image(each) for each in range(first, first + 4)]
        write_coco(Path("pets") / part / "a.json", images, [annotation(first, first)])
        write_coco(Path("blank") / part / "a.json", images, [annotation(first, first)] if part != "val" else [])
    search = ["search", "--task", "detection", "--runtime", "null", "--space", small, "--target-latency", "1us"]
    line = refused(capsys, *search, "--data", "blank")
    assert "annotations: no boxes in 4 validation images: none can be learned or found" in line
    assert main([*search, "--data", "pets", "--resolution", "32"]) == 2
    said = capsys.readouterr().err
    assert "pets: 1 class has no boxes in the training images: 'dog'" in said
    assert "pets: 9 images without boxes, kept as negatives: 3 training, 3 validation, 3 test" in said


def test_show_profile_and_search_take_several_resolutions(
    small: str, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    space = at_resolutions(parse_space("small", SMALL, small), (40, 64))
    assert main(["show", small, "--resolution", "64,40", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["resolution"], shown["size"]) == ([40, 64], space.size)
    where = ["--space", small, "--runtime", "null", "--resolution", "40,64", "--table", "t.jsonl"]
    assert main(["profile", *where, "--classes", "2", "--json", "--quiet"]) == 0
    profiled = json.loads(capsys.readouterr().out)
    assert profiled["layers"] == len(reachable(space))
    search = ["search", *where, "--task", "detection", "--target-latency", "9ms", "--data", write_data(8), "--run", "a"]
    assert main([*search, "--trials", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "latencies are of 40/64 px in null" in captured.err
    assert json.loads(captured.out)["settings"]["resolution"] == "40,64"
    line = refused(capsys, *search, "--trials", "1", "--resolution", "40")
    assert "resolution is 40, 64 there and 40 now" in line
