"""Our controller: limits, goals and fronts, candidates under way, stopped and failed ones, small and large domains."""

from __future__ import annotations

import numpy as np
import pytest

from nas.controllers import candidate_pool as pool
from nas.controllers.base import Problem
from nas.controllers.candidate_pool import CandidatePool, CostLimit
from nas.controllers.surrogate import FIRST, LEVELS, SurrogateController, full_accuracies, last_fit
from nas.searching.loop import derive_seed
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Floats, Indices
from nas.study.multi_goal import make_goals, make_targets
from nas.study.objectives import Constrained, Metrics, Objective, Pareto, Reward
from nas.study.trials import Trial
from tests.helpers.trials import ended_trial

CHOICES = {f"stage{stage}.kernel_size": (3, 5, 7, 9) for stage in range(8)}
BEST = np.array([3, 0, 2, 1, 3, 2, 0, 3])


def facts(rows: Indices) -> CandidateCosts:
    """Costs grow with every choice: 1 ms each step and 1 ms for all."""
    steps = rows.sum(axis=1).astype(np.float64)
    weights = 4 ** np.arange(rows.shape[1])
    return CandidateCosts(rows @ weights, 1.0 + steps, np.log(1.0 + steps)[:, None])


DOMAIN = EncodedSpace(CHOICES, facts, features=("macs",))


def accuracy(rows: Indices) -> Floats:
    """Return accuracies of which every choice has its own share: (N,)."""
    return np.asarray(0.9 - 0.05 * np.abs(rows - BEST).sum(axis=1), np.float64)


def search(objective: Objective, evaluations: int, seed: int = 0, domain: EncodedSpace = DOMAIN) -> Indices:
    """Return the rows that the controller asks for."""
    controller, rows = SurrogateController(Problem(domain, objective)), []
    for number in range(evaluations):
        rows.append(domain.encode(controller.ask(derive_seed(seed, number))))
        controller.tell(told(objective, rows[-1], domain))
    return np.array(rows)


def told(objective: Objective, row: Indices, domain: EncodedSpace = DOMAIN) -> Trial:
    latency = float(domain.facts(row[None]).latency_ms[0])
    metrics = Metrics(float(accuracy(row[None])[0]), latency, 1, 1)
    return ended_trial(domain.decode(row), metrics, objective(metrics), curve=(metrics.accuracy,))


def test_within_a_limit_it_finds_the_best_of_65536_in_60() -> None:
    target_ms = 13.0
    rows = search(Constrained(target_ms), 60)
    assert (facts(rows).latency_ms <= target_ms).all()
    assert len(np.unique(rows, axis=0)) == 60
    every = DOMAIN.all_rows()
    best = accuracy(every[facts(every).latency_ms <= target_ms]).max()
    assert accuracy(rows).max() == pytest.approx(best)


def test_a_limit_that_random_candidates_never_hold_is_held_from_the_first_on() -> None:
    aim = CostLimit(0, 3.0)
    rows = DOMAIN.sample(20_000, np.random.default_rng(0))
    assert (facts(rows).latency_ms <= 3.0).mean() < 2e-3
    found = CandidatePool(DOMAIN).admitted(aim)
    assert len(found) == 45  # 0, 1 or 2 steps over 8 choices of up to 3: 1 + 8 + 36
    assert (facts(search(Constrained(3.0), 12)).latency_ms <= 3.0).all()


def test_out_of_reach_it_still_answers() -> None:
    assert set(SurrogateController(Problem(DOMAIN, Constrained(0.5))).ask(1)) == set(CHOICES)


def test_a_reward_is_followed_to_its_best() -> None:
    objective = Reward(13.0, -0.5, -0.5)
    every = DOMAIN.all_rows()
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
    every = DOMAIN.all_rows()
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
    objective = make_goals("constrained", make_targets([1.5, 13.0], ()), None, None)  # the first admits one network
    controller = SurrogateController(Problem(DOMAIN, objective))
    only = controller.ask(1)
    assert set(only.values()) == {3}
    controller.tell(ended_trial(only))
    for row in search(Constrained(13.0), FIRST + 4):
        controller.tell(told(objective, row))
    other = DOMAIN.encode(controller.ask(2))  # the first goal's turn: nothing is left for it, so the second is aimed at
    assert other.any()
    assert facts(other[None]).latency_ms[0] <= 13.0


@pytest.mark.parametrize("axes", [("accuracy", "energy"), ("accuracy", "latency", "memory")])
def test_latency_stands_for_costs_that_are_not_known_of_so_many(axes: tuple[str, ...]) -> None:
    rows = []
    controller = SurrogateController(Problem(DOMAIN, Pareto(13.0, axes)))
    for number in range(FIRST + LEVELS):
        rows.append(DOMAIN.encode(controller.ask(number)))
        controller.tell(ended_trial(DOMAIN.decode(rows[-1]), Metrics(0.5 + 0.01 * number, 1.0, 1, 1), (0.5, 1.0)))
    costs = facts(np.array(rows)).latency_ms
    assert costs.min() < 7
    assert costs.max() > 10


def test_a_space_without_a_choice_has_one_candidate() -> None:
    def one(rows: Indices) -> CandidateCosts:
        return CandidateCosts(np.zeros(len(rows)), np.ones(len(rows)), np.zeros((len(rows), 0)))

    controller = SurrogateController(Problem(EncodedSpace({}, one), Constrained(1.0)))
    assert controller.ask(1) == {}
    controller.tell(ended_trial({}, Metrics(0.5, 1.0, 1, 1), (0.5,)))
    assert controller.ask(2) == {}


def test_a_search_that_goes_on_has_the_kernels_of_one_that_was_not_cut() -> None:
    objective = Constrained(13.0)
    whole = SurrogateController(Problem(DOMAIN, objective))
    history: list[Trial] = []
    for number in range(64):
        choices = whole.ask(derive_seed(3, number))
        if number in (45, 52, 61, 63):
            again = SurrogateController(Problem(DOMAIN, objective))
            for ended in history:
                again.tell(ended)
            assert again.ask(derive_seed(3, number)) == choices
        ended = told(objective, DOMAIN.encode(choices))
        final = ended.curve[-1]
        if number % 3:  # two of three are stopped, by what will be known of the gains only later
            ended = ended_trial(choices, Metrics(final / 2, 1.0, 1, 1), (final / 2,), True, (final / 2,))
        else:
            ended = ended_trial(choices, ended.metrics, ended.values, False, (final / (2 + number / 64), final))
        history.append(ended)
        whole.tell(ended)


def test_the_kernel_is_fitted_ever_more_seldom() -> None:
    due = sorted({last_fit(count) for count in range(1, 10_001)})
    assert due[:40] == list(range(1, 41))
    assert [count for count in due if 400 <= count < 500] == [400, 420, 441, 463, 486]
    assert len([count for count in due if count > 1000]) < 60
    assert all(count - last_fit(count) <= count // 20 for count in range(40, 10_001))


def test_the_same_layers_added_up_in_another_order_hold_the_same_limit() -> None:
    target_ms = 0.1 + 0.2 + 0.3
    assert target_ms != 0.3 + 0.2 + 0.1
    objective = Constrained(0.3 + 0.2 + 0.1)
    assert objective.admits(target_ms)
    assert objective.score(Metrics(0.5, target_ms, 1, 1)) == 0.5
    assert not objective.admits(1.001 * target_ms)


def test_what_a_rung_stopped_counts_as_what_it_would_have_become() -> None:
    def ended(*curve: float, stopped: bool = False) -> Trial:
        return ended_trial({}, Metrics(curve[-1], 1.0, 1, 1), (curve[-1],), stopped, curve)

    curves = [ended(0.3, 0.5, 0.6), ended(0.4, 0.5, 0.8), ended(0.2, stopped=True), ended(0.3, 0.4, stopped=True)]
    assert full_accuracies(curves) == pytest.approx([0.6, 0.8, 0.2 + 0.35, 0.4 + 0.2])
    assert full_accuracies(curves[2:]) == pytest.approx([0.2, 0.4])


def test_a_small_domain_is_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    small = EncodedSpace(dict(list(CHOICES.items())[:3]), facts)
    assert CandidatePool(small).is_whole
    assert not CandidatePool(DOMAIN).is_whole
    assert len(CandidatePool(small).admitted(CostLimit())) == 64
    monkeypatch.setattr(pool, "SMALL", 10)
    assert not CandidatePool(small).is_whole
    assert len(CandidatePool(small).admitted(CostLimit())) == 64


def test_points_are_one_hot_columns_and_numbers_of_spread_one() -> None:
    candidates = CandidatePool(DOMAIN)
    columns, found = candidates.columns, candidates.admitted(CostLimit())
    assert found.points.shape == (len(found), len(columns.group)) == (len(found), 8 * 5 + 2)
    assert (found.points[:, :40] > 0).sum(axis=1).tolist() == [8] * len(found)
    assert np.allclose(found.points[:, 40:].std(axis=0), 1.0, atol=0.05)
    assert columns.weight[:8].sum() == pytest.approx(1.0)
