from __future__ import annotations

import random

import pytest

from nas.architecture import Architecture
from nas.controllers.base import Problem
from nas.controllers.random import RandomController
from nas.networks.network import canonical, totals, trace
from nas.searching.loop import derive_seed
from nas.searching.warm_start import WarmStart, best_of_random
from nas.spaces.encoded_space import encode_space
from nas.spaces.search_space import Choices, Space
from nas.spaces.yaml_format import parse_space
from nas.study.objectives import make_objective
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter
from tests.helpers.trials import ended_trial

DATA = {
    "resolution": 32,
    "stages": [{"block": "conv", "out_channels": list(range(8, 40, 2)), "kernel_size": [3, 5], "stride": 2}],
    "head": {"block": "classifier", "num_classes": 10},
    "proxy": {"resolution": 8},
}
SPACE: Space = parse_space("small", DATA, "small.yaml")
PROBLEM = Problem(encode_space(SPACE, lambda layer: 1.0), make_objective("soft", 1.0))
POOL = [SPACE.sample(random.Random(seed)) for seed in (3, 5, 8)]


def digest(choices: Choices) -> str:
    return canonical(SPACE.decode(choices)).digest


def warm(tried: set[str], pool: list[Choices] | None = None) -> WarmStart:
    given: dict[str, Choices] = {digest(choices): choices for choices in (POOL if pool is None else pool)}
    return WarmStart(RandomController(PROBLEM), given, lambda: tried)


def params(choices: Choices) -> int:
    return totals(trace(SPACE.decode(choices))).params


def test_the_pool_comes_first_and_then_the_controller() -> None:
    tried: set[str] = set()
    controller, asked = warm(tried), []
    for number in range(5):
        choices = controller.ask(derive_seed(0, number))
        asked.append(choices)
        tried.add(digest(choices))
        controller.tell(ended_trial(choices))
    assert sorted(asked[:3], key=str) == sorted(POOL, key=str)
    assert asked[3] == RandomController(PROBLEM).ask(derive_seed(0, 3))


def test_replay_equals_tell() -> None:
    tried: set[str] = set()
    one = warm(tried)
    told: list[Choices] = []
    for number in range(6):
        choices = one.ask(derive_seed(1, number))
        other = warm(tried)
        for earlier in told:
            other.tell(ended_trial(earlier))
        assert other.ask(derive_seed(1, number)) == choices
        one.tell(ended_trial(choices))
        told.append(choices)
        tried.add(digest(choices))


def test_a_member_that_failed_is_not_asked_for_again() -> None:
    tried = {digest(POOL[1])}  # and never told
    controller = warm(tried)
    assert all(digest(controller.ask(seed)) not in tried for seed in range(20))
    tried |= set(map(digest, POOL))
    assert controller.ask(4) == RandomController(PROBLEM).ask(4)


def test_an_empty_pool_starts_cold() -> None:
    assert warm(set(), []).ask(4) == RandomController(PROBLEM).ask(4)


def test_the_best_feasible_of_the_samples_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    task = Classification.load("digits")
    limit = sorted(params(SPACE.sample(random.Random(seed))) for seed in range(50))[25]

    def is_feasible(arch: Architecture) -> bool:
        return totals(trace(arch)).params <= limit

    def best(keep: int, samples: int = 40) -> list[int]:
        found = best_of_random("params", SPACE, task, is_feasible, samples, keep, 0, Reporter(quiet=True))
        assert [digest(choices) for choices in found.values()] == list(found)
        return [params(choices) for choices in found.values()]

    sizes = best(keep=100)
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= limit
    assert best(keep=3) == sizes[:3]
    assert len(best(keep=3, samples=2)) == 2
    assert not best_of_random("params", SPACE, task, lambda arch: False, 4, 2, 0, Reporter())
    assert "--warm-start: no random candidate within the target has a score 'params'" in capsys.readouterr().err
