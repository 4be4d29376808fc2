"""Quantities as people write them. Latencies are in milliseconds inside, durations of work in seconds."""

from __future__ import annotations

import re

from nas.errors import UsageError

_MS_PER_UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(us|ms|s)\s*")
_S_PER_UNIT = {"s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(s|min|h)\s*")
_BARE_NUMBER = re.compile(r"\s*[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?\s*")


def parse_latency(text: str, where: str = "--target-latency") -> float:
    """Return the latency in ms that `text` ("20ms", "0.02s", "800us") spells.

    Raises UsageError when the unit is missing, the value is not above zero or the text is something else.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        if _BARE_NUMBER.fullmatch(text):
            value = text.strip()
            if float(value) <= 0:
                raise UsageError(f"{where}: a latency must be above zero: {value!r}")
            raise UsageError(f"{where}: a latency needs a unit: write '{value}ms' or '{value}s', not '{value}'")
        if text.lstrip().startswith("-"):
            raise UsageError(f"{where}: a latency must be above zero: {text.strip()!r}")
        raise UsageError(f"{where}: not a latency: {text!r}; write it as '20ms' or '0.02s'")
    latency_ms = float(match[1]) * _MS_PER_UNIT[match[2]]
    if not 0 < latency_ms < float("inf"):
        raise UsageError(f"{where}: a latency must be above zero and finite: {text!r}")
    return latency_ms


def format_latency(latency_ms: float) -> str:
    """Return the shortest text of a latency in ms, with its unit."""
    return f"{latency_ms:.3g} ms" if latency_ms < 1000 else f"{latency_ms / 1000:.3g} s"


def format_count(count: float) -> str:
    """Return a count as people read it: 3504872 -> '3.50 M'."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:.0f}"


def parse_duration(text: str, where: str) -> float:
    """Return the seconds that `text` ("90s", "30min", "1.5h") spells; `where` is the flag.

    Raises UsageError when the unit is missing, the value is not above zero or the text is something else.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _S_PER_UNIT[match[2]] if match else 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{where}: must be a duration above zero with its unit, as '90s', '30min' or '2h': {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a time as people say it: 40 -> '40 s', 720 -> '12 min', 9000 -> '2 h 30 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
