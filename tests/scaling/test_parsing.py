"""What the flags of a family spell, and what they may not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture import Architecture, BlockSpec
from nas.errors import UsageError
from nas.scaling.parsing import (
    DEFAULT_PRESET,
    MAX_PHIS,
    check_dimensions,
    find_preset,
    make_rounding,
    parse_coefficients,
    parse_latencies,
    parse_phis,
    parse_points,
)
from nas.scaling.presets import PRESETS, Coefficients
from nas.scaling.sizes import Rounding
from nas.spaces.yaml_format import load_architecture

STEM = BlockSpec.of("conv", {"out_channels": 16, "stride": 2})
SHALLOW = Architecture(32, ((STEM,),), BlockSpec.of("classifier", {}))
WORDS = st.one_of(st.text(max_size=30), st.text(alphabet="0123456789.,-+e nainf", max_size=16))


@pytest.mark.parametrize(
    ("text", "values"),
    [("1.2,1.1,1.15", (1.2, 1.1, 1.15)), (" 1, 1 ,2e0", (1, 1, 2)), ("1,1,1.0001", (1, 1, 1.0001))],
)
def test_coefficients(text: str, values: tuple[float, ...]) -> None:
    assert parse_coefficients(text) == Coefficients(*values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.2,1.1", "--coefficients: .*three numbers.*: '1.2,1.1'"),
        ("1.2,1.1,1.15,1,1", "--coefficients: .*three numbers.*: '1.2,1.1,1.15,1,1'"),
        ("0.9,1.1,1.15", "--coefficients: alpha must be at least 1: 0.9"),
        ("1.2,-1,1.15", "--coefficients: beta must be at least 1: -1"),
        ("1.2,1.1,0", "--coefficients: gamma must be at least 1: 0"),
        ("1,1,1", "--coefficients: .* above 1: '1,1,1'"),
        ("1.2,1.1,x", "--coefficients: not a number: 'x'"),
        ("1.2,,1.15", "--coefficients: not a number: ''"),
        ("", "--coefficients: not a number: ''"),
        ("nan,1,1", "--coefficients: must be finite: 'nan'"),
        ("1,inf,1", "--coefficients: must be finite: 'inf'"),
    ],
)
def test_coefficients_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_coefficients(text)


@pytest.mark.parametrize(
    ("text", "phis"),
    [
        ("0..3", [0, 1, 2, 3]), ("3..3", [3]), ("0.5..3", [0.5, 1.5, 2.5]), ("-1..1", [-1, 0, 1]), ("2", [2]),
        ("0,1,2.5", [0, 1, 2.5]), ("2,1", [2, 1]), ("1e0..2e0", [1, 2]), (" 0 .. 1 ", [0, 1]),
    ],
)  # fmt: skip
def test_phis(text: str, phis: list[float]) -> None:
    assert parse_phis(text) == phis


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3..0", "--phi: .* above the last: '3..0'"),
        ("0..1..2", "--phi: must be 'first..last'"),
        ("..3", "--phi: not a number: ''"),
        ("0..", "--phi: not a number: ''"),
        ("0...3", "--phi: "),
        ("0..1e9", f"--phi: must be at most {MAX_PHIS} phis"),
        ("0..inf", "--phi: must be finite: 'inf'"),
        ("nan..1", "--phi: must be finite"),
        ("1,1", "--phi: .*distinct: '1,1'"),
        ("0,0.0", "--phi: .*distinct: '0,0.0'"),
        ("one", "--phi: not a number: 'one'"),
        ("", "--phi: not a number: ''"),
    ],
)
def test_phis_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_phis(text)


@given(WORDS.map(lambda text: text.replace("-", "..")) | WORDS)
def test_whatever_text_gives_phis_or_one_line(text: str) -> None:
    try:
        found = parse_phis(text)
    except UsageError as error:
        assert str(error).startswith("--phi: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert 0 < len(found) <= MAX_PHIS
        assert all(math.isfinite(phi) for phi in found)
        assert len(set(found)) == len(found)


@given(WORDS)
def test_whatever_text_gives_coefficients_or_one_line(text: str) -> None:
    try:
        found = parse_coefficients(text)
    except UsageError as error:
        assert str(error).startswith("--coefficients: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert min(found.alpha, found.beta, found.gamma) >= 1


@given(WORDS | st.lists(st.floats(0.1, 9).map(lambda ms: f"{ms}ms")).map(",".join))
def test_whatever_text_gives_latencies_or_one_line(text: str) -> None:
    try:
        found = parse_latencies(text)
    except UsageError as error:
        assert str(error).startswith("--latency: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert all(0 < ms < math.inf for ms in found)


@given(WORDS, st.sampled_from(["depth", "width", "resolution"]))
def test_whatever_text_gives_points_or_one_line(text: str, key: str) -> None:
    try:
        found = parse_points({key: text}, SHALLOW)
    except UsageError as error:
        assert str(error).startswith(f"--{key}: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert all(min(point.depth, point.width, point.resolution) > 0 for point in found)


@pytest.mark.parametrize(("text", "found"), [("5ms,10ms", [5, 10]), ("800us", [0.8]), ("0.02s, 5 ms", [20, 5])])
def test_latencies(text: str, found: list[float]) -> None:
    assert parse_latencies(text) == pytest.approx(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [("5", "--latency: .*write '5ms' or '5s'"), ("5ms,,6ms", "--latency: "),
     ("5ms,5ms", "--latency: .*distinct: '5ms,5ms'"),
     ("-5ms", "--latency: "), ("0ms", "--latency: "), ("", "--latency: "), ("nanms", "--latency: ")],
)  # fmt: skip
def test_latencies_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_latencies(text)


def test_points_by_hand_are_every_combination() -> None:
    found = parse_points({"depth": "1,2", "width": "0.5", "resolution": "24,48"}, SHALLOW)
    assert [(point.depth, point.width, point.resolution) for point in found] == [
        (1, 0.5, 24), (1, 0.5, 48), (2, 0.5, 24), (2, 0.5, 48)
    ]  # fmt: skip
    assert [point.name for point in parse_points({"width": "1.5"}, SHALLOW)] == ["d1 w1.5 32 px"]
    assert [point.resolution for point in parse_points({"depth": "2", "resolution": None}, SHALLOW)] == [32]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": "0"}, "--depth: must be a factor above zero: 0"),
        ({"width": "1,-1"}, "--width: must be a factor above zero: -1"),
        ({"width": "wide"}, "--width: not a number: 'wide'"),
        ({"width": "nan"}, "--width: must be finite: 'nan'"),
        ({"resolution": "224.5"}, "--resolution: .*whole number of pixels above zero: 224.5"),
        ({"resolution": "0"}, "--resolution: .*pixels above zero: 0"),
        ({"resolution": "-32"}, "--resolution: .*pixels above zero: -32"),
        ({"width": "1,1"}, "--width: .*distinct: '1,1'"),
        ({"resolution": "32,32.0"}, "--resolution: .*distinct: '32,32.0'"),
    ],
)
def test_points_that_cannot_be(given: dict[str, str | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_points(given, SHALLOW)


@pytest.mark.parametrize(
    ("resolution", "given", "rounding"),
    [
        (224, {}, Rounding(8, "ceil", 4, "scaled")),
        (32, {}, Rounding(8, "ceil", 1, "scaled")),
        (224, {"divisor": 4, "repeats": "round", "step": 16, "head": "fixed"}, Rounding(4, "round", 16, "fixed")),
        (224, {"head": "never-narrower"}, Rounding(8, "ceil", 4, "never narrower")),
    ],
)
def test_rounding(resolution: int, given: dict[str, Any], rounding: Rounding) -> None:
    flags = {"divisor": None, "repeats": None, "step": None, "head": None, **given}
    assert make_rounding(DEFAULT_PRESET, SHALLOW.at(resolution), **flags) == rounding


def test_a_presets_rounding_is_kept_where_no_flag_says_otherwise() -> None:
    assert make_rounding(PRESETS["dWr"], SHALLOW, None, None, None, None) == Rounding(8, "round", 4)
    assert make_rounding(PRESETS["dWr"], SHALLOW, None, "ceil", None, None) == Rounding(8, "ceil", 4)
    assert make_rounding(PRESETS["mobilenet_v2"], SHALLOW, 1, None, 2, None) == Rounding(1, "ceil", 2, "never narrower")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((0, None, None, None), "--divisor: must be a whole number of at least 1: 0"),
        ((-8, None, None, None), "--divisor: must be a whole number of at least 1: -8"),
        ((None, "ceiling", None, None), "--repeats: unknown.*: 'ceiling'; did you mean 'ceil'"),
        ((None, "", None, None), "--repeats: unknown.*: ''"),
        ((None, None, 0, None), "--resolution-step: must be a whole number of at least 1: 0"),
        (
            (None, None, None, "fix"),
            "--head: unknown.*: 'fix'; did you mean 'fixed'",
        ),
        ((None, None, None, ""), "--head: unknown"),
    ],
)
def test_roundings_that_cannot_be(flags: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_rounding(DEFAULT_PRESET, SHALLOW, *flags)


def test_a_preset_is_found_by_name_or_the_nearest_is_told() -> None:
    assert find_preset("dWr") is PRESETS["dWr"]
    with pytest.raises(UsageError, match=r"--preset.*'efficentnet'.*efficientnet"):
        find_preset("efficentnet")


def test_what_a_network_does_not_have_cannot_be_scaled() -> None:
    with pytest.raises(UsageError, match=r"--preset: this network has no depth to scale: .*; it has width, resolution"):
        check_dimensions(SHALLOW, Coefficients(1.2, 1.1, 1.15), key="preset")
    check_dimensions(SHALLOW, Coefficients(1, 1.1, 1.15), key="preset")
    check_dimensions(load_architecture("mobilenet_v2_0.35"), Coefficients(1.2, 1.1, 1.15), key="preset")
