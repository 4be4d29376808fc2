"""The recurrent policy: its probabilities are those with which it draws, and its steps follow the reward."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.controllers.recurrent_policy import Policy
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.study.objectives import Metrics, make_objective
from tests.helpers.trials import ended_trial


def facts(rows: Indices) -> CandidateCosts:
    return CandidateCosts(
        rows.astype(np.int64) @ np.array([1, 10, 100, 1000]), np.ones(len(rows)), np.zeros((len(rows), 0))
    )


DOMAIN = EncodedSpace(
    {"depth": (1, 2), "kind": ("a", "b", "c"), "second": (3, 5, 7), "width": (8, 16)},
    facts,
    {"kind": (("depth", frozenset([2])),), "second": (("kind", frozenset(["b", "c"])),)},
)


def moved() -> Policy:
    policy = Policy(DOMAIN)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in (policy.head.weight, policy.head.bias):
            weights.copy_(torch.randn(weights.shape, generator=generator))
    return policy


def test_the_probabilities_of_all_rows_are_one_and_those_of_the_draws() -> None:
    policy, rows = moved(), DOMAIN.all_rows()
    logs, entropy = policy(rows)
    probabilities = logs.exp().detach().numpy()
    assert len(rows) == 2 + 2 * (1 + 2 * 3)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert (entropy > 0).all()
    drawn = Counter(map(tuple, policy.sample(0, 8000).tolist()))
    assert set(drawn) <= set(map(tuple, rows.tolist()))
    for row, probability in zip(rows.tolist(), probabilities, strict=True):
        assert drawn[tuple(row)] / 8000 == pytest.approx(float(probability), abs=0.02)


def test_it_begins_uniform_in_each_choice_and_the_same_at_every_start() -> None:
    state = torch.get_rng_state()
    one, other = Policy(DOMAIN), Policy(DOMAIN)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    row = DOMAIN.encode({"depth": 2, "kind": "b", "second": 5, "width": 8})
    assert float(one(row[None])[0].exp().detach()) == pytest.approx(1 / (2 * 3 * 3 * 2))


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_what_earns_more_becomes_likelier(name: str) -> None:
    problem = Problem(DOMAIN, make_objective("constrained", 2.0))
    controller = CONTROLLERS[name](problem)
    rng = np.random.default_rng(0)
    for row in DOMAIN.sample(64, rng):
        accuracy = 0.6 if row[3] == 1 else 0.4
        metrics = Metrics(accuracy, 1.0, 1, 1)
        controller.tell(ended_trial(DOMAIN.decode(row), metrics, problem.objective(metrics)))
    policy: Policy = controller._policy  # type: ignore[attr-defined]
    rows = DOMAIN.all_rows()
    wide = policy(rows[rows[:, 3] == 1])[0].exp().sum()
    assert float(wide.detach()) > 0.7
