"""What a search advises if the accuracies of its candidates are noisy."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nas.searching.budget.plan import Plan
from nas.searching.budget.preparation import _advice
from nas.searching.budget.training_cost import TrainingCost
from nas.spaces.trainings import Proxy

PLAN = Plan(1200.0, 0.0, (Proxy(64),), 8, 0, TrainingCost(1e-3, 0.0, 1600, 400, 32))


def certificate(reliability: float, mean: float) -> dict[str, Any]:
    facts = {"low": 0.0, "high": 0.9, "noise": 0.02, "between": 0.01, "networks": 8, "evaluations": 16}
    return {**facts, "reliability": reliability, "mean": mean, "wanted": 0.7, "chance": 0.1}


@pytest.mark.parametrize(
    ("reliability", "mean", "advice"),
    [
        (0.4, 0.5, r"--budget 80 min would probably do"),
        (0.01, 0.16, r"learned little yet \(16% right where chance is 10%\); --budget 80 min lets them differ more"),
        (0.01, 0.8, r"a longer budget will hardly help"),
    ],
)
def test_the_advice_depends_on_what_the_networks_have_learned(reliability: float, mean: float, advice: str) -> None:
    assert re.search(advice, _advice(PLAN, certificate(reliability, mean)))
