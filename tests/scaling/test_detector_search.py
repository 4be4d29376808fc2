"""`nas scale --search` for detectors: the neck's dimension of the grid, AP in results, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.cli.main import main
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.proxy_training import ProxyTraining
from nas.networks.network import canonical, totals, trace
from nas.scaling.comparison import rules_to_compare
from nas.scaling.detectors import backbone_macs, rule_sizes, sizes_of
from nas.scaling.grid import Grid, make_grid, make_grid_points
from nas.scaling.presets import NECK_BASES, Coefficients, DetectorRule
from nas.scaling.search_setup import make_search_grid, prepare_search
from nas.scaling.settings import make_scale_settings
from nas.scaling.sizes import DetectorSizes, Rounding
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_architecture, parse_space
from nas.utils.reporting import Reporter
from tests.helpers.box_files import write_coco
from tests.helpers.pictures import write_classes
from tests.helpers.scaled_networks import BASE, TINY_BASE, ScriptedLatency, evaluator_module, macs

DETECTOR: dict[str, Any] = {
    "resolution": 64,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": "mbconv", "depth": 2, "out_channels": 16, "stride": 4, "expand_ratio": 2, "tap": True},
        {"block": "mbconv", "out_channels": 24, "stride": 2, "expand_ratio": 2, "tap": True},
    ],
    "neck": [{"block": "bifpn", "depth": 2, "out_channels": 64, "levels": 2}],
    "head": {"block": "efficientdet_head", "num_layers": 1, "num_classes": 10},
}
ROUNDING = Rounding(divisor=4, resolution_step=16)
FLAGS = ["--search", "--task", "detection", "--budget", "macs", "--times", "2", "--step", "0.5", "--divisor", "4",
         "--resolution-step", "16", "--tolerance", "0.2", "--runtime", "null", "--phi", "1", "--quiet"]  # fmt: skip


def detector(**changes: Any) -> Architecture:
    return canonical(parse_space("det", {**DETECTOR, **changes}, "det.yaml").decode({}))


def grid_of(base: Architecture) -> Grid:
    return make_grid(base, 0.5, 2.0, False, ROUNDING, Proxy())


def neck_of(arch: Architecture) -> list[int | None]:
    return list((sizes_of(arch) or {}).values())


def scripted_latency(*_: object) -> ScriptedLatency:
    return ScriptedLatency(lambda arch: 1e-6 * macs(arch))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The current directory, with a detector, a classifier and an evaluator whose name is new in each test."""
    files = {"det.yaml": json.dumps(DETECTOR), "class.yaml": TINY_BASE}
    yield from evaluator_module(tmp_path, files, monkeypatch)


@pytest.fixture
def result_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return what `nas scale ... --json` prints."""

    def run(*argv: str) -> dict[str, Any]:
        assert main(["scale", *argv, "--json", "--quiet"]) == 0, capsys.readouterr().err
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


@pytest.mark.parametrize("phi", [0, 0.5, 1, 2, 3, 7])
def test_neck_and_head_grow_as_by_the_papers_rule(phi: float) -> None:
    found = Coefficients(1.2, 1.1, 1.15, 1.35, sizes=DetectorSizes(64, 3, 3)).at(phi)
    assert found.detector == DetectorRule().at(phi).detector
    assert (found.depth, found.width, found.resolution) == pytest.approx((1.2**phi, 1.1**phi, 1.15**phi))


def test_coefficients_without_a_neck_are_those_of_before() -> None:
    plain, own = Coefficients(1.2, 1.1, 1.15), Coefficients(1.2, 1.0, 1.15, 1.35)
    assert plain.to_dict() == {"alpha": 1.2, "beta": 1.1, "gamma": 1.15}
    assert plain.at(1).detector is None
    assert (plain.text, own.text) == ("1.2,1.1,1.15", "1.2,1,1.15,1.35")
    assert own.dimensions == ["depth", "resolution"]
    assert own.growth == pytest.approx(1.2 * 1.15**2)
    assert make_grid(BASE, 0.2, 2.0, False, Rounding(divisor=4, resolution_step=4), Proxy()).key == "scaling@a3809919"


def test_the_grid_of_a_detector_has_the_bases_of_the_necks_width() -> None:
    base, grid = detector(), grid_of(detector())
    assert rule_sizes(base) == DetectorSizes(64, 2, 1)
    assert list(grid.choices) == ["depth", "width", "resolution", "neck"]
    assert grid.choices["neck"] == NECK_BASES == (1.2, 1.25, 1.3, 1.35, 1.4, 1.45)
    assert grid.size == 6 * len(list(itertools.product(*grid.values)))
    assert grid.key != Grid(base, grid.values, ROUNDING, Proxy()).key
    for choices in itertools.islice(grid.enumerate_choices(), 0, None, 17):
        found = grid.coefficients(choices)
        width = {1.2: 80, 1.25: 80, 1.3: 80, 1.35: 88, 1.4: 88, 1.45: 96}[float(choices["neck"])]
        assert neck_of(grid.decode(choices)) == [width, 3, 1]
        assert (found.alpha, found.beta, found.gamma, found.neck) == tuple(choices.values())


def test_the_point_that_predicts_backbone_and_neck_represents_a_network() -> None:
    grid = grid_of(detector())
    points = make_grid_points(grid, lambda _: None)
    networks = {point.architecture.digest: point for point in points if point}
    assert len(networks) <= grid.size // 2
    assert {point.choices["neck"] for point in networks.values()} == {1.25, 1.35, 1.45}
    for choices, point in zip(grid.enumerate_choices(), points, strict=True):
        assert point is not None
        assert canonical(grid.decode(choices)) == canonical(grid.decode(point.choices)) == point.architecture
        assert grid.prediction_error(point.choices, point.architecture) <= grid.prediction_error(
            choices, point.architecture
        )
    largest = max(networks.values(), key=lambda point: point.macs)
    own, base = backbone_macs(largest.architecture), backbone_macs(grid.base)
    assert grid.macs_growth(largest.architecture) == own / base
    assert own < largest.macs == totals(trace(largest.architecture)).macs


@pytest.mark.parametrize(
    "changes",
    [
        {"head": {"block": "ssd_head"}},
        {"head": {"block": "efficientdet_head", "num_layers": 0}},
        {"neck": [{"block": "conv", "out_channels": 16}]},
    ],
)
def test_a_detector_that_the_rule_cannot_scale_has_three_dimensions(changes: dict[str, Any]) -> None:
    grid = grid_of(detector(**changes))
    assert list(grid.choices) == ["depth", "width", "resolution"]
    assert grid.coefficients({"depth": 2.0, "width": 1.5, "resolution": 1.0}) == Coefficients(2.0, 1.5, 1.0)


def test_a_single_dimension_of_a_detector_scales_neck_and_head_too() -> None:
    found = Coefficients(1.0, 1.3, 1.0, 1.35, sizes=DetectorSizes(64, 2, 1))
    rules = rules_to_compare(found, 2.0, [])
    assert list(rules) == ["compound", "depth", "width", "resolution"]  # its width is not width alone
    assert all(rule.neck is None for rule in list(rules.values())[1:])


def test_a_search_for_a_detector(
    module: str,
    result_of: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the grid to the comparison, with scripted latencies and values of AP."""
    for job in ("coefficient_search", "family_job"):
        monkeypatch.setattr(f"nas.scaling.{job}.make_network_latency", scripted_latency)
    budget = ["--budget", "latency", "--trials", "5", "--finalist-seeds", "1", "--finalists", "2"]
    argv = ["det.yaml", *FLAGS, *budget, "--evaluator", f"{module}:score", "--compare-seeds", "2", "--run", "a"]
    result = result_of(*argv)
    search = result["search"]
    assert (search["metric"], search["settings"]["task"]) == ("AP", "detection")
    assert search["values"]["neck"] == list(NECK_BASES)
    assert 1 <= search["trials"] <= 5
    assert list(result["coefficients"]) == ["alpha", "beta", "gamma", "neck"]
    assert result["family"][0]["architecture"] == search["best"]
    for entry in search["candidates"]:
        assert "accuracy" not in entry
        assert 0 < entry["AP"] < 1
        assert 0.8 <= entry["latency_ms"] / search["budget"]["target"] <= 1.2
    names = [entry["name"] for entry in result["comparison"]]
    assert names == ["base", "compound", "depth", "width", "resolution"]
    for entry in result["comparison"]:
        assert not {"accuracy", "accuracies"} & set(entry)
        assert entry["AP"] == pytest.approx(sum(entry["AP_by_seed"]) / 2)
    assert result["comparison"][1]["coefficients"] == result["coefficients"]
    assert Path("a/scaling.png").stat().st_size > 100

    evaluated = Path("notes.txt").read_text(encoding="utf-8")
    assert main(["scale", *argv]) == 0
    assert Path("notes.txt").read_text(encoding="utf-8") == evaluated
    shown = capsys.readouterr().out
    assert "best          AP " in shown
    assert "compound 1    AP " in shown
    coefficients = shown.partition("reuse         --coefficients ")[2].split("\n")[0]
    rounding = ["--divisor", "4", "--resolution-step", "16"]
    again = result_of("det.yaml", "--coefficients", coefficients, "--phi", "0..2", *rounding, "--run", "b")
    assert again["family"][1]["architecture"] == search["best"]
    assert again["family"][1]["detector"]["neck_cells"] == 3
    assert result_of("a", "--phi", "0..2", "--run", "c")["coefficients"] == result["coefficients"]


def test_candidates_of_a_search_really_train(module: str) -> None:
    flags = {"proxy_resolution": 32, "proxy_epochs": 1, "proxy_images": 16, "step": 0.5}
    given = {"network": "det.yaml", "search": True, "task": "detection", "runtime": "null", **flags}
    prepared = prepare_search(make_scale_settings(given), Reporter(quiet=True))
    assert prepared.base.head.kwargs["num_classes"] == 10
    assert prepared.grid.proxy == Proxy(32, 1, 16, of=64)
    assert prepared.identity["task"] == "detection"
    point = min(prepared.distinct_points, key=lambda point: (-point.architecture.resolution, point.macs))
    evaluator = ProxyTraining(EvaluatorContext(prepared.task, prepared.grid, Path("a")), keeps_stuck=True)
    (precision,) = evaluator.evaluate(point.architecture, 0)
    assert 0 <= precision <= 1
    assert evaluator.settings["metric"] == "AP"


def test_a_detector_trains_at_128_px_by_default() -> None:
    settings = make_scale_settings({"network": "efficientdet_d0", "search": True, "task": "detection"})
    assert settings.experiment.metric == "AP"
    assert make_search_grid(settings, load_architecture("efficientdet_d0"), "latency").proxy == Proxy(128, 10, of=512)
    assert make_scale_settings({"network": "x", "search": True}).experiment.metric == "accuracy"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["class.yaml", *FLAGS], "head: block: must be the head of a detector: 'classifier'"),
        (["det.yaml", "--search", "--runtime", "null"],
         "head: block: must be a classifier: 'efficientdet_head'; detectors are for --task detection"),
        (["det.yaml", *FLAGS, "--data", "photos"], "photos"),
        (["det.yaml", *FLAGS, "--data", "cifar10"], "--data: unknown data set, folder or COCO file 'cifar10'"),
        (["class.yaml", "--search", "--runtime", "null", "--data", "boxes"], "boxes"),
        (["det.yaml", *FLAGS, "--data", "boxes", "--class-weights", "balanced"],
         "--class-weights: applies to classification only"),
        (["det.yaml", *FLAGS, "--metric", "macro_f1"], "unknown metric 'macro_f1'"),
        (["det.yaml", *FLAGS, "--evaluator", "synflow", "--metric", "AP50"],
         "--metric: the evaluator 'synflow' cannot apply it"),
        (["det.yaml", *FLAGS, "--evaluator", "supernet"], "--evaluator: needs a search space"),
        (["det.yaml", "--task", "detection"], "--task: applies only to the coefficient search: add --search"),
        (["det.yaml", "--search", "--task", "detecting"],
         "--task: unknown task 'detecting'; did you mean 'detection'?"),
        (["class.yaml", "--coefficients", "1.2,1.1,1.15,1.35"],
         "--coefficients: neck: this network has no neck to scale"),
        (["det.yaml", "--coefficients", "1.2,1.1,1.15,0.9"], "--coefficients: neck must be at least 1: 0.9"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_one_line(
    argv: list[str], message: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(Path("photos"))
    write_coco(Path("boxes/train/all.json"), 6)
    before = set(Path().rglob("*"))
    assert main(["scale", *argv, "--run", "a"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert set(Path().rglob("*")) == before


def test_a_proxy_resolution_that_the_base_cannot_take_is_one_line(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", "mobilenet_v2_ssdlite_c81_r320", *FLAGS, "--proxy-resolution", "160"]) == 2
    assert "--proxy-resolution: 160 px cannot be built: stage 18" in capsys.readouterr().err
