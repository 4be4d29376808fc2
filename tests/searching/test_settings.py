from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.errors import UsageError
from nas.evaluators import EVALUATORS
from nas.networks.network import totals, trace
from nas.searching.context import check_combinations
from nas.searching.settings import SearchSettings, with_implied
from nas.spaces.search_space import enumerate_choices
from nas.spaces.yaml_format import load_space

pytestmark = pytest.mark.usefixtures("warm_cache")


def test_a_source_implies_its_evaluator() -> None:
    assert with_implied({"accuracies": "a.csv"})["evaluator"] == "tabular"
    assert with_implied({"supernet": "runs/x"})["evaluator"] == "supernet"
    assert with_implied({"supernet": "runs/x", "evaluator": "my.module:f"})["evaluator"] == "my.module:f"
    assert "evaluator" not in with_implied({"trials": 3})


def test_a_source_belongs_to_one_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVALUATORS, "supernet", EVALUATORS["tabular"])
    settings = {"target_latency": "1ms", "runtime": "null", "supernet": str(tmp_path)}
    check_combinations(SearchSettings(**with_implied(settings)))
    with pytest.raises(UsageError, match="--supernet: is for the evaluator 'supernet', not for 'proxy_training'"):
        check_combinations(SearchSettings(**settings))  # type: ignore[arg-type]


def test_a_warm_start_begins_with_the_best_sixteenth_of_its_samples(
    tiny_space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["search", "--space", str(tiny_space), "--trials", "8", "--runtime", "null", "--target-latency", "1ms"]
    args += ["--evaluator", "macs", "--warm-start", "params", "--warm-start-samples", "32", "--json", "--quiet"]
    assert main([*args, "--run", str(tmp_path / "a")]) == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    space = load_space(str(tiny_space)).for_classes(10)
    sizes = [trial["params"] for trial in candidates]
    largest = max(
        totals(trace(space.decode(choices))).params
        for choices in enumerate_choices(lambda choose: space.walk(choose)[1])
    )
    assert sum(sizes[:2]) > 1.5 * largest
    assert all(0 < trial["accuracy"] < 1 for trial in candidates)
    assert main([*args, "--run", str(tmp_path / "a"), "--warm-start", "synflow"]) == 2
    assert "holds another experiment: warm_start is 'params' there and 'synflow' now" in capsys.readouterr().err


def test_every_stride_of_a_space_must_leave_pixels_at_the_resolution_of_the_proxy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "strides.yaml"
    path.write_text(
        "resolution: 64\nstages:\n  - {block: conv, out_channels: 8, stride: 2}\n"
        + "  - {block: conv, out_channels: 8, stride: [1, 4]}\n" * 3
        + "head: {block: classifier}\nproxy: {resolution: 16, epochs: 1, images: 100}\n"
    )
    flags = ["--runtime", "null", "--target-latency", "1s", "--evaluator", "params", "--trials", "1"]
    assert main(["search", "--space", str(path), *flags, "--run", str(tmp_path / "run")]) == 2
    assert "leaves no pixels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
