"""`alternate` in a stage: its layers take the values in turn, and it holds no choice."""

from __future__ import annotations

from typing import Any

import pytest

from nas.errors import SpaceError
from nas.spaces.automaton import reachable
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_architecture, parse_space

STAGE = {"block": "squeezenext", "out_channels": 16}
CYCLE = {"order": ["vertical", "horizontal"]}


def space(stage: dict[str, Any], **changes: Any) -> Space:
    data = {"resolution": 16, "stages": [stage], "head": {"block": "classifier"}, **changes}
    return parse_space("x", data, "x.yaml")


def orders(stages: Any) -> list[object]:
    return [spec.kwargs.get("order", "vertical") for stage in stages for spec in stage]


def test_the_layers_take_the_values_in_turn() -> None:
    arch = space({**STAGE, "depth": 5, "alternate": {"order": ["vertical", "horizontal", "horizontal"]}}).decode({})
    assert orders(arch.stages) == ["vertical", "horizontal", "horizontal", "vertical", "horizontal"]


def test_it_is_no_choice_and_goes_with_choices() -> None:
    found = space({**STAGE, "depth": [1, 2, 3], "bias": [False, True], "alternate": CYCLE})
    assert set(found.choices) == {"stage0.depth", "stage0.bias"}
    assert found.size == 6
    arch = found.decode({"stage0.depth": 3, "stage0.bias": True})
    assert orders(arch.stages) == ["vertical", "horizontal", "vertical"]
    assert {layer.spec.kwargs.get("order") for layer in reachable(found)} == {None, "horizontal"}


def test_it_may_give_a_required_keyword() -> None:
    arch = space({"block": "conv", "depth": 2, "alternate": {"out_channels": [8, 16]}}).decode({})
    assert [spec.kwargs["out_channels"] for spec in arch.blocks()] == [8, 16]


def test_squeezenext_alternates_through_its_stages() -> None:
    stages = [stage for stage in load_architecture("squeezenext_2.0_23").stages if stage[0].op == "squeezenext"]
    assert orders(stages) == ["vertical", "horizontal"] * 10 + ["vertical"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alternate": ["order"]}, "stage 0: alternate: must be a mapping"),
        ({"alternate": None}, "stage 0: alternate: must be a mapping"),
        (
            {"alternate": {"oder": ["vertical", "horizontal"]}},
            "alternate: block 'squeezenext' has no keyword 'oder'",
        ),
        (
            {"alternate": {"order": "vertical"}},
            "alternate: order: must be a list of at least two values: 'vertical'",
        ),
        ({"alternate": {"order": ["vertical"]}}, "order: must be a list of at least two values: ['vertical']"),
        ({"alternate": {"order": ["vertical", "up"]}}, "order: must be one of vertical, horizontal: 'up'"),
        ({"alternate": {"order": [["vertical", "horizontal"], "vertical"]}}, "order: must not hold a choice"),
        ({"alternate": {"order": ["vertical", {}]}}, "must be a number, a word or true/false: {}"),
        ({"alternate": {"stride": [1, 2]}}, "alternate: 'stride' applies to the first layer only"),
        ({"alternate": CYCLE, "order": "vertical"}, "alternate: 'order' is already a keyword of the stage"),
        ({"alternate": CYCLE, "per_layer": "order"}, "per_layer: unknown key 'order'"),
        (
            {"alternate": CYCLE, "block": ["squeezenext", "conv"]},
            "alternate: block 'conv' has no keyword 'order'",
        ),
        (
            {"alternate": CYCLE, "block": [{"op": "squeezenext", "order": "vertical"}]},
            "already a keyword of the stage",
        ),
    ],
)
def test_a_wrong_alternation_is_named_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space({**STAGE, **given})
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml, stage 0")


def test_a_head_has_no_layers_to_alternate() -> None:
    with pytest.raises(SpaceError, match=r"x\.yaml, head: alternate: is allowed in a stage only"):
        space(STAGE, head={"block": "classifier", "alternate": {"bias": [True, False]}})
