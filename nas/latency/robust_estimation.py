"""Robust latency estimation on machines with varying speed.

A shared processor may run at 0.8 of its usual speed for a tenth of a second; the median of twelve samples then depends
on luck. All samples of all keys together show how the machine's times are distributed, and how this distribution
depends on the samples taken just before and after. The latency of a key is the one under which its own samples are
likely in that distribution. This module knows keys, times and milliseconds only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median, median_filter

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

REACH = 8
"""Samples on each side that show the machine's slowdown at a sample: about 0.15 s at 10 ms per sample."""
SLOWDOWN_CLASSES = 8
"""Number of slowdown classes, from fast to slow; fewer if a class would get under SAMPLES_PER_CLASS samples."""
SAMPLES_PER_CLASS = 200
STEP, SPAN, SHIFT = 0.0025, 1.0, 0.2
"""Logarithms of time ratios: resolution and range of a distribution, and the largest correction of a level."""
SMOOTHED = 0.02
"""Standard deviation of the Gaussian that smooths a distribution."""
OUTLIERS = 2e-5
"""Probability that each cell of a distribution keeps for outliers."""
STEADY = 0.005
"""If nine in ten samples are this close to the median of their key, medians are good enough."""


def estimate(keys: Sequence[Any], at: Sequence[float], ms: Sequence[float]) -> dict[Any, float]:
    """Return the latency in ms of each key at the machine's usual speed.

    Args:
        keys: The measured key of each sample, in any order.
        at: When each sample was taken, in s.
        ms: How long it took; a key whose times are 0 gets 0.
    """
    if not keys:
        return {}
    distinct, codes = _codes(keys)
    order = np.argsort(np.asarray(at, dtype=float), kind="stable")
    codes, times = codes[order], np.asarray(ms, dtype=float)[order]
    medians = _medians(codes, times / slowdowns(codes, times))
    timed = medians[codes] > 0
    levels = np.log(np.where(medians > 0, medians, 1.0))
    logs = np.log(np.where(timed, times, 1.0))
    if np.quantile(np.abs(logs - levels[codes]), 0.9) > STEADY:
        levels = likely_levels(codes, logs, levels)
    return dict(zip(distinct, np.where(medians > 0, np.exp(levels), 0.0).tolist(), strict=True))


def linked(sessions: Mapping[Any, Mapping[Any, float]]) -> dict[Any, float]:
    """Return the latency in ms of each key from several sessions, at the speed of the median session.

    Each session has its own speed. Keys measured in several sessions link them: a logarithm is the level of its key
    plus that of its session, by least squares. A session that shares no key with the others is assumed to be as fast.

    Args:
        sessions: Latency in ms by session and key.
    """
    entries = [(session, key, ms) for session, found in sessions.items() for key, ms in found.items()]
    if any(ms <= 0 for _, _, ms in entries):  # simulated times can be too short to measure
        return {key: ms for _, key, ms in entries}
    (distinct, session_codes), (keys, key_codes) = (_codes([entry[part] for entry in entries]) for part in range(2))
    rows, count = np.arange(len(entries)), len(keys)
    system = np.zeros((len(entries), count + len(distinct)))
    system[rows, key_codes] = system[rows, count + session_codes] = 1.0
    found = np.linalg.lstsq(system, np.log([ms for _, _, ms in entries]), rcond=None)[0]
    levels = found[:count] + np.median(found[count:])
    # Nine digits: a resumed run sums in another order and differs in the last ones.
    return {key: float(f"{ms:.9g}") for key, ms in zip(keys, np.exp(levels).tolist(), strict=True)}


def slowdowns(codes: Integers, ms: Floats, rounds: int = 4) -> Floats:
    """Return the machine's slowdown at each sample, with median 1; the samples are ordered by time.

    The slowdown is the running median of the neighbors' times, each relative to the median of its key. It is repeated
    with medians that are corrected by the slowdown.
    """
    slow = np.ones(len(ms))
    for _ in range(rounds):
        medians = _medians(codes, ms / slow)
        ratios = np.divide(ms, medians[codes], out=np.ones(len(ms)), where=medians[codes] > 0)
        slow = median_filter(ratios, size=2 * REACH + 1, mode="nearest")
        slow /= np.median(slow)
    return slow


def likely_levels(codes: Integers, logs: Floats, levels: Floats, rounds: int = 4) -> Floats:
    """Return the level of each code, a logarithm, under which its samples are likely.

    One distribution of deviations from the levels is estimated for each slowdown class, from all samples. The posterior
    mean of each level under these distributions gives better levels, and these give sharper distributions.

    Args:
        codes: Code of each sample, ordered by time.
        logs: Logarithm of each sample's time.
        levels: Initial level of each code.
        rounds: Number of iterations.
    """
    others = np.ones(2 * REACH + 1, dtype=bool)
    others[REACH] = False
    classes = int(np.clip(len(logs) // SAMPLES_PER_CLASS, 1, SLOWDOWN_CLASSES))
    shifts = np.arange(-SHIFT, SHIFT + STEP, 2 * STEP)
    for _ in range(rounds):
        deviations = logs - levels[codes]
        levels = levels + np.median(deviations)
        deviations -= np.median(deviations)
        neighbors = median_filter(deviations, footprint=others, mode="nearest")
        edges = np.quantile(neighbors, np.linspace(0, 1, classes + 1)[1:-1])
        class_of = np.searchsorted(edges, neighbors)
        likelihood = _log_densities(deviations, class_of, classes)
        summed = np.stack(
            [
                np.bincount(codes, weights=likelihood[class_of, _cell(deviations - shift)], minlength=len(levels))
                for shift in shifts
            ]
        )
        posterior = np.exp(summed - summed.max(axis=0))
        levels = levels + shifts @ posterior / posterior.sum(axis=0)
    return levels


def _log_densities(deviations: Floats, class_of: Integers, classes: int) -> Floats:
    cells = _cell(deviations)
    counts = [np.bincount(cells[class_of == index], minlength=_cells()).astype(float) for index in range(classes)]
    smooth = gaussian_filter1d(np.stack(counts), SMOOTHED / STEP, axis=1)
    return np.asarray(np.log(smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1e-300) + OUTLIERS))


def _cell(deviations: Floats) -> Integers:
    return np.rint((np.clip(deviations, -SPAN, SPAN) + SPAN) / STEP).astype(np.intp)


def _cells() -> int:
    return int(2 * SPAN / STEP) + 1


def _codes(keys: Sequence[Any]) -> tuple[list[Any], Integers]:
    """Return the distinct keys and the index of each key among them."""
    index: dict[Any, int] = {}
    codes = [index.setdefault(key, len(index)) for key in keys]
    return list(index), np.asarray(codes, dtype=np.intp)


def _medians(codes: Integers, values: Floats) -> Floats:
    """Return the median of the values of each code."""
    return np.asarray(median(values, codes, np.arange(codes.max() + 1)))
