"""The conformance suite of controllers."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from nas.controllers import CONTROLLERS
from nas.search import derive_seed
from nas.space import Space
from nas.space_file import load_space

SPACE: Space = load_space("mobile")


def value(choices: Mapping[str, object]) -> float:
    return sum(hash((key, str(choices[key]))) % 97 for key in sorted(choices)) / 1e4


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")], ids=len)
@pytest.mark.parametrize("name", CONTROLLERS)
def test_asks_stay_inside_and_replay_equals_tell(name: str, directions: tuple[str, ...]) -> None:
    one = CONTROLLERS[name](SPACE, directions)
    told, asked = [], []
    for number in range(14):
        choices = one.ask(derive_seed(7, number))
        assert SPACE.active(choices) == choices
        values = tuple(value(choices) for _ in directions)
        one.tell(choices, values)
        told.append((choices, values))
        asked.append(choices)
    other = CONTROLLERS[name](SPACE, directions)
    for number, (choices, values) in enumerate(told):
        if number >= 10:
            assert other.ask(derive_seed(7, number)) == asked[number]
        other.tell(choices, values)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_an_ask_depends_on_its_seed_alone(name: str) -> None:
    controller = CONTROLLERS[name](SPACE, ("maximize",))
    first = controller.ask(1)
    random.seed(99)
    controller.ask(2)
    assert controller.ask(1) == first
    assert any(controller.ask(seed) != first for seed in range(3, 8))
