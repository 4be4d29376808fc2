"""Plans: levels that double, totals that fit, the shortest budget, and what is recorded."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture import RGB_SQUARE, Architecture, InputFormat
from nas.errors import UsageError
from nas.searching.budget.pilot import Pilot
from nas.searching.budget.plan import (
    COUNTS,
    FEWEST_STEPS,
    LEVELS,
    SEEDS,
    Plan,
    Wishes,
    coarse,
    count_candidates,
    describe_plan,
    least_budget,
    least_epochs,
    make_plan,
    proxy_of,
)
from nas.searching.budget.total_time import DURATIONS_S, default_budget
from nas.searching.budget.trainable import PASSES, SHARE, most_elements, trainable
from nas.searching.budget.training_cost import TrainingCost, elements, measure_training_cost
from nas.spaces.search_space import Space
from nas.spaces.trainings import Proxy
from nas.spaces.yaml_format import load_architecture, load_space
from nas.training.tasks.classification import Classification

SPACE = load_space("cifar").for_classes(10)
ARCHS = [SPACE.decode(SPACE.sample(random.Random(seed))) for seed in range(6)]
COST = TrainingCost(1e-4, 1e-10, images=1600, validation=400, batch_size=32)
WISHES = Wishes(Proxy(32))


def planned(budget_s: float, cost: TrainingCost = COST, wishes: Wishes = WISHES, before_s: float = 20.0) -> Plan:
    return make_plan(budget_s, before_s, ARCHS, cost, wishes, 10)


def evaluation_s(plan: Plan, level: Proxy) -> float:
    return sum(plan.cost.training_s(arch, level) for arch in ARCHS) / len(ARCHS)


@given(st.floats(120, 1e5), st.floats(1e-6, 3e-3), st.integers(40, 200_000))
def test_pilot_candidates_and_finalists_fit_into_their_share(budget_s: float, base_s: float, images: int) -> None:
    cost = TrainingCost(base_s, 0.0, images, max(10, images // 5), 32)
    try:
        plan = planned(budget_s, cost)
    except UsageError:
        return
    assert 1 <= len(plan.levels) <= LEVELS
    seen = [level.epochs * level.images for level in plan.levels]
    assert seen == sorted(seen)
    assert all(level.images <= images for level in plan.levels)
    assert seen[0] >= min(FEWEST_STEPS * 32, images)
    if len(plan.levels) == LEVELS and min(seen) > 4 * images:  # whole epochs round little
        total_s = SEEDS * len(ARCHS) * sum(evaluation_s(plan, level) for level in plan.levels)
        assert total_s < 1.1 * plan.ranking_s
    assert plan.ranking_s + plan.final_s == pytest.approx(plan.left_s)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_levels_double_and_small_sets_get_passes_not_images() -> None:
    plan = planned(3600)
    seen = [level.epochs * level.images for level in plan.levels]
    assert len(seen) == LEVELS
    assert all(1.7 <= more / less <= 2.3 for less, more in pairwise(seen))
    assert proxy_of(1000, 1600, WISHES) == Proxy(32, 1, 1000)
    assert proxy_of(6400, 1600, WISHES) == Proxy(32, 4, 1600)


def test_budgets_of_evaluations_are_coarse() -> None:
    assert [coarse(count) for count in (1, 2, 3, 5, 6, 7, 8, 767, 768, 1023, 1024)] == [
        1, 2, 3, 4, 6, 6, 8, 512, 768, 768, 1024,
    ]  # fmt: skip
    assert planned(3600).levels == planned(3620).levels


def test_what_is_set_by_hand_stays() -> None:
    assert planned(3600, wishes=Wishes(Proxy(32), epochs=3)).levels == (Proxy(32, 3, 768),)
    assert planned(3600, wishes=Wishes(Proxy(32), epochs=3, images=500)).levels == (Proxy(32, 3, 500),)
    by_hand = planned(3600, wishes=Wishes(Proxy(32), trials=17))
    assert count_candidates(by_hand, 10.0, 1.0) == 17


def test_a_budget_that_is_too_short_says_what_is_the_least() -> None:
    least_s = least_budget(20.0, ARCHS, COST, proxy_of(FEWEST_STEPS * 32, COST.images, WISHES))
    assert planned(1.01 * least_s).levels
    with pytest.raises(
        UsageError, match=r"^--budget: is too short: .* need at least .*latency table took 20 s: '30 s'"
    ):
        planned(30.0)


def test_the_final_training_counts_for_the_least_budget() -> None:
    assert [least_epochs(images) for images in (100, 1600, 5000, 10_000, 20_000, 1_000_000)] == [4, 4, 4, 2, 1, 1]
    with pytest.raises(UsageError, match="too short"):
        make_plan(1200.0, 0.0, ARCHS, COST, WISHES, 10, epoch_s=200.0)
    plan = make_plan(1600.0, 0.0, ARCHS, COST, WISHES, 10, epoch_s=200.0)
    assert plan.final_s >= 4 * 200.0
    assert ", about 4 epochs, " in describe_plan(plan, ARCHS, ["the winner"])[-1]


def test_more_time_gives_more_candidates_in_coarse_steps() -> None:
    counts = [count_candidates(planned(minutes * 60), 0.0, 5.0) for minutes in range(5, 120, 5)]
    assert counts == sorted(counts)
    assert set(counts) <= {*COUNTS}
    plan = planned(1200)
    assert count_candidates(plan, 1e6, 5.0) == 10, "the fewest: those of the pilot and four more"
    assert count_candidates(plan, 0.0, 5.0) == count_candidates(plan, 0.0, 5.05)


def test_candidates_that_say_little_get_little_time() -> None:
    plan = planned(1200)
    counts = [count_candidates(plan, 0.0, 5.0, trust) for trust in (0.0, 0.1, 0.5, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] == 10
    assert counts[-1] == count_candidates(plan, 0.0, 5.0) > counts[0]


@pytest.mark.parametrize(
    ("certificate", "trust"),
    [
        ({}, 1.0),
        ({"reliability": None, "saturated": False, "wanted": 0.7}, 1.0),
        ({"reliability": 0.9, "saturated": False, "wanted": 0.7}, 1.0),
        ({"reliability": 0.1, "saturated": True, "wanted": 0.7}, 1.0),
        ({"reliability": 0.35, "saturated": False, "wanted": 0.7}, 0.5),
        ({"reliability": 0.35, "saturated": False, "wanted": 0.0}, 1.0),
    ],
)
def test_a_pilot_is_trusted_as_far_as_it_is_reliable(certificate: dict[str, Any], trust: float) -> None:
    assert Pilot(Proxy(32), certificate, 1.0, {}).trust == pytest.approx(trust)


def test_the_plan_is_told_in_lines_of_its_parts() -> None:
    plan = planned(1200)
    lines = describe_plan(plan, ARCHS, ["the winner", "mobilenet_v2_1.0"])
    assert lines[0].startswith("plan for 20 min; this machine trains ")
    assert [line.split()[0] for line in lines[1:]] == ["table", "pilot", "candidates", "finalists", "training"]
    assert "the winner and mobilenet_v2_1.0" in lines[-1]


@pytest.mark.parametrize(
    ("images", "resolution", "minutes"),
    [(1150, 64, 10), (1600, 64, 10), (1650, 96, 20), (45_000, 64, 120), (10, 32, 10)],
)
def test_the_default_budget_follows_the_images_and_their_size(images: int, resolution: int, minutes: int) -> None:
    assert default_budget(images, resolution) == 60 * minutes
    assert default_budget(images, resolution) in DURATIONS_S


def test_the_cost_of_trainings_is_measured_on_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.searching.budget.training_cost.MEASURE_S", 0.0)
    space: Space = load_space("cifar").for_classes(10)
    small, large = (
        load_architecture("mobilenet_v1_0.25").for_classes(10),
        load_architecture("mobilenet_v1_1.0").for_classes(10),
    )
    cost = measure_training_cost([small, large], Proxy(32), Classification.load("digits"))
    assert cost.base_s >= 0
    assert cost.per_element_s >= 0
    assert cost.base_s + cost.per_element_s > 0
    assert (cost.images, cost.validation) == (1149, 288)
    arch = space.decode(space.sample(random.Random(0)))
    once, twice = (cost.training_s(arch, Proxy(32, epochs, 0)) for epochs in (1, 2))
    assert twice == pytest.approx(2 * once)


def test_no_larger_network_is_timed_after_one_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mobilenet_v1_0.25", "mobilenet_v1_1.0", "efficientnet_b7")
    archs = [load_architecture(name).at(32).for_classes(10) for name in names]
    timed = list[str]()

    def time_training(arch: Architecture, task: Classification) -> float:
        timed.append(arch.digest)
        return 0.1 * len(timed)

    monkeypatch.setattr("nas.searching.budget.training_cost.time_training", time_training)
    measure_training_cost(archs, Proxy(32), Classification.load("digits"), longest_s=0.15)
    assert timed == [arch.digest for arch in archs[:2]]


def test_a_reference_must_be_trainable_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mobilenet_v1_0.25", "mobilenet_v2_1.0", "efficientnet_b7")
    archs = [load_architecture(name).at(64).for_classes(10) for name in names]
    sizes = [elements(arch) for arch in archs]
    cost = TrainingCost(1e-4, 1e-10, images=1600, validation=400, batch_size=32)
    monkeypatch.setattr("nas.searching.budget.trainable.measure_training_cost", lambda *_: cost)

    def able(budget_s: float | None) -> list[bool]:
        task = SimpleNamespace(data=SimpleNamespace(train=[None] * 1600))
        space = SimpleNamespace(resolution=(64,), input=RGB_SQUARE)
        context = SimpleNamespace(budget_s=budget_s, task=task, space=space)
        return trainable(cast(Any, context), archs)

    enough_s = PASSES * 1600 * (1e-4 + 1e-10 * sizes[1]) / SHARE
    assert able(None) == able(600.0), "the default budget for 1,600 images"
    assert able(1.01 * enough_s) == [True, True, False]
    assert able(0.99 * enough_s) == [True, False, False]
    assert able(1.0) == [True, False, False], "the smallest counts if none can be trained"
    assert able(1e9) == [True, True, True]
    assert most_elements(TrainingCost(1e-4, 0.0, 1600, 400, 32), 100.0) == float("inf")


def test_the_default_budget_counts_the_pixels_of_a_rectangle() -> None:
    wide = InputFormat(aspect=Fraction(4))
    assert wide.side(64) == 128.0
    assert default_budget(1150, wide.side(64)) == default_budget(1150, 128.0) > default_budget(1150, 64.0)
