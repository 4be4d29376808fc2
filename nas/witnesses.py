"""The whole networks that a table is calibrated by and held against, chosen from the space by a fixed rule."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from nas.architecture import Architecture
from nas.calibration import Sample, certify, fit
from nas.latency import CALIBRATION, HELD_OUT, LatencyTable, MeasuredNetwork
from nas.network import canonical, totals, trace
from nas.space import Space

CALIBRATING, CERTIFYING = 20, 25
LEAST_NETWORKS = 4
"""A space with fewer networks is not calibrated: all of them can be measured."""
POOL = 400


def whole_networks(space: Space) -> list[MeasuredNetwork]:
    """Return the networks of `space` to measure along with its layers, the same each time.

    Those that certify are drawn as a search draws, every choice uniformly. Those that calibrate are spread over
    the costs of as many draws as the pool holds, so that the fit is not extrapolated at the ends.
    """
    drawn = draw(space, POOL, f"{space.name} networks")
    held_out = drawn[: min(CERTIFYING, len(drawn) // 2)]
    rest = sorted(drawn[len(held_out) :], key=_macs)
    return [
        *(MeasuredNetwork(space.name, CALIBRATION, arch) for arch in spread(rest, CALIBRATING)),
        *(MeasuredNetwork(space.name, HELD_OUT, arch) for arch in held_out),
    ]


def draw(space: Space, count: int, seed: str) -> list[Architecture]:
    """Return up to `count` different networks, every choice drawn uniformly."""
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(2 * count):
        arch = canonical(space.decode(space.sample(rng)))
        found.setdefault(arch.digest, arch)
        if len(found) == count:
            break
    return list(found.values())


def spread(archs: Sequence[Architecture], count: int) -> list[Architecture]:
    """Return `count` of `archs`, which are in order of their MACs, evenly spaced by the logarithm of these."""
    waiting = list(archs)
    if len(waiting) <= count:
        return waiting
    low, high = (math.log(_macs(arch)) for arch in (waiting[0], waiting[-1]))
    chosen = []
    for step in range(count):
        wanted = low + (high - low) * step / (count - 1)
        nearest = min(waiting, key=lambda arch: abs(math.log(_macs(arch)) - wanted))
        waiting.remove(nearest)
        chosen.append(nearest)
    return chosen


def _macs(arch: Architecture) -> int:
    return max(1, totals(trace(arch)).macs)


def calibrate(space: Space, table: LatencyTable) -> None:
    """Fit the table's sums to its measured networks of `space`, and certify them on the others."""
    roles: dict[str, list[MeasuredNetwork]] = {CALIBRATION: [], HELD_OUT: []}
    for network in table.networks.values():
        if network.space == space.name:
            roles[network.role].append(network)
    calibration = fit([sample(table, network) for network in roles[CALIBRATION]])
    held_out = roles[HELD_OUT]
    certificate = certify(
        [calibration.latency_ms(sample(table, network)) for network in held_out],
        [table.network_ms(network) for network in held_out],
        table.repeatability([(network.space, network.arch.digest) for network in held_out]),
    )
    table.append_calibration(space.name, calibration, certificate)


def sample(table: LatencyTable, network: MeasuredNetwork) -> Sample:
    """Return what a calibration needs to know of a measured network."""
    parts = [table.sample(layer) for layer in trace(network.arch)]
    return Sample(
        sum(part.table_ms for part in parts),
        sum(part.seam_ms for part in parts),
        len(parts),
        sum(part.elements for part in parts),
        table.network_ms(network),
    )
