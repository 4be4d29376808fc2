from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import SpaceError
from nas.spaces.automaton import reachable
from nas.spaces.yaml_files import read_yaml
from nas.spaces.yaml_format import load_space, parse_space

GOOD: dict[str, Any] = {
    "resolution": 32,
    "stages": [{"block": "conv", "out_channels": 8, "stride": 2}, {"block": "mbconv", "out_channels": [8, 16]}],
    "head": {"block": "classifier"},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **changes}


STAGE = {"block": "mbconv", "out_channels": 8}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed(stages=[{**STAGE, "block": "mbcov"}]),
            "x.yaml, stage 0: unknown block 'mbcov'; did you mean 'mbconv'",
        ),
        (
            changed(stages=[{**STAGE, "kernal_size": 3}]),
            "stage 0: block 'mbconv' has no keyword 'kernal_size'; did you",
        ),
        (changed(stages=[{**STAGE, "dept": 3}]), "no keyword 'dept'; did you mean 'depth'"),
        (changed(stages=[{**STAGE, "kernel_size": []}]), "kernel_size: a choice needs at least one value"),
        (changed(stages=[{**STAGE, "block": []}]), "block: a choice needs at least one value"),
        (changed(stages=[{**STAGE, "kernel_size": [3, 3]}]), "must not offer a value twice"),
        (changed(stages=[{**STAGE, "kernel_size": "3"}]), "kernel_size: must be of type int: '3'"),
        (changed(stages=[{**STAGE, "kernel_size": {"a": 1}}]), "must be a number, a word or true/false"),
        (changed(stages=[{**STAGE, "depth": -1}]), "depth: must be a whole number of at least 0: -1"),
        (
            changed(stages=[{**STAGE, "depth": [0, 1], "stride": 2}]),
            "depth: must not be 0 in a stage with stride 2",
        ),
        (changed(stages=[{"block": "mbconv"}]), "block 'mbconv' needs the keyword 'out_channels'"),
        (changed(stages=[{"out_channels": 8}]), "the key 'block' is missing"),
        (changed(stages=[{"block": "classifier"}]), "'classifier' is a head"),
        (changed(head={"block": "conv", "out_channels": 8}), "'conv' belongs in a stage"),
        (changed(stages=[{**STAGE, "per_layer": ["kernel"]}]), "per_layer: unknown key 'kernel'"),
        (changed(stages=[]), "stages: must be a list with at least one stage: []"),
        (changed(stages=7), "stages: must be a list"),
        (changed(resolution=0), "resolution: must be a whole number of at least 1: 0"),
        (changed(resolutoin=3), "unknown key 'resolutoin'; did you mean 'resolution'"),
        (changed(proxy={"epoch": 3}), "proxy: unknown key 'epoch'; did you mean 'epochs'"),
        ({"stages": GOOD["stages"], "head": GOOD["head"]}, "the key 'resolution' is missing"),
        ([1, 2], "must be a mapping"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space("x", data, "x.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.yaml")
    assert "\n" not in str(caught.value)


def test_a_stride_that_leaves_no_pixels_names_the_stage() -> None:
    stages = [{**STAGE, "stride": 2, "depth": 1} for _ in range(6)]
    space = parse_space("x", changed(stages=stages), "x.yaml")
    with pytest.raises(SpaceError, match="x, stage 5, layer 0: a stride of 2 leaves no pixels of 1x1"):
        reachable(space)


def test_an_even_kernel_names_the_stage() -> None:
    space = parse_space("x", changed(stages=[{**STAGE, "kernel_size": [3, 4]}]), "x.yaml")
    with pytest.raises(SpaceError, match=r"x, stage 0, layer 0: mbconv: kernel_size must be odd and at least 1: 4"):
        reachable(space)


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(SpaceError, match="unknown search space 'mnasnot'; did you mean 'mnasnet'"):
        load_space("mnasnot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1"),
        ("a: 1\na: 2", "the key 'a' appears twice"),
        ("!!python/object/apply:os.system [ls]", "could not"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError, match=message):
        read_yaml(path)
    with pytest.raises(SpaceError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["resolution", "stages", "head", "proxy"]), json_values)
def test_any_value_parses_or_is_a_space_error(key: str, value: Any) -> None:
    try:
        space = parse_space("x", changed(**{key: value}), "x.yaml")
    except SpaceError as error:
        assert str(error).startswith("x.yaml")
    else:
        assert space.size >= 1


@given(st.sampled_from(["block", "depth", "out_channels", "stride", "skip", "per_layer"]), json_values)
def test_any_stage_parses_or_is_a_space_error(key: str, value: Any) -> None:
    try:
        parse_space("x", changed(stages=[{**STAGE, key: value}]), "x.yaml")
    except SpaceError as error:
        assert str(error).startswith("x.yaml, stage 0")
