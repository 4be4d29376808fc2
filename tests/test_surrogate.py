"""Our controller: limits, goals and fronts, candidates under way, stopped and failed ones, small and large domains."""

from __future__ import annotations

import numpy as np
import pytest

from nas.controllers import pool
from nas.controllers.pool import Aim, Pool
from nas.controllers.surrogate import FIRST, LEVELS, SurrogateController, full_accuracies
from nas.domain import Domain, Facts, Floats, Indices
from nas.goals import make_goals, make_targets
from nas.objective import Constrained, Metrics, Objective, Pareto, Reward
from nas.problem import Problem, Told
from nas.search import derive_seed

CHOICES = {f"stage{stage}.kernel_size": (3, 5, 7, 9) for stage in range(8)}
BEST = np.array([3, 0, 2, 1, 3, 2, 0, 3])


def facts(rows: Indices) -> Facts:
    """Costs grow with every choice: 1 ms each step and 1 ms for all."""
    steps = rows.sum(axis=1).astype(np.float64)
    weights = 4 ** np.arange(rows.shape[1])
    return Facts(rows @ weights, 1.0 + steps, np.log(1.0 + steps)[:, None])


DOMAIN = Domain(CHOICES, facts, features=("macs",))


def accuracy(rows: Indices) -> Floats:
    """Return accuracies of which every choice has its own share: (N,)."""
    return np.asarray(0.9 - 0.05 * np.abs(rows - BEST).sum(axis=1), np.float64)


def search(objective: Objective, evaluations: int, seed: int = 0, domain: Domain = DOMAIN) -> Indices:
    """Return the rows that the controller asks for."""
    controller, rows = SurrogateController(Problem(domain, objective)), []
    for number in range(evaluations):
        rows.append(domain.encode(controller.ask(derive_seed(seed, number))))
        controller.tell(told(objective, rows[-1], domain))
    return np.array(rows)


def told(objective: Objective, row: Indices, domain: Domain = DOMAIN) -> Told:
    latency = float(domain.facts(row[None]).latency_ms[0])
    metrics = Metrics(float(accuracy(row[None])[0]), latency, 1, 1)
    return Told(domain.decode(row), metrics, objective(metrics), curve=(metrics.accuracy,))


def test_within_a_limit_it_finds_the_best_of_65536_in_60() -> None:
    target_ms = 13.0
    rows = search(Constrained(target_ms), 60)
    assert (facts(rows).latency_ms <= target_ms).all()
    assert len(np.unique(rows, axis=0)) == 60
    every = DOMAIN.every()
    best = accuracy(every[facts(every).latency_ms <= target_ms]).max()
    assert accuracy(rows).max() == pytest.approx(best)


def test_a_limit_that_random_candidates_never_hold_is_held_from_the_first_on() -> None:
    aim = Aim(0, 3.0)
    rows = DOMAIN.sample(20_000, np.random.default_rng(0))
    assert (facts(rows).latency_ms <= 3.0).mean() < 2e-3
    found = Pool(DOMAIN).admitted(aim)
    assert len(found) == 45  # 0, 1 or 2 steps over 8 choices of up to 3: 1 + 8 + 36
    assert (facts(search(Constrained(3.0), 12)).latency_ms <= 3.0).all()


def test_out_of_reach_it_still_answers() -> None:
    assert set(SurrogateController(Problem(DOMAIN, Constrained(0.5))).ask(1)) == set(CHOICES)


def test_a_reward_is_followed_to_its_best() -> None:
    objective = Reward(13.0, -0.5, -0.5)
    every = DOMAIN.every()
    rewards = objective.scores(accuracy(every), facts(every).latency_ms)
    rows = search(objective, 70)
    found = objective.scores(accuracy(rows), facts(rows).latency_ms).max()
    assert (rewards > found + 1e-9).mean() < 1e-4


def test_goals_are_aimed_at_in_turn() -> None:
    objective = make_goals("constrained", make_targets([5.0, 13.0], ()), None, None)
    rows = search(objective, 60)
    costs = facts(rows).latency_ms
    assert (costs[0::2] <= 5.0).all()
    assert (costs[1::2] <= 13.0).all()
    every = DOMAIN.every()
    for target_ms in (5.0, 13.0):
        best = accuracy(every[facts(every).latency_ms <= target_ms]).max()
        assert accuracy(rows[costs <= target_ms]).max() >= best - 0.051


def test_a_front_is_searched_from_end_to_end() -> None:
    rows = search(Pareto(13.0, ("accuracy", "macs")), 80)
    costs, values = facts(rows).latency_ms, accuracy(rows)
    chance = DOMAIN.sample(80, np.random.default_rng(0))
    limits = np.linspace(3, 20, LEVELS)

    def stairs(cost: Floats, value: Floats) -> float:
        return float(sum(value[cost <= limit].max(initial=0.0) for limit in limits))

    assert stairs(costs, values) > stairs(facts(chance).latency_ms, accuracy(chance)) + 0.8
    assert costs.min() <= 5


def test_candidates_under_way_are_left_alone_and_looked_away_from() -> None:
    objective = Constrained(13.0)
    controller = SurrogateController(Problem(DOMAIN, objective))
    for row in search(objective, 20):
        controller.tell(told(objective, row))
    pending: list[dict[str, object]] = []
    for _ in range(6):
        pending.append(dict(controller.ask(7, pending)))  # type: ignore[arg-type]
    rows = np.array([DOMAIN.encode(choices) for choices in pending])  # type: ignore[arg-type]
    assert len(np.unique(rows, axis=0)) == 6
    assert (facts(rows).latency_ms <= 13.0).all()


def test_a_failed_candidate_is_not_asked_for_again() -> None:
    objective = Constrained(1.5)  # a single network
    controller = SurrogateController(Problem(DOMAIN, objective))
    only = controller.ask(1)
    assert set(only.values()) == {3}
    controller.tell(Told(only, None, None))
    for row in search(Constrained(13.0), FIRST + 3):
        controller.tell(told(objective, row))
    assert controller.ask(2) == only  # nothing else is admitted: the search will see that it was tried


def test_what_a_rung_stopped_counts_as_what_it_would_have_become() -> None:
    def ended(*curve: float, stopped: bool = False) -> Told:
        return Told({}, Metrics(curve[-1], 1.0, 1, 1), (curve[-1],), stopped, curve)

    curves = [ended(0.3, 0.5, 0.6), ended(0.4, 0.5, 0.8), ended(0.2, stopped=True), ended(0.3, 0.4, stopped=True)]
    assert full_accuracies(curves) == pytest.approx([0.6, 0.8, 0.2 + 0.35, 0.4 + 0.2])
    assert full_accuracies(curves[2:]) == pytest.approx([0.2, 0.4])


def test_a_small_domain_is_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Domain(dict(list(CHOICES.items())[:3]), facts)
    assert Pool(small).is_whole
    assert not Pool(DOMAIN).is_whole
    assert len(Pool(small).admitted(Aim())) == 64
    monkeypatch.setattr(pool, "SMALL", 10)
    assert not Pool(small).is_whole
    assert len(Pool(small).admitted(Aim())) == 64


def test_points_are_one_hot_columns_and_numbers_of_spread_one() -> None:
    candidates = Pool(DOMAIN)
    columns, found = candidates.columns, candidates.admitted(Aim())
    assert found.points.shape == (len(found), len(columns.group)) == (len(found), 8 * 5 + 2)
    assert (found.points[:, :40] > 0).sum(axis=1).tolist() == [8] * len(found)
    assert np.allclose(found.points[:, 40:].std(axis=0), 1.0, atol=0.05)
    assert columns.weight[:8].sum() == pytest.approx(1.0)
