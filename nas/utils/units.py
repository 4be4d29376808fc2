"""Units: parse and format latencies, durations and counts. The code holds latencies in ms and durations in seconds."""

from __future__ import annotations

import re

from nas.errors import UsageError

AUTO_RESOLUTION = "auto"
LARGEST_RESOLUTION = 4096
_MS_PER_UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_S_PER_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_UNITS = r"(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)"
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*"
_LATENCY = re.compile(rf"{_NUMBER}(us|ms|s)\s*")
_DURATION = re.compile(rf"(?:{_NUMBER}{_DURATION_UNITS}\s*)+")
_DURATION_PART = re.compile(rf"{_NUMBER}{_DURATION_UNITS}")
_BARE_NUMBER = re.compile(_NUMBER)
_SIZE = re.compile(r"\s*\d{1,9}\s*([xX]\s*\d{1,9}\s*)?", re.ASCII)


def parse_latency(text: str, key: str = "target_latency") -> float:
    """Return the latency in ms that `text` ("20ms", "0.02s", "800us") describes.

    Raises:
        UsageError: The text is not a latency, has no unit, or is not above zero. `key` names the setting.
    """
    match = _LATENCY.fullmatch(text)
    if match is None:
        value = text.strip()
        if value.startswith("-") or (_BARE_NUMBER.fullmatch(value) and float(value) <= 0):
            raise UsageError("a latency must be above zero", key=key, value=value)
        if _BARE_NUMBER.fullmatch(value.removeprefix("+")):
            spellings = f"; write '{value}ms' or '{value}s'"
            raise UsageError("a latency needs a unit", key=key, value=value, nearest=spellings)
        raise UsageError("not a latency", key=key, value=text, nearest="; write it as '20ms' or '0.02s'")
    latency_ms = float(match[1]) * _MS_PER_UNIT[match[2]]
    if not 0 < latency_ms < float("inf"):
        raise UsageError("a latency must be above zero and finite", key=key, value=text)
    return latency_ms


def format_latency(latency_ms: float) -> str:
    """Return a latency with its unit: 20 -> '20 ms', 1500 -> '1.5 s'."""
    return f"{latency_ms:.3g} ms" if latency_ms < 1000 else f"{latency_ms / 1000:.3g} s"


def format_count(count: float) -> str:
    """Return a count in thousands, millions or billions: 3504872 -> '3.50 M'."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:.0f}"


def parse_duration(text: str, key: str) -> float:
    """Return the seconds that `text` ("90s", "30min", "1.5h", "1h 30min", "2 hours") describes.

    Raises:
        UsageError: The text is not a duration, has no unit, or is not above zero. `key` names the setting.
    """
    parts = _DURATION_PART.findall(text) if _DURATION.fullmatch(text) else []
    seconds = sum(float(number) * _S_PER_UNIT[unit[0]] for number, unit in parts)
    if not 0 < seconds < float("inf"):
        rule = "must be a duration above zero with its unit, as '90s', '30min' or '2h'"
        raise UsageError(rule, key=key, value=text)
    return seconds


def format_duration(seconds: float) -> str:
    """Return a rounded duration: 4.2 -> '4.2 s', 40 -> '40 s', 720 -> '12 min', 9000 -> '2 h 30 min'."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def parse_resolutions(text: str, key: str = "resolution") -> tuple[int | str, ...]:
    """Return the input sizes in pixels that `text` ("96", "96,128", "192x256") lists, by height; () for "auto".

    A whole number stays one, and height and width are "192x256".

    Raises:
        UsageError: A side is not a whole number from 1 to 4096, or a size is listed twice. `key` names the setting.
    """
    if text.strip() == AUTO_RESOLUTION:
        return ()
    sizes: dict[int | str, int] = {}
    for part in text.split(","):
        sides = [int(side) for side in re.split("[xX]", part)] if _SIZE.fullmatch(part) else [0]
        if not all(1 <= side <= LARGEST_RESOLUTION for side in sides):
            form = "as '96', '96,128,160' or, height and width, '192x256'"
            rule = f"must be auto, or whole numbers of pixels from 1 to {LARGEST_RESOLUTION}, {form}"
            raise UsageError(rule, key=key, value=text)
        size = sides[0] if len(sides) == 1 else f"{sides[0]}x{sides[1]}"
        if size in sizes:
            raise UsageError(f"lists {size} twice", key=key, value=text)
        sizes[size] = sides[0]
    return tuple(sorted(sizes, key=lambda size: sizes[size]))
