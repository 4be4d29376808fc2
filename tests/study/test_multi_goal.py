"""Several goals in one search: how they are made, what controllers are told, and the whole job with them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli.main import main
from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.errors import UsageError
from nas.networks.network import canonical
from nas.searching.settings import SearchSettings
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.study.multi_goal import Target, listed_ms, make_goals, make_targets, parse_axes
from nas.study.objectives import DEFAULT_AXES, Metrics, Objective, make_objective
from nas.study.ranking import position
from tests.helpers.space_rows import active
from tests.helpers.trials import ended_trial

pytestmark = pytest.mark.usefixtures("warm_cache")

NAMES = ("soft", "hard", "constrained", "pareto")
ms = st.floats(0.1, 100)


def goals(name: str, targets: Sequence[float], devices: int = 1, axes: Sequence[str] = DEFAULT_AXES) -> Objective:
    """Return an objective with several targets, or with one on each of several devices."""
    tables = [f"board{device}" for device in range(devices)] if devices > 1 else []
    return make_goals(name, make_targets(targets, tables), axes=axes)


def test_targets_and_tables_make_goals() -> None:
    assert make_targets([20.0], []) == make_targets([20.0], ["a"]) == (Target(20.0),)
    assert make_targets([20.0, 40.0], ["a"]) == (Target(20.0, 0, "20ms"), Target(40.0, 0, "40ms"))
    assert make_targets([20.0], ["x/a.jsonl", "b"]) == (Target(20.0, 0, "a"), Target(20.0, 1, "b"))
    assert make_targets([20.0, 20.0], ["x/a", "y/a"]) == (Target(20.0, 0, "a-1"), Target(20.0, 1, "a-2"))
    assert listed_ms(make_targets([20.0, 40.0], [])) == [20.0, 40.0]
    assert listed_ms(make_targets([20.0], [])) == 20.0
    for targets, tables, message in (
        ([20.0, 40.0, 60.0], ["a", "b"], "--target-latency: .*one for all tables or one for each: 3 for 2 tables"),
        ([20.0, 20.0], [], "--target-latency: given twice: '20ms'"),
        ([20.0, 40.0], ["a", "a"], "--table: given twice: 'a'"),
    ):
        with pytest.raises(UsageError, match=message):
            make_targets(targets, tables)


def test_one_target_is_the_objective_itself() -> None:
    for name in NAMES:
        assert goals(name, [20.0]) == make_objective(name, 20.0)
        (goal,) = goals(name, [20.0]).goals
        assert (goal.name, goal.device, goal.target_ms) == ("", 0, 20.0)


def test_axes_are_named_once_and_cost_something() -> None:
    assert parse_axes("macs, accuracy") == ("accuracy", "macs")
    for text, message in (
        ("accuracy,latncy", "unknown axis: 'latncy'; did you mean 'latency'"),
        ("latency,macs", "needs accuracy"),
        ("accuracy", "needs accuracy and at least one cost: 'accuracy'"),
        ("accuracy,macs,macs", "named twice: 'macs'"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_axes(text)
    with pytest.raises(UsageError, match=r"--axes: only the objective 'pareto' has a front, .*: 'soft'"):
        make_goals("soft", [Target(1.0)], axes=("accuracy", "macs"))


@given(name=st.sampled_from(NAMES), accuracy=st.floats(0, 1), fast=ms, slow=ms, devices=st.integers(1, 2))
def test_each_goal_sees_its_device_and_all_admit_what_one_admits(
    name: str, accuracy: float, fast: float, slow: float, devices: int
) -> None:
    objective = goals(name, [5.0, 20.0], devices)
    metrics = Metrics(accuracy, fast, 10, 20, (fast, slow) if devices == 2 else ())
    seen = [fast, slow if devices == 2 else fast]
    for goal, latency_ms in zip(objective.goals, seen, strict=True):
        alone = make_objective(name, goal.target_ms)
        assert goal.score(metrics) == alone.score(Metrics(accuracy, latency_ms, 10, 20))
        assert bool(goal.admits(latency_ms)) == bool(alone.admits(latency_ms))
        assert goal.scores(np.array([accuracy]), np.array([latency_ms]))[0] == pytest.approx(goal.score(metrics))
    latencies = metrics.latencies_ms or fast
    expected = [goal.admits(latency_ms) for goal, latency_ms in zip(objective.goals, seen, strict=True)]
    assert bool(objective.admits(latencies)) == any(expected)
    each = np.array(seen)[:, None] if devices == 2 else np.array([fast])
    assert objective.admits(each).tolist() == [any(expected)]
    assert objective.scores(np.array([accuracy]), each)[0] == pytest.approx(objective.score(metrics))
    assert len(objective(metrics)) == len(objective.directions)


def test_the_values_are_one_for_each_goal_or_along_the_front() -> None:
    metrics = Metrics(0.9, 10.0, 7, 8, (10.0, 30.0))
    assert goals("constrained", [20.0], 2)(metrics) == (0.9, 0.0)
    assert goals("constrained", [20.0], 2).directions == ("maximize", "maximize")
    soft = goals("soft", [20.0], 2)(metrics)
    assert list(soft) == pytest.approx([0.9 * 2**0.07, 0.9 * 1.5**-0.07])
    front = goals("pareto", [20.0], 2, ("accuracy", "latency", "macs"))
    assert front(metrics) == (0.9, 10.0, 30.0, 8.0)
    assert front.directions == ("maximize", "minimize", "minimize", "minimize")
    assert [goal.score(metrics) for goal in front.goals] == [0.9, -1.5]


def test_what_is_best_for_any_goal_is_ahead_of_none() -> None:
    objective = goals("constrained", [5.0, 20.0])
    points = [Metrics(0.5, 4.0, 1, 1), Metrics(0.9, 15.0, 1, 1), Metrics(0.4, 4.5, 1, 1), Metrics(0.95, 30.0, 1, 1)]
    assert [position(objective, points, index) for index in range(4)] == [0, 0, 1, 3]


def test_metrics_are_read_as_they_were_written() -> None:
    one, several = Metrics(0.5, 1.0, 2, 3), Metrics(0.5, 1.0, 2, 3, (1.0, 4.0), 0.25, 8.0)
    assert one.to_dict() == {"accuracy": 0.5, "latency_ms": 1.0, "params": 2, "macs": 3}
    for metrics in (one, several):
        assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics
    assert several.on(1) == several.on(1).on(0) == Metrics(0.5, 4.0, 2, 3, (), 0.25, 8.0)
    assert one.on(0) is one


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("devices", [1, 2])
def test_every_controller_takes_several_goals(name: str, devices: int, tiny_space: Path) -> None:
    space = load_space(str(tiny_space)).for_classes(10)
    costs: Any = [lambda layer: layer.macs / 1e5, lambda layer: layer.params / 1e3]
    domain = encode_space(space, costs if devices == 2 else costs[0])
    problem = Problem(domain, goals("constrained", [3.0, 30.0], devices))
    controller = CONTROLLERS[name](problem)
    for number in range(12):
        choices = controller.ask(number)
        assert active(space, choices) == choices
        latencies = domain.facts(domain.encode(choices)[None]).latency_ms
        assert latencies.shape == ((2, 1) if devices == 2 else (1,))
        seen = tuple(latencies[:, 0].tolist()) if devices == 2 else ()
        metrics = Metrics(number / 20, float(latencies.flat[0]), 1, 1, seen)
        controller.tell(ended_trial(choices, metrics, problem.objective(metrics)))


def test_lists_of_one_are_that_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SearchSettings(["20ms", "40ms"]).targets == (Target(20.0, 0, "20ms"), Target(40.0, 0, "40ms"))
    assert SearchSettings(["20ms", "40ms"]).folder == Path("runs/mnasnet-digits-20ms-40ms-soft-seed0")
    assert SearchSettings("20ms", table=["a", "b"]).folder == Path("runs/mnasnet-digits-20ms-a-b-soft-seed0")
    for text, message in (
        ("target_latency: [20, 40]", "target_latency must be of type str"),
        ("target_latency: []", "target_latency must be of type str"),
        ("target_latency: [20ms, 20ms]", "--target-latency: given twice: '20ms'"),
        ("target_latency: [20ms, fast]", "--target-latency: not a latency: 'fast'"),
        ("target_latency: 20ms\nobjective: pareto\naxes: accuracy,size", "--axes: unknown axis: 'size'"),
        ("target_latency: 20ms\naxes: accuracy,macs", "--axes: only the objective 'pareto' has a front"),
        ("target_latency: [1ms, 2ms, 3ms]\ntable: [a, b]", "one for all tables or one for each: 3 for 2 tables"),
    ):
        path = tmp_path / "experiment.yaml"
        path.write_text(f"space: mobile\n{text}\n")
        assert main(["search", "--run", str(tmp_path / "run"), str(path)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def space(tiny_space: Path) -> Space:
    return load_space(str(tiny_space)).for_classes(10)


def accuracies(space: Space, path: Path) -> Path:
    """Write a table with an accuracy for many networks, which rises with their parameters."""
    from nas.networks.network import totals, trace

    rows = {}
    for seed in range(600):
        arch = canonical(space.decode(space.sample(random.Random(seed))))
        rows[arch.digest] = totals(trace(arch)).params
    most = max(rows.values())
    path.write_text("architecture,accuracy\n" + "".join(f"{key},{n / most:.4f}\n" for key, n in rows.items()))
    return path


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json", "--quiet"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def span(capsys: pytest.CaptureFixture[str], space: Path, table: Path) -> tuple[float, float]:
    found = run_json(
        capsys, "profile", "--space", str(space), "--runtime", "null", "--table", str(table), "--classes", "10"
    )
    return found["fastest_ms"], found["slowest_ms"]


def search(space: Path, source: Path, run: Path, *more: str) -> list[str]:
    flags = ["--accuracies", str(source), "--runtime", "null", "--trials", "12", "--seed", "3", "--run", str(run)]
    return ["search", "--space", str(space), *flags, "--final-epochs", "1", *more]


def test_two_targets_share_a_search_and_have_a_winner_each(
    tiny_space: Path, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = accuracies(space, tmp_path / "accuracies.csv"), tmp_path / "run"
    fastest, slowest = span(capsys, tiny_space, tmp_path / "null.jsonl")
    tight, loose = f"{0.6 * fastest + 0.4 * slowest:.6f}ms", f"{slowest:.6f}ms"
    argv = [*search(tiny_space, source, run, "--objective", "constrained"), "--table", str(tmp_path / "null.jsonl")]
    argv += ["--target-latency", tight, "--target-latency", loose]
    assert main(argv) == 0
    printed = capsys.readouterr()
    result = json.loads((run / "result.json").read_text())
    assert len(result["candidates"]) + len(result["failed"]) == 12
    names = [goal["name"] for goal in result["goals"]]
    assert result["target_latency_ms"] == [goal["target_latency_ms"] for goal in result["goals"]]
    within = [[t for t in result["candidates"] if t["latency_ms"] <= ms] for ms in result["target_latency_ms"]]
    assert len(within[0]) < len(within[1])
    for name, goal, trials in zip(names, result["goals"], within, strict=True):
        assert goal["best"]["accuracy"] == max(trial["accuracy"] for trial in trials)
        assert goal["holds_target"] is True
        assert Path(goal["best"]["model"]) == run / f"model-{name}"
        card = json.loads((run / f"model-{name}" / "card.json").read_text())
        assert (card["architecture"], card["latency_ms"]["target"]) == (
            goal["best"]["architecture"], goal["target_latency_ms"],
        )  # fmt: skip
        assert (run / f"search-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"goal          {name}" in printed.out
        assert f"best so far {names[0]} " in printed.err
    assert not (run / "model").exists()
    assert not list(run.glob("winner*"))
    assert result["goals"][0]["best"]["accuracy"] < result["goals"][1]["best"]["accuracy"]
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "has one winner per goal; give one of them: " in capsys.readouterr().err
    before = (run / "result.json").read_bytes()
    assert main([*argv, "--quiet"]) == 0
    assert (run / "result.json").read_bytes() == before
    assert main([*argv[:-2], "--quiet"]) == 2
    assert "another experiment: target_latency_ms is [" in capsys.readouterr().err


def test_two_tables_share_a_search_and_what_is_not_here_is_not_measured(
    tiny_space: Path, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = accuracies(space, tmp_path / "accuracies.csv"), tmp_path / "run"
    here, away = tmp_path / "here.jsonl", tmp_path / "away.jsonl"
    fastest, slowest = span(capsys, tiny_space, here)
    header, *rows = here.read_text().splitlines(keepends=True)
    board = {**json.loads(header), "device": {"processor": "a board"}}
    doubled = []
    for row in rows:
        data = json.loads(row)
        if "ms" in data:
            data["ms"] = [2 * value for value in data["ms"]]
            doubled.append(json.dumps(data) + "\n")
    away.write_text(json.dumps(board) + "\n" + "".join(doubled))
    target = f"{(fastest + slowest) / 2:.6f}ms"
    argv = search(tiny_space, source, run, "--objective", "constrained", "--target-latency", target)
    argv += ["--table", str(here), "--table", str(away)]
    assert main([*argv, "--quiet"]) == 2
    assert "give --any-device" in capsys.readouterr().err
    assert not run.exists()
    result = run_json(capsys, *argv, "--any-device")
    first, second = result["goals"]
    assert (first["name"], second["name"]) == ("here", "away")
    assert first["holds_target"] is True
    assert (second["holds_target"], second["predicted_to_hold_target"]) == (None, True)
    assert second["device"] == {"processor": "a board"}
    assert all(finalist["measured_ms"] is None for finalist in second["finalists"])
    for trial in result["candidates"]:
        fast, slow = trial["latencies_ms"]
        assert fast == trial["latency_ms"] < slow
        assert fast <= result["target_latency_ms"][0]
    on_board = [t["accuracy"] for t in result["candidates"] if t["latencies_ms"][1] <= result["target_latency_ms"][1]]
    assert second["best"]["accuracy"] == max(on_board)
    assert {path.name for path in run.iterdir() if path.is_dir()} >= {"model-here", "model-away"}
    assert second["best"]["latency_ms"]["predicted"] > first["span_ms"]["fastest_ms"]


def test_a_front_of_chosen_axes_lists_them_and_its_volume_grows(
    tiny_space: Path, space: Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run, table = accuracies(space, tmp_path / "accuracies.csv"), tmp_path / "run", tmp_path / "null.jsonl"
    _, slowest = span(capsys, tiny_space, table)
    argv = search(tiny_space, source, run, "--objective", "pareto", "--target-latency", f"{slowest:.6f}ms")
    argv += ["--table", str(table)]
    for axis, message in (("energy", "it has no energy of"), ("memory", "whole networks have a peak memory, 8 are")):
        assert main([*argv, "--axes", f"accuracy,{axis}", "--quiet"]) == 2
        assert f"{table}: --axes {axis}: " in (line := capsys.readouterr().err)
        assert message in line
        assert not run.exists()
    lines = table.read_text().splitlines()
    for place, line in enumerate(lines[1:], start=1):
        data = json.loads(line)
        if "ms" in data:
            data |= {"energy_mj": [0.5], "memory_bytes": [1e6 + place]}
            lines[place] = json.dumps(data)
    table.write_text("\n".join(lines) + "\n")
    result = run_json(capsys, *argv, "--axes", "accuracy,latency,macs,energy,memory")
    assert result["axes"] == ["accuracy", "latency", "macs", "energy", "memory"]
    assert set(result["reference"]) == set(result["axes"])
    volumes = result["hypervolume"]
    assert len(volumes) == len(result["candidates"])
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] < 1
    worst = result["reference"]
    for trial in result["candidates"]:
        assert trial["latency_ms"] <= worst["latency"][0] * (1 + 1e-9)
        assert trial["macs"] <= worst["macs"][0]
        assert trial["energy_mj"] <= worst["energy"][0] * (1 + 1e-9)
        assert 1e6 <= trial["memory_bytes"] <= worst["memory"][0] * (1 + 1e-9)
    best = max(trial["accuracy"] for trial in result["candidates"])
    assert best in [trial["accuracy"] for trial in result["front"]]
    assert (run / "search.png").read_bytes().startswith(b"\x89PNG")
    assert main([*argv, "--axes", "accuracy,latency", "--quiet"]) == 2
    assert "another experiment: axes is" in capsys.readouterr().err
