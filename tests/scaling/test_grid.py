"""The grid of coefficients: its points and facts, budgets and objectives, and which points are measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.errors import UsageError
from nas.networks.network import canonical, totals, trace
from nas.scaling.budget import RESOURCES, Budget, check_budget, make_budget_objective
from nas.scaling.grid import Grid, GridPoint, encode_grid, make_grid, make_grid_point, make_grid_points
from nas.scaling.grid_latencies import GridLatencies, check_any_admitted, measure_admitted, measure_grid
from nas.scaling.presets import Coefficients
from nas.scaling.scale import scale
from nas.scaling.sizes import Factors, Rounding
from nas.searching.loop import derive_seed
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import parse_space
from nas.study.objectives import SOFT, Metrics
from nas.utils.reporting import Reporter
from tests.helpers.scaled_networks import BASE, ScriptedLatency, macs, noise
from tests.helpers.trials import ended_trial

ROUNDING = Rounding(divisor=4, resolution_step=4)
QUIET = Reporter(quiet=True)
GRID = make_grid(BASE, 0.2, 2.0, False, ROUNDING, Proxy())
SPOTS = make_grid_points(GRID, lambda _: None)
FIRST = make_grid_point(BASE, {})
EVERY = list({point.architecture.digest: point for point in SPOTS if point and point.architecture != BASE}.values())
COSTS: dict[str, Callable[[GridPoint], float]] = {
    "latency": lambda point: 2.0 * point.macs / 1e6,
    "macs": lambda point: float(point.macs),
    "activations": lambda point: float(point.activations),
}
NO_DEPTH = {
    "resolution": 32,
    "stages": [{"block": "conv", "out_channels": 16, "stride": 2}, {"block": "conv", "out_channels": 16}],
    "head": {"block": "classifier", "num_classes": 10},
}


def metrics_of(point: GridPoint, accuracy: float) -> Metrics:
    return Metrics(accuracy, COSTS["latency"](point), point.params, point.macs, activations=point.activations)


def test_the_grid_goes_to_where_one_dimension_takes_the_budget_and_further_for_what_grows_slower() -> None:
    by_macs = make_grid(BASE, 0.1, 2.0, True, ROUNDING, Proxy())
    assert by_macs.values[0] == tuple(round(1 + index / 10, 1) for index in range(11))
    assert by_macs.values[1] == by_macs.values[2] == (1.0, 1.1, 1.2, 1.3, 1.4)  # 1.5 squared is over 2
    assert by_macs.size == 11 * 5 * 5
    other = make_grid(BASE, 0.1, 2.0, False, ROUNDING, Proxy())
    assert other.values[0][-1] == 2.5
    assert (other.values[1][-1], other.values[2][-1]) == (2.0, 1.6)  # activations grow as width, not its square
    assert all(values[0] == 1.0 and list(values) == sorted(set(values)) for values in other.values)
    assert by_macs.key != other.key
    assert by_macs.key != replace(by_macs, rounding=Rounding()).key
    assert by_macs.key == make_grid(BASE, 0.1, 2.0, True, ROUNDING, Proxy(8)).key


def test_points_are_all_of_them_the_last_dimension_fastest_and_decode_as_the_rule_scales() -> None:
    points = list(GRID.enumerate_choices())
    assert points == [dict(zip(GRID.choices, values, strict=True)) for values in product(*GRID.values)]
    assert len(points) == GRID.size == len(SPOTS)
    for choices in random.Random(0).sample(points, 12):
        factors = Factors(*(float(choices[key]) for key in ("depth", "width", "resolution")))  # type: ignore[arg-type]
        assert GRID.decode(choices) == scale(BASE, factors, ROUNDING)
        assert GRID.coefficients(choices).at(1) == factors
    assert GRID.decode(points[0]) == BASE
    drawn = GRID.sample(random.Random(3))
    assert drawn in points
    assert drawn == GRID.sample(random.Random(3))


def test_a_dimension_that_the_base_lacks_is_no_choice() -> None:
    base = canonical(parse_space("plain", NO_DEPTH, "plain.yaml").decode({}))
    grid = make_grid(base, 0.25, 2.0, True, ROUNDING, Proxy())
    assert grid.values[0] == (1.0,)
    assert list(grid.choices) == ["width", "resolution"]
    assert grid.coefficients({"width": 1.25, "resolution": 1.0}) == Coefficients(1.0, 1.25, 1.0)
    assert len(make_grid_points(grid, lambda _: None)) == grid.size


@pytest.mark.parametrize("step", [1e-9, 1e-320, 0.004])
def test_a_step_that_makes_too_many_points_is_told_before_they_are_made(step: float) -> None:
    with pytest.raises(
        UsageError,
        match=r"--step: makes over 20,000 points up to 2 times the base.*: ",
    ):
        make_grid(BASE, step, 2.0, True, ROUNDING, Proxy())


@pytest.mark.parametrize(
    ("step", "message"),
    [(0.0, "must be above zero: 0"), (-0.1, "must be above zero"), (math.nan, "must be above zero: nan"),
     (math.inf, "must be above zero: inf"), (3.0, "is larger than the allowed growth: 3")],
)  # fmt: skip
def test_a_step_that_makes_no_grid_is_one_line(step: float, message: str) -> None:
    with pytest.raises(UsageError, match=f"--step: {message}"):
        make_grid(BASE, step, 2.0, False, ROUNDING, Proxy())


def test_of_equal_networks_the_point_stands_for_all_that_promises_the_growth_they_have() -> None:
    assert len(EVERY) < GRID.size - 1
    for choices, point in zip(GRID.enumerate_choices(), SPOTS, strict=True):
        assert point is not None
        assert point.architecture == canonical(GRID.decode(choices))
        assert canonical(GRID.decode(point.choices)) == point.architecture
    for point in EVERY:
        equal = [choices for choices, other in zip(GRID.enumerate_choices(), SPOTS, strict=True) if other is point]
        growths = [GRID.coefficients(choices).at(1).growth for choices in equal]
        promised, real = GRID.coefficients(point.choices).at(1).growth, point.macs / FIRST.macs
        assert abs(math.log(promised / real)) == pytest.approx(min(abs(math.log(g / real)) for g in growths))
    found = {id(point) for point in SPOTS}
    assert len(found) == len({point.architecture.digest for point in SPOTS if point})


@pytest.mark.parametrize("resource", RESOURCES)
def test_the_facts_of_the_domain_are_those_of_every_decoded_point(resource: str) -> None:
    holed: list[GridPoint | None] = [None if place % 11 == 5 else point for place, point in enumerate(SPOTS)]
    domain = encode_grid(GRID, holed, COSTS[resource])
    rows = domain.all_rows()
    assert domain.size == len(rows) == GRID.size
    facts = domain.facts(rows)
    for place, choices in enumerate(GRID.enumerate_choices()):
        assert domain.decode(rows[place]) == choices
        if holed[place] is None:
            assert 1000 * max(COSTS[resource](point) for point in EVERY) < facts.latency_ms[place] < np.inf
            continue
        arch = canonical(GRID.decode(choices))
        whole = totals(trace(arch))
        assert facts.keys[place] == arch.digest
        assert facts.latency_ms[place] == COSTS[resource](make_grid_point(arch, {}))
        assert facts.features[place].tolist() == pytest.approx([math.log(whole.macs), math.log(whole.params)])
    assert len(set(facts.keys.tolist())) >= len({point.architecture.digest for point in holed if point})
    some = rows[[7, 3, 3]]
    assert domain.facts(some).keys.tolist() == facts.keys[[7, 3, 3]].tolist()


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_budget_admits_what_misses_it_by_the_tolerance_at_most(resource: str) -> None:
    budget = Budget(resource, 50.0, 2.0, 0.1)
    assert budget.target == 100.0
    assert budget.admits([90.0, 100.0, 110.0]).all()
    assert not budget.admits([89.9, 110.1, math.inf]).any()
    spent = {"latency": 7.0, "macs": 8.0, "activations": 9.0}
    assert budget.cost(Metrics(0.5, 7.0, 1, 8, activations=9)) == spent[resource]


@pytest.mark.parametrize("resource", RESOURCES)
def test_scores_are_those_of_the_paper_by_hand(resource: str) -> None:
    metrics = Metrics(0.8, 30.0, 1, 60, activations=90)
    cost = {"latency": 30.0, "macs": 60.0, "activations": 90.0}[resource]
    budget = Budget(resource, cost / 2.1, 2.0, 0.1)  # the network is 5 % over
    ratio = cost / budget.target
    assert ratio == pytest.approx(1.05)
    expected = {("soft", None): 0.8 * ratio**SOFT, ("soft", -0.3): 0.8 * ratio**-0.3, ("soft", 0.0): 0.8,
                ("hard", None): 0.8 / ratio, ("constrained", None): 0.8}  # fmt: skip
    for (name, exponent), score in expected.items():
        objective: Any = make_budget_objective(name, budget, exponent)
        assert objective.score(metrics) == pytest.approx(score)
        assert objective(metrics) == (objective.score(metrics),)
        assert objective.scores(np.array([0.8]), np.array([cost])) == pytest.approx([score])
        assert objective.holds(metrics)
        assert objective.directions == ("maximize",)
        (goal,) = objective.goals
        assert goal.score(metrics) == objective.score(metrics)
        assert goal.holds(metrics)
        far = replace(metrics, latency_ms=60.0, macs=120, activations=180)
        assert not objective.holds(far)
        assert not objective.admits(2 * cost)
        assert not objective.admits(cost / 2)


@pytest.mark.parametrize(
    ("name", "exponent", "message"),
    [("hard", -0.1, "--exponent: .*'soft', not to 'hard': -0.1"),
     ("soft", 0.5, r"--exponent: must be in \[-10, 0\]: 0.5"), ("soft", math.nan, r"--exponent: must be in")],
)  # fmt: skip
def test_an_exponent_that_cannot_be_is_one_line(name: str, exponent: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_budget_objective(name, Budget("macs", 1.0), exponent)


@pytest.mark.parametrize(
    ("given", "message"),
    [(("memory", 2.0, 0.1, "soft"), "--budget: unknown budget 'memory'; known: activations, latency, macs"),
     (("latencey", 2.0, 0.1, "soft"), "did you mean 'latency'"), (("macs", 1.0, 0.1, "soft"), "--times: must be above"),
     (("macs", math.nan, 0.1, "soft"), "--times"), (("macs", 2.0, 0.0, "soft"), "--tolerance: must be between 0 and"),
     (("macs", 2.0, 1.0, "soft"), "--tolerance"), (("macs", 2.0, 0.1, "pareto"), "--objective: unknown objective")],
)  # fmt: skip
def test_a_budget_that_cannot_be_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_budget(*given)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("resource", ["latency", "activations"])
@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_walks_the_grid_within_its_budget(name: str, resource: str) -> None:
    """Asks are points, the same for the same seed, also where of a third of the points nothing can be made."""
    holed: list[GridPoint | None] = [None if place % 3 == 1 else point for place, point in enumerate(SPOTS)]
    budget = Budget(resource, COSTS[resource](FIRST), 2.0, 0.2)
    problem = Problem(encode_grid(GRID, holed, COSTS[resource]), make_budget_objective("soft", budget, None))
    by_point = dict(zip((str(point) for point in GRID.enumerate_choices()), holed, strict=True))
    admitted = {point.architecture.digest for point in holed if point and budget.admits(COSTS[resource](point))}
    assert len(admitted) > 4

    def walk() -> list[Any]:
        controller, asked = CONTROLLERS[name](problem), []
        for number in range(14):
            choices = controller.ask(derive_seed(5, number))
            asked.append(choices)
            point = by_point[str({key: choices[key] for key in GRID.choices})]
            if point is None or number % 6 == 5:
                controller.tell(ended_trial(choices))
            else:
                metrics = metrics_of(point, 0.5 + 0.3 * noise(point.architecture.digest))
                controller.tell(ended_trial(choices, metrics, problem.objective(metrics)))
        return asked

    first = walk()
    assert first == walk()
    assert all(set(choices) == set(GRID.choices) for choices in first)
    if name == "exhaustive":
        walked = [point.architecture.digest for point in map(by_point.get, map(str, first[: len(admitted)])) if point]
        assert len(set(walked)) == min(len(admitted), len(first))
        assert set(walked) <= admitted


def cubic(arch: Architecture) -> float:
    """A latency that is no power of anything: some overhead, and a share for each layer."""
    return float(1.0 + 0.15 * len(list(arch.blocks())) + 5 * (macs(arch) / macs(BASE)) ** 0.9)


def rough(arch: Architecture) -> float:
    return cubic(arch) * (1 + 0.03 * noise(arch.digest))


@pytest.mark.parametrize("truth", [cubic, rough])
def test_what_a_budget_of_latency_admits_is_what_the_true_latencies_admit(truth: Any) -> None:
    network_latency = ScriptedLatency(truth)
    grid_latencies = measure_grid(FIRST, EVERY, 2.0, 0.1, network_latency, QUIET)
    budget = Budget("latency", grid_latencies.base_ms, 2.0, 0.1)
    assert grid_latencies.base_ms == truth(BASE)
    assert all(grid_latencies.latency_ms[digest] == truth(arch) for digest, arch in known(grid_latencies).items())
    admitted = {digest for digest, ms in grid_latencies.latency_ms.items() if budget.admits(ms)}
    true = {point.architecture.digest for point in EVERY if budget.admits(truth(point.architecture))}
    assert admitted <= true
    assert len(admitted) >= 0.9 * min(len(true), 48)
    assert len(grid_latencies.latency_ms) < len(EVERY)  # what is far from the budget is not measured
    assert all(session[0] == BASE.digest for session in network_latency.timed)
    others = [digest for session in network_latency.timed for digest in session[1:]]
    assert len(others) == len(set(others))


def known(grid_latencies: GridLatencies) -> dict[str, Architecture]:
    every = {point.architecture.digest: point.architecture for point in (FIRST, *EVERY)}
    return {digest: every[digest] for digest in grid_latencies.latency_ms}


@pytest.mark.parametrize("resource", ["macs", "activations"])
def test_of_a_counted_budget_all_that_it_admits_is_measured_and_nothing_else(resource: str) -> None:
    budget = Budget(resource, COSTS[resource](FIRST), 2.0, 0.1)
    admitted = [point for point in EVERY if budget.admits(COSTS[resource](point))]
    network_latency = ScriptedLatency(rough)
    grid_latencies = measure_admitted(FIRST, admitted, network_latency, QUIET)
    assert set(grid_latencies.latency_ms) == {BASE.digest, *(point.architecture.digest for point in admitted)}
    assert all(ms == rough(known(grid_latencies)[digest]) for digest, ms in grid_latencies.latency_ms.items())
    timed = len(network_latency.timed)
    assert measure_admitted(FIRST, admitted, network_latency, QUIET) == grid_latencies
    assert len(network_latency.timed) == timed  # a command that goes on measures nothing again


def test_a_grid_of_one_network_beside_the_base_is_measured() -> None:
    grid_latencies = measure_grid(FIRST, EVERY[:1], 2.0, 0.5, ScriptedLatency(cubic), QUIET)
    assert set(grid_latencies.latency_ms) == {BASE.digest, EVERY[0].architecture.digest}


def test_a_budget_that_nothing_meets_names_the_nearest_point() -> None:
    budget = Budget("macs", 100.0, 2.0, 0.05)
    three = EVERY[:3]
    check_any_admitted(three[:1], three, [0.1, 0.1, 0.1], budget)
    with pytest.raises(UsageError) as raised:
        check_any_admitted([], three, [math.inf, 1.6, 1.7], budget)
    nearest = ",".join(f"{value:g}" for value in three[2].choices.values())
    assert str(raised.value) == (
        f"--budget: no grid point is within 5% of 2 times the base's macs; the nearest, {nearest}, has 1.70 times: "
        "use a smaller --step or a larger --tolerance"
    )


def test_a_grid_is_made_of_what_it_says() -> None:
    with pytest.raises(AssertionError):
        encode_grid(replace(GRID, values=((1.0,), (1.0, 1.2), (1.0,))), SPOTS, COSTS["macs"])
    assert isinstance(GRID, Grid)
