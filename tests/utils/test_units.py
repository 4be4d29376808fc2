from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.utils.units import (
    format_count,
    format_duration,
    format_latency,
    parse_duration,
    parse_latency,
    parse_resolutions,
)


@pytest.mark.parametrize(
    ("text", "ms"), [("20ms", 20.0), ("0.02s", 20.0), ("800us", 0.8), (" 1.5 ms ", 1.5), ("2e1ms", 20.0)]
)
def test_latency_with_a_unit(text: str, ms: float) -> None:
    assert parse_latency(text) == pytest.approx(ms)


def test_a_bare_number_is_refused_with_the_two_spellings() -> None:
    with pytest.raises(UsageError, match="write '20ms' or '20s'") as caught:
        parse_latency("20")
    assert (caught.value.key, caught.value.value) == ("target_latency", "20")


@pytest.mark.parametrize("text", ["-5ms", "0ms", "-3", "0", "+0", "+3", "", "fast", "20 ms ms", "nanms", "1e999s"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--target-latency"):
        parse_latency(text)


@given(st.floats(1e-3, 1e6))
def test_a_written_latency_is_read_back(ms: float) -> None:
    assert parse_latency(f"{ms!r}ms") == pytest.approx(ms)
    assert parse_latency(format_latency(ms)) == pytest.approx(ms, rel=6e-3)


@given(st.text())
def test_any_text_is_a_latency_or_a_usage_error(text: str) -> None:
    try:
        assert parse_latency(text) > 0
    except UsageError as error:
        assert "--target-latency" in str(error)


def test_counts_as_people_read_them() -> None:
    assert [format_count(n) for n in (999, 3504872, 300774272, 2.5e9)] == ["999", "3.50 M", "300.77 M", "2.50 G"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (40, "40 s"),
        (90, "90 s"),
        (119.6, "2 min"),
        (720, "12 min"),
        (5000, "83 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_spelled_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30min", 1800.0), ("1.5h", 5400.0), (" 2 min ", 120.0), ("1e2s", 100.0),
     ("1h30min", 5400.0), ("1h 30m", 5400.0), ("2 hours", 7200.0), ("30minutes", 1800.0), ("1 day", 86400.0)],
)  # fmt: skip
def test_a_duration_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text, "x") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", "", "0s", "-3min", "5ms", "2 weeks", "minutes", "1h30", "nans", "1e999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--x: must be a duration above zero with its unit, as '90s', '30min' or '2h'"):
        parse_duration(text, "x")


@pytest.mark.parametrize(
    ("text", "sizes"), [("auto", ()), ("96", (96,)), ("160,96, 128", (96, 128, 160)), ("1", (1,)), ("4096", (4096,))]
)
def test_resolutions_in_pixels(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_resolutions(text) == sizes


@pytest.mark.parametrize(
    "text", ["", "0", "-96", "96px", "96,", "9.5", "4097", "96;128", "auto,96", "96, ,128", "\u0669"]
)
def test_what_is_no_resolution_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match="--resolution: must be auto, or whole numbers of pixels from 1 to 4096"
    ) as error:
        parse_resolutions(text)
    assert error.value.value == text
    with pytest.raises(UsageError, match="--x: lists 96 twice: '96,128,96'"):
        parse_resolutions("96,128,96", "x")
