"""The resolutions of a search: given ones, those that suit the images, and those that a run or a table has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nas.cli.main import main
from nas.errors import UsageError
from nas.latency.catalog import all_tables
from nas.latency.table import LatencyTable
from nas.searching.resolution.choice import stored_resolution, with_resolution
from nas.searching.resolution.proposal import image_side, proposed
from nas.searching.settings import SearchSettings, read_settings
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space, parse_space
from nas.study.study import JOURNAL, read_trials
from nas.training.detection.boxes import BoxData, Boxes, BoxSplit
from nas.training.detection.detection import Detection
from nas.training.tasks.classification import Classification
from nas.training.tasks.splits import ImageData, Split
from nas.utils.reporting import Reporter

DATA: dict[str, Any] = {
    "resolution": 128,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": "mbconv", "out_channels": [12, 16], "kernel_size": [3, 5], "depth": [1, 2], "stride": 2},
    ],
    "head": {"block": "classifier"},
    "proxy": {"resolution": 8, "epochs": 1, "images": 100},
    "final": {"epochs": 1, "images": 50},
}
DOWN = {"block": "mbconv", "out_channels": [8, 16], "stride": 4}
SPACE: Space = parse_space("wide", DATA, "wide.yaml")


def settings(**given: Any) -> SearchSettings:
    return SearchSettings(**{"target_latency": "1ms", "runtime": "null", **given})


def task_of(*sizes: tuple[int, int], fit: str = "crop") -> Classification:
    """Return a task whose training images have the sizes (H, W)."""
    split = Split([np.zeros(size, np.uint8) for size in sizes], tuple(range(len(sizes))))
    return Classification(ImageData("made up", tuple("abcdef"), split, split, split), fit=fit)


def selected(
    capsys: pytest.CaptureFixture[str], space: Space, given: SearchSettings, task: Classification, **more: Any
) -> tuple[Space, str]:
    """Return the space with its resolutions, and what was printed."""
    found = with_resolution(space, given, task, more.get("stored"), Reporter())
    return found, capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "image_px", "expected"),
    [
        ((224,), 100, (96,)),
        ((224,), 111, (96,)),
        ((224,), 112, (128,)),
        ((224,), 8, (64,)),
        ((224,), 207, (192,)),
        ((224,), 208, (224,)),
        ((224,), 3000, (224,)),
        ((100,), 95, (96,)),
        ((100,), 112, (100,)),
        ((64,), 8, (64,)),
        ((32,), 8, (32,)),
        ((32, 48, 64), 8, (32, 48, 64)),
        ((128, 160, 192, 224), 150, (128, 160)),
        ((224, 128, 160), 170, (128, 160)),
        ((160, 192), 8, (160,)),
    ],
)
def test_the_images_lower_the_resolution_to_a_multiple_of_32(
    own: tuple[int, ...], image_px: float, expected: tuple[int, ...]
) -> None:
    assert proposed(own, image_px) == expected


def test_the_size_of_images_is_that_after_the_fit(tmp_path: Path) -> None:
    sizes = [(100, 140), (90, 300), (110, 60)]
    assert image_side(task_of(*sizes, fit="crop")) == 90
    assert image_side(task_of(*sizes, fit="pad")) == 140
    assert image_side(task_of(*sizes, fit="stretch")) == 90
    for name, (height, width) in zip(("a", "b", "c"), sizes, strict=True):
        for number in range(6):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height), (number * 9, 1, 2)).save(path)
    task = Classification.load(str(tmp_path / "images"), fit="crop")
    assert image_side(task) == 90
    for image in task.data.train.images[1:]:
        Path(image).write_bytes(b"broken")
    assert image_side(task) in (60, 90, 100)
    Path(task.data.train.images[0]).write_bytes(b"broken")
    assert image_side(task) is None


@pytest.mark.parametrize(
    ("own", "sizes", "fit", "expected"),
    [
        ((256, 320, 384), [(640, 480)], "pad", (256, 320, 384)),
        ((256, 320, 384), [(4000, 300)], "pad", (256, 320, 384)),
        ((256, 320, 384), [(200, 300), (330, 100), (10, 310)], "pad", (256, 320)),
        ((256, 320, 384), [(310, 100)], "stretch", (256,)),
        ((256, 320, 384), [(128, 96)], "pad", (256,)),
        ((320,), [(200, 100)], "pad", (192,)),
        ((320,), [(20, 24)], "pad", (64,)),
    ],
)
def test_the_longer_side_of_padded_images_lowers_the_resolutions_of_detectors(
    own: tuple[int, ...], sizes: list[tuple[int, int]], fit: str, expected: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    boxes = tuple(Boxes.of([[1, 1, 8, 8]], [0]) for _ in sizes)
    split = BoxSplit([np.zeros((height, width), np.uint8) for width, height in sizes], boxes, tuple(sizes))
    task = Detection(BoxData("made up", ("a",), (1,), split, split, split), fit=fit)
    space = replace(load_space("small_detector"), resolution=own)
    given = settings(task="detection", metric="AP")
    found = with_resolution(space, given, task, None, Reporter())
    assert found.resolution == expected
    assert found.proxy.resolution == min(96, *expected)
    assert ("--resolution sets another" in capsys.readouterr().err) == (expected != own)


def test_auto_says_what_it_selects_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    large = replace(SPACE, resolution=(224,))
    space, said = selected(capsys, large, settings(), task_of((100, 130), (101, 100)))
    assert space == replace(large, resolution=(96,))
    expected = "images are about 100 px: networks are for 96 px instead of the space's 224; --resolution sets another"
    assert said.strip() == expected
    several = replace(SPACE, resolution=(128, 160, 192))
    space, said = selected(capsys, several, settings(), task_of((160, 160)))
    assert space.resolution == (128, 160)
    assert "networks are for 128, 160 px instead of the space's 128, 160, 192" in said
    assert selected(capsys, large, settings(), task_of((500, 400))) == (large, "")
    small = replace(SPACE, resolution=(48,))
    assert selected(capsys, small, settings(), task_of((20, 20))) == (small, "")
    assert selected(capsys, large, settings(resolution="64,32"), task_of((20, 20))) == (
        replace(large, resolution=(32, 64)), ""
    )  # fmt: skip


def test_a_table_that_cannot_be_extended_keeps_the_resolution(capsys: pytest.CaptureFixture[str]) -> None:
    space, task = load_space("single_path_nas"), task_of((100, 100))
    found, said = selected(capsys, space, settings(table="pixel1"), task)
    assert found == space
    assert said.strip() == (
        "networks are for 224 px, because --table pixel1 cannot be extended here; --resolution sets another"
    )
    found, said = selected(capsys, space, settings(table="pixel1", resolution="96"), task)
    assert (found.resolution, said) == ((96,), "")
    assert selected(capsys, space, settings(table="pixel1"), task_of((300, 300))) == (space, "")


def test_a_table_of_this_device_does_not_keep_the_resolution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, written = tmp_path / "here.jsonl", tmp_path / "wide.yaml"
    written.write_text(yaml.safe_dump({**DATA, "resolution": 64}, sort_keys=False))
    assert main(["profile", "--space", str(written), "--runtime", "null", "--table", str(path), "--quiet"]) == 0
    capsys.readouterr()
    found, said = selected(capsys, SPACE, settings(table=str(path)), task_of((8, 8)))
    assert found.resolution == (64,)
    assert "images are about 8 px" in said
    lines = path.read_text().splitlines()
    header = {**json.loads(lines[0]), "host": "elsewhere"}
    path.write_text("\n".join([json.dumps(header), *lines[1:], ""]))
    found, said = selected(capsys, SPACE, settings(table=str(path)), task_of((8, 8)))
    assert found.resolution == (128,)
    assert f"because --table {path} cannot be extended here" in said


def test_a_resolution_that_networks_cannot_be_built_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    deep = parse_space("deep", {**DATA, "stages": [DOWN] * 3}, "deep.yaml")
    with pytest.raises(UsageError) as failure:
        with_resolution(deep, settings(resolution="96,32"), task_of((8, 8)), None, Reporter())
    assert (failure.value.key, failure.value.value) == ("resolution", 32)
    assert "networks of 'deep' cannot be built for it (stage 2, layer 0: a stride of 4 leaves no pixels of 2x2)" in str(
        failure.value
    )
    found, said = selected(capsys, replace(deep, resolution=(256,)), settings(), task_of((8, 8)))
    assert found.resolution == (64,)
    deeper = parse_space("deeper", {**DATA, "resolution": 1024, "stages": [DOWN] * 4}, "deeper.yaml")
    found, said = selected(capsys, deeper, settings(), task_of((8, 8)))
    assert found.resolution == (1024,)
    assert "because networks of 'deeper' cannot be built for 64 px (stage 3" in said


def test_the_proxy_is_not_larger_than_the_networks(capsys: pytest.CaptureFixture[str]) -> None:
    wide = replace(SPACE, proxy=replace(SPACE.proxy, resolution=100))
    found, _ = selected(capsys, wide, settings(), task_of((8, 8)))
    assert (found.resolution, found.proxy.resolution, found.proxy.images) == ((64,), 64, 100)
    assert selected(capsys, wide, settings(resolution="96,128"), task_of((8, 8)))[0].proxy.resolution == 96
    above = replace(SPACE, resolution=(32,), proxy=replace(SPACE.proxy, resolution=48))
    assert selected(capsys, above, settings(), task_of((8, 8)))[0] == above  # as before there was a choice
    given = settings(resolution="96", proxy_resolution=100)
    with pytest.raises(UsageError) as failure:
        with_resolution(wide, given, task_of((8, 8)), None, Reporter())
    assert (failure.value.key, failure.value.value) == ("proxy_resolution", 100)
    assert failure.value.rule == "must be at most the resolution of the networks, 96"
    assert with_resolution(wide, given, task_of((8, 8)), {}, Reporter()).proxy.resolution == 100


@pytest.mark.parametrize(
    ("text", "value"),
    [("resolution: 96", "96"), ("resolution: [96, 128]", "96,128"), ("resolution: auto", "auto"),
     ("resolution: '96'", "96")],
)  # fmt: skip
def test_an_experiment_names_resolutions_as_numbers(text: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    assert read_settings(str(path)) == {"resolution": value}


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """The file of a space for 128 px."""
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump(DATA, sort_keys=False), encoding="utf-8")
    return str(path)


def search(capsys: pytest.CaptureFixture[str], space: str, run: Path, *more: str) -> tuple[dict[str, Any], str]:
    """Search with three trials on the digits; return the result and the messages."""
    command = ["search", "--space", space, "--runtime", "null", "--target-latency", "1ms", "--trials", "3", "--json"]
    assert main([*command, "--run", str(run), *more]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def refusal(capsys: pytest.CaptureFixture[str], space: str, run: Path, *more: str) -> str:
    command = ["search", "--space", space, "--runtime", "null", "--target-latency", "1ms", "--trials", "3", "--quiet"]
    assert main([*command, "--run", str(run), *more]) == 2
    return capsys.readouterr().err


def test_a_search_at_the_size_of_the_images_continues_there_and_exports_it(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, said = search(capsys, wide, tmp_path / "run")
    assert "images are about 8 px: networks are for 64 px instead of the space's 128" in said
    assert "latencies are of 64 px in null" in said
    assert result["settings"]["resolution"] == "64"
    assert json.loads((tmp_path / "run" / "model" / "card.json").read_text())["resolution"] == 64
    more, said = search(capsys, wide, tmp_path / "run", "--trials", "4")
    assert "--resolution" not in said
    assert more["settings"]["resolution"] == "64"
    first, again = ([(c["architecture"], c["accuracy"]) for c in each["candidates"]] for each in (result, more))
    assert set(first) <= set(again)
    same, _ = search(capsys, wide, tmp_path / "run", "--trials", "4", "--resolution", "64")
    assert same == more
    line = refusal(capsys, wide, tmp_path / "run", "--resolution", "96")
    assert "holds another experiment: resolution is 64 there and 96 now; give another --run" in line
    line = refusal(capsys, wide, tmp_path / "run", "--resolution", "128")
    assert "resolution is 64 there and the space's own now" in line


def test_a_run_from_before_there_was_a_choice_continues_as_it_was(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None
) -> None:
    result, said = search(capsys, wide, tmp_path / "run", "--resolution", "128")
    assert "images are about" not in said
    assert '"resolution": [' not in (tmp_path / "run" / JOURNAL).read_text()  # as an earlier version left it
    more, said = search(capsys, wide, tmp_path / "run", "--trials", "4")
    assert "networks are for 128 px, as when this run began; --resolution sets another" in said
    assert more["settings"]["resolution"] == "128"
    assert more["candidates"][0].keys() == result["candidates"][0].keys()
    known = {each["architecture"] for each in result["candidates"]}
    assert known < {each["architecture"] for each in more["candidates"]}


def test_the_table_of_one_resolution_is_extended_for_another_and_not_mixed_up(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None
) -> None:
    search(capsys, wide, tmp_path / "large", "--resolution", "128")
    ((_, path),) = ((name, path) for name, path in all_tables() if "null" in path.name)
    before = LatencyTable.open(path)
    large, small = (replace(SPACE, resolution=(size,)).for_classes(10) for size in (128, 64))
    arch = large.decode({"stage1.out_channels": 16, "stage1.kernel_size": 5, "stage1.depth": 2})
    predicted = before.predictor(large.key).predict(arch)
    search(capsys, wide, tmp_path / "small")
    after = LatencyTable.open(path)
    assert len(after.rows) > len(before.rows)
    assert before.certificates.keys() == {large.key}
    assert after.certificates.keys() == after.calibrations.keys() == {large.key, small.key}
    assert after.predictor(large.key).predict(arch) == predicted
    assert after.predictor(small.key).predict(arch.at(64)) < predicted
    search(capsys, wide, tmp_path / "large", "--trials", "4", "--resolution", "128")  # its table is still the same


def test_a_table_that_a_search_made_for_the_size_of_the_images_is_verified_there(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None
) -> None:
    stem, last = DATA["stages"]
    last = {**last, "kernel_size": [3, 5, 7], "expand_ratio": [2, 3], "out_channels": [12, 16, 20]}
    Path(wide).write_text(yaml.safe_dump({**DATA, "stages": [stem, last]}), encoding="utf-8")
    search(capsys, wide, tmp_path / "run")
    (path,) = (str(path) for _, path in all_tables() if "null" in path.name)
    main(["profile", "--verify", path, "--space", wide, "--json", "--quiet"])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["space"] == "wide"


def test_a_search_that_starts_from_a_run_has_its_resolution(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None
) -> None:
    search(capsys, wide, tmp_path / "a", "--resolution", "96")
    result, said = search(capsys, wide, tmp_path / "b", "--start-from", str(tmp_path / "a"), "--trials", "1")
    assert f"networks are for 96 px, as in --start-from {tmp_path / 'a'}; --resolution sets another" in said
    assert "3 candidates are known" in said
    assert result["settings"]["resolution"] == "96"
    search(capsys, wide, tmp_path / "c", "--resolution", "128")
    result, said = search(capsys, wide, tmp_path / "d", "--start-from", str(tmp_path / "c"), "--trials", "1")
    assert f"networks are for 128 px, as in --start-from {tmp_path / 'c'}" in said
    assert "3 candidates are known" in said
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**DATA, "proxy": {**DATA["proxy"], "images": 90}}), encoding="utf-8")
    _, said = search(capsys, str(other), tmp_path / "e", "--start-from", str(tmp_path / "a"), "--trials", "1")
    assert f"--start-from {tmp_path / 'a'}: tried first: " in said
    result, said = search(capsys, wide, tmp_path / "f", "--accuracies", str(tmp_path / "a"), "--trials", "1")
    assert f"networks are for 96 px, as in --accuracies {tmp_path / 'a'}" in said
    assert result["settings"]["resolution"] == "96"


def test_several_resolutions_are_a_choice_of_the_search(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None
) -> None:
    result, said = search(capsys, wide, tmp_path / "run", "--resolution", "64,32", "--trials", "6")
    assert "latencies are of 32/64 px in null" in said
    space = replace(SPACE, resolution=(32, 64)).for_classes(10)
    assert {trial.choices["resolution"] for trial in read_trials(tmp_path / "run", space)} == {32, 64}
    assert result["settings"]["resolution"] == "32,64"
    same, _ = search(capsys, wide, tmp_path / "run", "--resolution", "32,64", "--trials", "6")
    assert [each["architecture"] for each in same["candidates"]] == [
        each["architecture"] for each in result["candidates"]
    ]


def test_a_check_of_the_evaluator_counts_at_every_resolution(
    wide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_winner: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked = []
    monkeypatch.setattr("nas.searching.job.find_record", lambda key, *_: asked.append(key))
    search(capsys, wide, tmp_path / "run", "--trials", "1")
    assert asked == [replace(SPACE, resolution=(64,)).key, SPACE.key]


def test_what_a_run_has_stored_is_read_back() -> None:
    assert stored_resolution(SPACE, {}) == (128,)
    assert stored_resolution(SPACE, {"resolution": [64, 96]}) == (64, 96)
