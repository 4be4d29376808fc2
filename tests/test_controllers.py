"""The conformance suite of controllers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

import pytest

from nas.controllers import CONTROLLERS
from nas.objective import Metrics, make_objective
from nas.problem import Problem, Told
from nas.search import derive_seed
from nas.space import Space
from nas.space_domain import space_domain
from nas.space_file import load_space

SPACE: Space = load_space("mobile")
DOMAIN = space_domain(SPACE, lambda layer: layer.macs / 1e7)


def problem(objective: str) -> Problem:
    return Problem(DOMAIN, make_objective(objective, 20.0))


def told(asked: Problem, choices: Mapping[str, object]) -> Told:
    """Return made-up metrics that the choices decide; every seventh candidate failed."""
    digest = hashlib.sha256(str(sorted(choices.items())).encode()).digest()
    if digest[0] % 7 == 0:
        return Told(choices, None, None)  # type: ignore[arg-type]
    latency_ms = float(DOMAIN.facts(DOMAIN.encode(choices)[None]).latency_ms[0])  # type: ignore[arg-type]
    metrics = Metrics(digest[1] / 256, latency_ms, 1000, 1000)
    return Told(choices, metrics, asked.objective(metrics), stopped=digest[2] % 5 == 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["soft", "constrained", "pareto"])
@pytest.mark.parametrize("name", CONTROLLERS)
def test_asks_stay_inside_and_replay_equals_tell(name: str, objective: str) -> None:
    given = problem(objective)
    one = CONTROLLERS[name](given)
    history, asked = [], []
    for number in range(14):
        choices = one.ask(derive_seed(7, number))
        assert SPACE.active(choices) == choices
        history.append(told(given, choices))
        one.tell(history[-1])
        asked.append(choices)
    other = CONTROLLERS[name](given)
    for number, ended in enumerate(history):
        if number >= 10:
            assert other.ask(derive_seed(7, number)) == asked[number]
        other.tell(ended)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_an_ask_depends_on_its_seed_alone(name: str) -> None:
    controller = CONTROLLERS[name](problem("soft"))
    first = controller.ask(1)
    random.seed(99)
    controller.ask(2)
    assert controller.ask(1) == first
    assert any(controller.ask(seed) != first for seed in range(3, 8))
