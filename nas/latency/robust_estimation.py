"""What visits say of the truth on a machine whose speed changes all the time.

A shared processor may run at 0.8 of its usual time for a tenth of a second and not the next; a median of twelve
visits then falls on one side or the other. All visits of all names together show how the machine's times are
distributed, and how they depend on what its neighbours in time took: each name's latency is the one under which its
own visits are likely in that distribution. Knows names, times and milliseconds only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

REACH = 8
"""How many visits to each side tell the machine's mood at a visit: about 0.15 s where a visit takes 10 ms."""
MOODS = 8
"""In how many moods, from quick to slow, visits are told apart; with less than FOR_EACH_MOOD visits each, fewer."""
FOR_EACH_MOOD = 200
STEP, SPAN, SHIFT = 0.0025, 1.0, 0.2
"""Logarithms of time ratios: the resolution, the range of a distribution, and how far a level may be corrected."""
SMOOTHED = 0.02
OUTLIERS = 2e-5
STEADY = 0.005
"""Where nine in ten visits are within this of their name's median, the medians are as good as it gets."""


def estimate(names: Sequence[Any], at: Sequence[float], ms: Sequence[float]) -> dict[Any, float]:
    """Return each name's latency in ms from visits (whom, when, how long), in any order.

    Latencies are those of the machine's common mood. A time of 0 is taken as it stands.
    """
    if not names:
        return {}
    named, codes = _codes(names)
    order = np.argsort(np.asarray(at, dtype=float), kind="stable")
    codes, times = codes[order], np.asarray(ms, dtype=float)[order]
    medians = _medians(codes, times / mood(codes, times), len(named))
    timed = medians[codes] > 0
    levels = np.log(np.where(medians > 0, medians, 1.0))
    logs = np.log(np.where(timed, times, 1.0))
    if np.quantile(np.abs(logs - levels[codes]), 0.9) > STEADY:
        levels = likely_levels(codes, logs, levels)
    return dict(zip(named, np.where(medians > 0, np.exp(levels), 0.0).tolist(), strict=True))


def linked(sessions: Mapping[Any, Mapping[Any, float]]) -> dict[Any, float]:
    """Return each name's latency in ms from what it took in the sessions that it was in, by session and name.

    A session has a speed of its own, and names that are in several tell it: logarithms are a name's level plus a
    session's, by least squares. Latencies are those of the middle session. Sessions that share no name with the others
    are taken to be as fast as they are.
    """
    taken = [(session, name, ms) for session, found in sessions.items() for name, ms in found.items()]
    if any(ms <= 0 for _, _, ms in taken):  # counted times that are too short to tell
        return {name: ms for _, name, ms in taken}
    (speeds, at), (names, of) = (_codes([entry[part] for entry in taken]) for part in range(2))
    rows, count = np.arange(len(taken)), len(names)
    system = np.zeros((len(taken), count + len(speeds)))
    system[rows, of] = system[rows, count + at] = 1.0
    found = np.linalg.lstsq(system, np.log([ms for _, _, ms in taken]), rcond=None)[0]
    levels = found[:count] + np.median(found[count:])
    # Nine digits: sums in another order, as after a kill, differ in the last ones.
    return {name: float(f"{ms:.9g}") for name, ms in zip(names, np.exp(levels).tolist(), strict=True)}


def mood(codes: Integers, ms: Floats, rounds: int = 4) -> Floats:
    """Return how slow the machine was at each visit, 1 in the middle; arrays of visits in the order of time.

    The running median over the neighbours in time of what each took against its own median, repeated until the
    medians are those of an even mood.
    """
    slow = np.ones(len(ms))
    for _ in range(rounds):
        own = _medians(codes, ms / slow, int(codes.max(initial=0)) + 1)
        ratios = np.divide(ms, own[codes], out=np.ones(len(ms)), where=own[codes] > 0)
        slow = median_filter(ratios, size=2 * REACH + 1, mode="nearest")
        slow /= np.median(slow)
    return slow


def likely_levels(codes: Integers, logs: Floats, levels: Floats, rounds: int = 4) -> Floats:
    """Return, for each code, the level (a logarithm) under which its visits are likely; `levels` is where to start.

    The distribution of logs about their levels is taken from all visits, apart for each mood of the neighbours; the
    mean of each level over its posterior then gives better levels, and these a sharper distribution.
    """
    others = np.ones(2 * REACH + 1, dtype=bool)
    others[REACH] = False
    moods = int(np.clip(len(logs) // FOR_EACH_MOOD, 1, MOODS))
    shifts = np.arange(-SHIFT, SHIFT + STEP, 2 * STEP)
    for _ in range(rounds):
        about = logs - levels[codes]
        levels = levels + np.median(about)
        about -= np.median(about)
        neighbours = median_filter(about, footprint=others, mode="nearest")
        edges = np.quantile(neighbours, np.linspace(0, 1, moods + 1)[1:-1])
        in_mood = np.searchsorted(edges, neighbours)
        likelihood = _log_densities(about, in_mood, moods)
        summed = np.stack([
            np.bincount(codes, weights=likelihood[in_mood, _cell(about - shift)], minlength=len(levels))
            for shift in shifts
        ])  # fmt: skip
        posterior = np.exp(summed - summed.max(axis=0))
        levels = levels + shifts @ posterior / posterior.sum(axis=0)
    return levels


def _log_densities(about: Floats, in_mood: Integers, moods: int) -> Floats:
    cells = _cell(about)
    found = [np.bincount(cells[in_mood == index], minlength=_cells()).astype(float) for index in range(moods)]
    smooth = gaussian_filter1d(np.stack(found), SMOOTHED / STEP, axis=1)
    return np.asarray(np.log(smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1e-300) + OUTLIERS))


def _cell(about: Floats) -> Integers:
    return np.rint((np.clip(about, -SPAN, SPAN) + SPAN) / STEP).astype(np.intp)


def _cells() -> int:
    return int(2 * SPAN / STEP) + 1


def _codes(names: Sequence[Any]) -> tuple[list[Any], Integers]:
    index: dict[Any, int] = {}
    codes = [index.setdefault(name, len(index)) for name in names]
    return list(index), np.asarray(codes, dtype=np.intp)


def _medians(codes: Integers, values: Floats, count: int) -> Floats:
    """Return the median of the values of each code in [0, count)."""
    order = np.lexsort((values, codes))
    ends = np.cumsum(np.bincount(codes, minlength=count))
    starts = np.concatenate([[0], ends[:-1]])
    ordered = values[order]
    low, high = (starts + ends - 1) // 2, (starts + ends) // 2
    return np.asarray((ordered[low] + ordered[high]) / 2)
