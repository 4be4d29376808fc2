"""Controllers that learn find more than random ones with as many evaluations, in a small space of real costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.controllers.cmaes import CMAESController
from nas.controllers.evolution import POPULATION, EvolutionController
from nas.controllers.local_search import LocalSearchController
from nas.errors import UsageError
from nas.searching.loop import derive_seed
from nas.spaces.encoded_space import encode_space
from nas.spaces.encoding import EncodedSpace, Indices, no_costs
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space, parse_space
from nas.study.objectives import Metrics, make_objective
from nas.study.trials import Trial
from tests.helpers.trials import ended_trial

DATA: dict[str, Any] = {
    "resolution": [32, 48, 64],
    "stages": [
        {"block": "conv", "out_channels": [8, 12, 16], "stride": 2},
        {"block": ["separable", {"op": "mbconv", "expand_ratio": [2, 3, 4]}], "depth": [1, 2, 3],
         "kernel_size": [3, 5, 7], "out_channels": [12, 16, 24], "stride": 2},
        {"block": "mbconv", "depth": [1, 2, 3], "expand_ratio": [2, 3, 4], "kernel_size": [3, 5, 7],
         "out_channels": [24, 32, 48]},
    ],
    "head": {"block": "classifier", "num_classes": 10},
}  # fmt: skip
SPACE: Space = parse_space("small", DATA, "small.yaml")
DOMAIN = encode_space(SPACE, lambda layer: layer.macs / 1e6)
ROWS = DOMAIN.all_rows()
FACTS = DOMAIN.facts(ROWS)
TARGET_MS = float(np.median(FACTS.latency_ms))
OBJECTIVE = make_objective("soft", TARGET_MS)
EVALUATIONS = 80


def accuracy(rows: Indices) -> Any:
    """Return accuracies that grow with MACs and parameters, and with large kernels late: (N,)."""
    features = DOMAIN.facts(rows).features
    low, high = FACTS.features.min(axis=0), FACTS.features.max(axis=0)
    size = (features - low) / (high - low)
    late = rows[:, -2] / 2 - (rows[:, 3] == 0) / 2
    return 0.3 + 0.3 * size[:, 0] + 0.1 * size[:, 1] + 0.1 * late


ALL = np.sort(OBJECTIVE.scores(accuracy(ROWS), FACTS.latency_ms))


def share_better(name: str, seed: int, evaluations: int) -> float:
    """Return the share of all networks that are better than the best that the controller found."""
    controller, best = CONTROLLERS[name](Problem(DOMAIN, OBJECTIVE)), -np.inf
    for number in range(evaluations):
        row = DOMAIN.encode(controller.ask(derive_seed(seed, number)))[None]
        latency_ms = float(DOMAIN.facts(row).latency_ms[0])
        metrics = Metrics(float(accuracy(row)[0]), latency_ms, 1, 1)
        controller.tell(ended_trial(DOMAIN.decode(row[0]), metrics, OBJECTIVE(metrics)))
        best = max(best, OBJECTIVE.score(metrics))
    return 1 - float(np.searchsorted(ALL, best - 1e-12)) / len(ALL)


def by_chance(evaluations: int) -> float:
    """Return the median of that share over 99 random searches."""
    rows = DOMAIN.sample(99 * evaluations, np.random.default_rng(0))
    scores = OBJECTIVE.scores(accuracy(rows), DOMAIN.facts(rows).latency_ms).reshape(99, evaluations)
    return float(np.median(1 - np.searchsorted(ALL, scores.max(axis=1) - 1e-12) / len(ALL)))


@pytest.mark.parametrize(
    "name", ["evolution", "local_search", "nsga2", "nsga3", "cmaes", "reinforce", "ppo", "tpe", "gp", "surrogate"]
)
def test_it_finds_more_than_chance(name: str) -> None:
    """A genetic algorithm needs some generations, a Gaussian process few evaluations."""
    evaluations = {"nsga2": 150, "nsga3": 150, "gp": 20, "surrogate": 20}.get(name, EVALUATIONS)
    found = [share_better(name, seed, evaluations) for seed in range(3)]
    assert np.median(found) < 0.8 * by_chance(evaluations)


def told(row: Indices, score: float) -> Trial:
    metrics = Metrics(score, TARGET_MS, 1, 1)
    return ended_trial(DOMAIN.decode(row), metrics, OBJECTIVE(metrics))


def test_the_oldest_of_a_population_dies_though_it_is_the_best() -> None:
    controller = EvolutionController(Problem(DOMAIN, OBJECTIVE))
    rows = DOMAIN.sample(POPULATION + 1, np.random.default_rng(0))
    best, others = told(rows[0], 0.9), [told(row, 0.1 + place / 1000) for place, row in enumerate(rows[1:])]
    for each in (best, *others[:-1], ended_trial(best.choices)):
        controller.tell(each)

    def alive() -> list[list[int]]:
        return [row.tolist() for row, _ in controller._population]

    assert alive() == rows[:-1].tolist()  # a failure is no member
    controller.tell(others[-1])
    assert alive() == rows[1:].tolist()
    strongest = rows[-1]
    near = {tuple(row.tolist()) for row in DOMAIN.neighbours(strongest)}
    asked = [tuple(DOMAIN.encode(controller.ask(seed)).tolist()) for seed in range(60)]
    assert sum(row in near for row in asked) >= 3  # it wins one tournament in five
    assert not set(asked) & {tuple(row) for row in rows.tolist()}


def test_local_search_asks_for_neighbours_of_the_best_and_starts_anew_at_a_peak() -> None:
    controller = LocalSearchController(Problem(DOMAIN, OBJECTIVE))
    centre = DOMAIN.sample(1, np.random.default_rng(1))[0]
    controller.tell(told(centre, 0.5))
    around = {tuple(row.tolist()) for row in DOMAIN.neighbours(centre)}
    asked = set()
    for number in range(len(around)):
        row = DOMAIN.encode(controller.ask(number))
        asked.add(tuple(row.tolist()))
        controller.tell(told(row, 0.4) if number % 5 else ended_trial(DOMAIN.decode(row)))
    assert asked == around
    other = DOMAIN.encode(controller.ask(0))
    assert tuple(other.tolist()) not in around
    controller.tell(told(other, 0.1))  # worse than the peak, and yet where it goes on
    again = tuple(DOMAIN.encode(controller.ask(0)).tolist())
    assert again in {tuple(row.tolist()) for row in DOMAIN.neighbours(other)}


def test_exhaustive_tries_every_network_once_and_refuses_a_large_space() -> None:
    space = parse_space("few", {**DATA, "resolution": 32, "stages": DATA["stages"][:2]}, "few.yaml")
    domain = encode_space(space, lambda layer: layer.macs / 1e6)
    keys = domain.facts(domain.all_rows()).keys.tolist()
    controller = CONTROLLERS["exhaustive"](Problem(domain, make_objective("soft", 1.0)))
    seen: list[Any] = []
    for number in range(len(set(keys))):
        row = domain.encode(controller.ask(number))
        seen += domain.facts(row[None]).keys.tolist()
        controller.tell(ended_trial(domain.decode(row)))
    assert set(seen) == set(keys)
    assert len(seen) == len(set(seen))
    large = load_space("mobile")
    with pytest.raises(UsageError, match=r"--controller: .* 1,000,000 .* 23,708,160: 'exhaustive'"):
        CONTROLLERS["exhaustive"](Problem(EncodedSpace(large.choices, no_costs, large.conditions), OBJECTIVE))


def test_cmaes_needs_numbers_and_its_library() -> None:
    words = EncodedSpace({"a": ("x", "y"), "b": (1, 2)}, no_costs)
    with pytest.raises(UsageError, match=r"--controller: .* two choices between numbers, .* has 1: 'cmaes'"):
        CMAESController.check(words)
    code = (
        "import sys; sys.modules['cmaes'] = None\n"
        "from nas.controllers.cmaes import CMAESController as C\n"
        "from nas.spaces.encoding import EncodedSpace, no_costs\n"
        "C.check(EncodedSpace({'a': (1, 2), 'b': (1, 2)}, no_costs))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "--controller: needs the package cmaes: pip install 'hwnas[cmaes]': 'cmaes'"
    assert done.stderr.strip().splitlines()[-1].endswith(expected)
