"""The conformance suite of controllers: it holds for every line of CONTROLLERS."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.architecture import Architecture
from nas.cli.main import main
from nas.controllers import CONTROLLERS, Controller
from nas.controllers.base import Problem
from nas.networks.network import canonical, totals, trace
from nas.searching.early_stopping import make_rungs
from nas.searching.loop import SearchPlan, derive_seed, search
from nas.spaces.encoded_space import encode_space
from nas.spaces.encoding import Choices
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import parse_space
from nas.study.objectives import Metrics, make_objective
from nas.study.study import open_study
from nas.study.trials import Trial
from nas.utils.reporting import Reporter
from tests.helpers.space_rows import active
from tests.helpers.trials import ended_trial

DATA = {
    "resolution": [32, 48],
    "stages": [
        {"block": "conv", "out_channels": [8, 16, 12], "stride": 2},
        {
            "block": ["separable", {"op": "mbconv", "expand_ratio": [2, 3]}],
            "depth": [0, 1, 2],
            "kernel_size": [3, 5],
            "out_channels": [12, 16, 24],
            "skip": ["none", "identity"],
            "per_layer": ["block"],
        },
    ],
    "head": {"block": "classifier", "num_classes": 10},
}
SPACE: Space = parse_space("small", DATA, "small.yaml")
"""1,302 ways to spell fewer networks: a skip over a layer that changes the number of channels is none."""
DOMAIN = encode_space(SPACE, lambda layer: layer.macs / 1e5)
TARGET_MS = float(np.median(DOMAIN.facts(DOMAIN.all_rows()).latency_ms))
TOLD = {"gp": 12}
"""What is told before anything is asked: more than a population of any controller, but where that takes long."""


def problem(objective: str) -> Problem:
    return Problem(DOMAIN, make_objective(objective, TARGET_MS))


def told(given: Problem, choices: Choices) -> Trial:
    """Return made-up metrics that the choices decide; every seventh candidate failed."""
    digest = hashlib.sha256(str(sorted(choices.items())).encode()).digest()
    if digest[0] % 7 == 0:
        return ended_trial(choices)
    latency_ms = float(DOMAIN.facts(DOMAIN.encode(choices)[None]).latency_ms[0])
    metrics = Metrics(digest[1] / 256, latency_ms, 1000, 1000)
    return ended_trial(choices, metrics, given.objective(metrics), stopped=digest[2] % 5 == 0)


def some(count: int) -> list[Choices]:
    return [DOMAIN.decode(row) for row in DOMAIN.sample(count, np.random.default_rng(count))]


def started(name: str, given: Problem, history: Sequence[Trial]) -> Controller:
    controller = CONTROLLERS[name](given)
    for ended in history:
        controller.tell(ended)
    return controller


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


@pytest.mark.parametrize("objective", ["soft", "pareto"])  # one score, and several
@pytest.mark.parametrize("name", CONTROLLERS)
def test_asks_stay_inside_and_replay_equals_tell(name: str, objective: str) -> None:
    """Also where an earlier run or reference networks were told, which it never asked for, and asks were refused."""
    given = problem(objective)
    history = [told(given, choices) for choices in some(TOLD.get(name, 103))]
    before = random_states()
    one = started(name, given, history)
    asked = []
    for number in range(6):
        one.ask(derive_seed(8, number))  # refused: it never comes back
        choices = one.ask(derive_seed(7, number))
        assert active(SPACE, choices) == choices
        asked.append(choices)
        history.append(told(given, choices))
        one.tell(history[-1])
    for cut in (1, 4):
        other = started(name, given, history[: len(history) - cut])
        assert other.ask(derive_seed(7, 6 - cut)) == asked[-cut]
    assert random_states() == before


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("count", [0, 60])
def test_an_ask_depends_on_its_seed_alone(name: str, count: int) -> None:
    given = problem("soft")
    controller = started(name, given, [told(given, choices) for choices in some(min(count, TOLD.get(name, count)))])
    first = controller.ask(1)
    random.seed(99)
    controller.ask(2)
    assert controller.ask(1) == first
    if not count:  # later one may be sure of what comes next
        assert any(controller.ask(seed) != first for seed in range(3, 30))


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_domain_in_which_all_fail_or_all_are_alike_breaks_nothing(name: str) -> None:
    given = problem("soft")
    controller, metrics = CONTROLLERS[name](given), Metrics(0.5, TARGET_MS, 1, 1)
    for number, choices in enumerate(some(TOLD.get(name, 120))):
        assert active(SPACE, asked := controller.ask(number)) == asked if number % 20 == 0 else True
        controller.tell(
            ended_trial(choices) if number < 40 else ended_trial(choices, metrics, given.objective(metrics))
        )
    assert active(SPACE, asked := controller.ask(0)) == asked


class Alternating:
    """Gives each network an accuracy of its digest; every fourth fails."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[str] = []

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        self.seen.append(canonical(arch).digest)
        if len(self.seen) % 4 == 0:
            raise RuntimeError(f"no {len(self.seen)}")
        yield int(arch.digest[:4], 16) / 2**16


MANY: dict[str, Any] = {
    "resolution": 32,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 2},
        {"block": "mbconv", "depth": [0, 1], "kernel_size": [3, 5, 7], "out_channels": [12, 16],
         "skip": ["none", "identity", "pool"], "expand_ratio": [2, 3, 4]},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLLERS)
def test_no_network_is_evaluated_twice_however_it_is_spelled(name: str, tmp_path: Path) -> None:
    space = parse_space("many", {**MANY, "resolution": [32]}, "many.yaml")
    domain = encode_space(space, lambda layer: layer.macs / 1e5)
    distinct = len(set(domain.facts(domain.all_rows()).keys.tolist()))
    assert distinct < 0.7 * domain.size
    goal = make_objective("soft", 1.0)
    trials, evaluator = (12 if name == "gp" else distinct - 2), Alternating()

    def predict(arch: Architecture) -> float:
        return totals(trace(arch)).macs / 1e5

    with open_study(tmp_path, {}, space, goal.directions) as study:
        controller = CONTROLLERS[name](Problem(domain, goal))
        plan = SearchPlan(space, controller, evaluator, goal, predict, make_rungs("full", 2, 1, 1))
        search(plan, study, trials, 0, Reporter(quiet=True))
        assert study.count == trials == len(study.digests)
    assert len(evaluator.seen) == len(set(evaluator.seen)) == trials


def test_a_search_by_every_controller_repeats_itself(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    without_winner: None,
    write_accuracies: Callable[[Path, Space], None],
) -> None:
    """The whole command on the null runtime, with accuracies of a table; finalists and winner are no controller's."""
    table, text = tmp_path / "table.csv", tmp_path / "small.yaml"
    text.write_text(json.dumps({**DATA, "proxy": {"resolution": 8}}), encoding="utf-8")
    write_accuracies(table, SPACE)
    for name in CONTROLLERS:
        found = []
        for run in ("a", "b"):
            flags = ["--space", str(text), "--accuracies", str(table), "--trials", "11", "--json", "--quiet"]
            flags += ["--controller", name, "--runtime", "null", "--target-latency", "20ms"]
            assert main(["search", *flags, "--seed", "4", "--run", str(tmp_path / name / run)]) == 0
            result = json.loads(capsys.readouterr().out)
            found.append([(each["architecture"], each["accuracy"]) for each in result["candidates"]])
        assert found[0] == found[1], name
        assert len(found[0]) == len(dict(found[0])) == 11


def test_a_controller_that_does_not_suit_the_space_is_one_line_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.searching.job.select_tables", lambda *_: pytest.fail("measures first"))
    flags = ["--controller", "exhaustive", "--space", "mobile", "--runtime", "null", "--target-latency", "20ms"]
    assert main(["search", *flags, "--run", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert "--controller: " in printed
    assert "23,708,160: 'exhaustive'" in printed
    assert not (tmp_path / "run").exists()
