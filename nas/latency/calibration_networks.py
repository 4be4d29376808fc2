"""The whole networks that a table is calibrated by and held against, chosen from the space by a fixed rule."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import pairwise

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.latency.calibration import Sample, certify, fit
from nas.latency.rows import CALIBRATION, HELD_OUT, MeasuredNetwork
from nas.latency.table import LatencyTable
from nas.networks.network import canonical, trace
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.latency_distribution import sample_within
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space

CALIBRATING, CERTIFYING = 20, 25
LEAST_NETWORKS = 4
"""A space with fewer networks is not calibrated: all of them can be measured."""


def whole_networks(space: Space) -> list[MeasuredNetwork]:
    """Return the networks of `space` to measure along with its layers, the same each time.

    Those that certify are drawn as a search draws, every choice uniformly. Those that calibrate are spread over all
    that networks of the space can cost, so that a fast one is not predicted from common ones.
    """
    drawn = sample_networks(space, 2 * CERTIFYING + CALIBRATING, f"{space.name} networks")
    held_out = drawn[: min(CERTIFYING, len(drawn) // 2)]
    seen = {arch.digest for arch in held_out}
    chosen = [arch for arch in [*spread(space, CALIBRATING), *drawn[len(held_out) :]] if arch.digest not in seen]
    calibrating = list(dict.fromkeys(chosen))[:CALIBRATING]
    return [
        *(MeasuredNetwork(space.key, CALIBRATION, arch) for arch in calibrating),
        *(MeasuredNetwork(space.key, HELD_OUT, arch) for arch in held_out),
    ]


def spread(space: Space, count: int) -> list[Architecture]:
    """Return up to `count` networks whose MACs are spread evenly, by logarithm, from the fewest to the most."""
    import numpy as np

    compiled = tabulate_costs(space, lambda layer: layer.macs / 1e6)
    edges = np.geomspace(max(compiled.min_cost, 1e-6), max(compiled.max_cost, 1e-6), count + 1)
    rng = np.random.default_rng(0)
    found = []
    for low, high in pairwise(edges.tolist()):
        with contextlib.suppress(UsageError):  # no network has MACs in this span
            codes = sample_within(compiled, high, 1, rng, low)
            found.append(canonical(compiled.architecture(codes[:, 0])))
    return found


def calibrate(space: Space, table: LatencyTable, networks: Sequence[MeasuredNetwork]) -> None:
    """Fit the table's sums to those of `networks` that calibrate, and certify them on the others."""
    calibration = fit([sample(table, network) for network in networks if network.role == CALIBRATION])
    held_out = [network for network in networks if network.role == HELD_OUT]
    certificate = certify(
        [calibration.latency_ms(sample(table, network)) for network in held_out],
        [table.network_ms(network) for network in held_out],
        table.repeatability(held_out),
    )
    table.append_calibration(space.key, calibration, certificate)


def sample(table: LatencyTable, network: MeasuredNetwork) -> Sample:
    """Return what a calibration needs to know of a measured network."""
    parts = [table.sample(layer) for layer in trace(network.arch)]
    return Sample(
        sum(part.table_ms for part in parts),
        sum(part.boundary_saving_ms for part in parts),
        len(parts),
        sum(part.elements for part in parts),
        table.network_ms(network),
    )
