"""The replay of a search on YOLOBench: names, a table that is made so that the answer is known, and the real one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import yolobench
from benchmarks.yolobench import (
    Detector,
    encode_detectors,
    evaluations,
    make_problem,
    read_detectors,
    slowest_first,
    spelled,
)
from nas.errors import DataError, NasError, UsageError
from nas.spaces.encoding import Floats, Indices

HEADER = "model_name,mAP_0.5:0.95_coco,mAP_0.5_coco,mAP_0.5_voc,board_latency,phone_latency"
NETWORKS = ("yolo3n", "yolo3d1w5", "yolo5s", "yolo5l", "yolo6l-d6w25", "yolo6l-d6w75")

SLOW_FOR_NOTHING = {10, 11}
"""yolo5l at 192 and 224 px."""


def line(name: str, accuracy: object, latency: object) -> str:
    return f"{name},{accuracy},0.9,0.8,{latency},1"


def made(folder: Path, *more: str) -> Path:
    """Write 18 networks, the slower the better, but for two that are slow for nothing."""
    lines = []
    for at, (name, size) in enumerate(itertools.product(NETWORKS, (160, 192, 224))):
        lines.append(line(f"{name}_{size}", 0.1 if at in SLOW_FOR_NOTHING else (10 + at) / 100, 1 + at))
    path = folder / "table.csv"
    path.write_text("\n".join([HEADER, *lines, *more]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("yolo3d1w25_160", Detector("yolo3", 1.0, 0.25, 160)),
        ("yolo8d67w5_480", Detector("yolo8", 0.67, 0.5, 480)),
        ("yolo6l-d33w75_224", Detector("yolo6l", 0.33, 0.75, 224)),
        ("yolo6m-d6w25_96", Detector("yolo6m", 0.6, 0.25, 96)),
        ("yolo5n_320", Detector("yolo5", 0.33, 0.25, 320)),
        ("yolo7l_416", Detector("yolo7", 1.0, 1.0, 416)),
    ],
)
def test_a_name_spells_family_depth_width_and_resolution(name: str, network: Detector) -> None:
    assert Detector.parse(name) == network


@pytest.mark.parametrize("name", ["", "yolo3d1w25", "yolo3_160", "yolo5x_320", "resnet50_224", "yolo3d1_160"])
def test_another_name_is_one_line(name: str) -> None:
    with pytest.raises(DataError) as failure:
        Detector.parse(name, "table.csv, row 2")
    assert (failure.value.where, failure.value.key, failure.value.value) == ("table.csv, row 2", "model_name", name)


def test_every_candidate_is_a_row_of_the_table(tmp_path: Path) -> None:
    detectors = read_detectors(made(tmp_path), "AP", "coco", "board")
    domain = encode_detectors(detectors)
    rows = domain.all_rows()
    assert domain.size == len(rows) == 18
    facts = domain.facts(rows)
    assert sorted(facts.keys.tolist()) == list(range(18))
    for row, at in zip(rows, facts.keys, strict=True):
        assert domain.decode(row) == detectors.networks[at].choices()
    rng = np.random.default_rng(0)
    mutants = domain.mutate(domain.sample(200, rng), rng)
    assert set(domain.facts(mutants).keys.tolist()) == set(range(18))


def test_columns_follow_metric_data_set_and_device(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert set(read_detectors(path, "AP50", "coco", "board").accuracy) == {0.9}
    assert set(read_detectors(path, "AP50", "voc", "phone").latency_ms) == {1.0}


def test_the_front_and_the_order_from_the_target_downwards(tmp_path: Path) -> None:
    detectors = read_detectors(made(tmp_path), "AP", "coco", "board")
    assert detectors.front() == [at for at in range(18) if at not in SLOW_FOR_NOTHING]
    assert detectors.best(12.0) == 9
    assert slowest_first(detectors, 12.0) == 3
    assert slowest_first(detectors, 12.9) == 3
    assert slowest_first(detectors, 18.0) == 1


@pytest.mark.parametrize("name", ["surrogate", "tpe", "evolution", "random"])
def test_a_controller_arrives_and_pays_only_for_new_networks_within_the_target(name: str, tmp_path: Path) -> None:
    problem, seen = make_problem(read_detectors(made(tmp_path), "AP", "coco", "board"), 12.0), list[int]()

    def evaluate(rows: Indices, seed: int) -> Floats:
        seen.extend(problem.domain.facts(rows).keys.tolist())
        return problem.true(rows)

    number = evaluations(replace(problem, evaluate=evaluate), name, 0, 12)
    assert number == len(seen) == len(set(seen)) <= 12
    assert max(seen) < 12
    assert seen[-1] == 9
    assert evaluations(replace(problem, best=1.0), name, 0, 3) is None


def test_runs_that_do_not_arrive_make_the_mean_a_lower_bound() -> None:
    assert spelled([2, 4], 10) == "3.0 ± 1.4 (2)"
    assert spelled([2, 4, None], 12) == ">= 6.0 ± 5.3 (2)"
    assert spelled([2, 100], 572) == "51.0 ± 69.3 (1)"


@pytest.mark.parametrize(
    ("more", "asked", "message"),
    [
        ((), ("F1", "coco", "board"), "--metric: unknown metric 'F1'; known: AP, AP50"),
        ((), ("AP", "cocoo", "board"), "--data: not in the table: 'cocoo'; did you mean 'coco'?"),
        ((), ("AP", "coco", "fone"), "--device: not in the table: 'fone'; did you mean 'phone'?"),
        ((line("yolo3s_160", "x", 1),), ("AP", "coco", "board"), "row 20: mAP_0.5:0.95_coco: must be above 0"),
        ((line("yolo3s_160", 0.5, "inf"),), ("AP", "coco", "board"), "row 20: board_latency: must be a positive"),
        ((line("yolo3s_160", 0.5, ""),), ("AP", "coco", "board"), "row 20: board_latency: must be a positive"),
        ((line("yolo3x_160", 0.5, 1),), ("AP", "coco", "board"), "row 20: model_name: must be like"),
        ((line("yolo3s_160", 0.5, 1),), ("AP", "coco", "board"), "model_name: has 19 of 21 networks"),
        ((line("yolo3n_160", 0.5, 1),), ("AP", "coco", "board"), "the table has this network twice"),
    ],
)
def test_what_is_wrong_is_one_line(
    more: Sequence[str], asked: tuple[str, str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NasError) as failure:
        encode_detectors(read_detectors(made(tmp_path, *more), *asked))
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_files_that_are_no_tables_and_targets_that_are_too_low(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_detectors(tmp_path / "none.csv", "AP", "coco", "board")
    (tmp_path / "other.csv").write_text("arch,acc\n1,2\n")
    with pytest.raises(DataError, match="has no column 'model_name'"):
        read_detectors(tmp_path / "other.csv", "AP", "coco", "board")
    with pytest.raises(UsageError, match="the fastest network takes 1 ms"):
        make_problem(read_detectors(made(tmp_path), "AP", "coco", "board"), 0.5)


def test_the_command_prints_a_table_and_draws_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--accuracies", str(made(tmp_path)), "--device", "board", "--target-latency", "12ms"]
    small = ["--controllers", "random", "--seeds", "2", "--plot", str(tmp_path / "front.png")]
    monkeypatch.setattr("sys.argv", ["yolobench", *flags, *small])
    yolobench.main()
    out = capsys.readouterr().out
    assert "| board, 12 ms | 12 | 19.0 | 1 | 3 |" in out
    assert "board: 16 of 18 networks are on the Pareto front" in out
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("sys.argv", ["yolobench", *flags, "--controllers", "randon"])
    with pytest.raises(SystemExit) as ended:
        yolobench.main()
    assert ended.value.code == 2
    assert "did you mean 'random'?" in capsys.readouterr().err


def test_the_table_of_yolobench_is_searched(shared: Path) -> None:
    path = shared / "bench" / "yolobench" / "merged_results.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    for metric, data in itertools.product(("AP", "AP50"), ("coco", "voc", "sku", "wider")):
        assert len(read_detectors(path, metric, data, "nano_gpu").networks) == 572
    detectors = read_detectors(path, "AP", "coco", "raspi4_tflite")
    assert detectors.networks[0] == Detector("yolo3", 1.0, 0.25, 160)
    assert detectors.accuracy[0] == pytest.approx(0.1560033)
    assert detectors.latency_ms[0] == pytest.approx(44.503333)
    assert encode_detectors(detectors).size == 572
    front = detectors.front()
    assert (np.diff(detectors.latency_ms[front]) > 0).all()
    assert (np.diff(detectors.accuracy[front]) > 0).all()
    assert (evaluations(make_problem(detectors, 100.0), "surrogate", 0, 101) or 102) < 101
