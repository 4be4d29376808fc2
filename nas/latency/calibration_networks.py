"""Calibration networks: the whole networks that calibrate and certify a table, chosen from its space."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.latency.calibration import Features, certify, fit
from nas.latency.rows import CALIBRATION, HELD_OUT, MeasuredNetwork
from nas.latency.table import LatencyTable
from nas.networks.network import canonical, totals, trace
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.latency_distribution import sample_within
from nas.spaces.sampling import sample_networks
from nas.spaces.search_space import Space

CALIBRATING, CERTIFYING = 20, 25
"""Number of networks that calibrate a table, and of held-out networks that certify it."""
SMALL_MACS = 150e6
"""If the networks of a space have fewer MACs, as many again calibrate, sampled as a search samples: they are fast to
time, and harder to predict."""
LEAST_NETWORKS = 4
"""A space with fewer networks is not calibrated: all of them can be measured."""


def whole_networks(space: Space) -> list[MeasuredNetwork]:
    """Return the networks of `space` to measure together with its layers. The choice is deterministic.

    Held-out networks are sampled as a search samples: each choice uniformly. Calibration networks are spread over the
    whole range of MACs, so that predictions for fast networks do not extrapolate from common ones.
    """
    drawn = sample_networks(space, 2 * (CERTIFYING + CALIBRATING), f"{space.name} networks")
    is_small = median(totals(trace(arch)).macs for arch in drawn) < SMALL_MACS
    wanted = 2 * CALIBRATING if is_small else CALIBRATING
    held_out = drawn[: min(CERTIFYING, len(drawn) // 2)]
    seen = {arch.digest for arch in held_out}
    chosen = [arch for arch in [*spread(space, CALIBRATING), *drawn[len(held_out) :]] if arch.digest not in seen]
    calibrating = list(dict.fromkeys(chosen))[:wanted]
    return [
        *(MeasuredNetwork(space.key, CALIBRATION, arch) for arch in calibrating),
        *(MeasuredNetwork(space.key, HELD_OUT, arch) for arch in held_out),
    ]


def spread(space: Space, count: int) -> list[Architecture]:
    """Return up to `count` networks whose MACs are spaced evenly on a log scale, from the fewest to the most."""
    import numpy as np

    costs = tabulate_costs(space, lambda layer: layer.macs / 1e6)
    edges = np.geomspace(max(costs.min_cost, 1e-6), max(costs.max_cost, 1e-6), count + 1)
    rng = np.random.default_rng(0)
    found = []
    for low, high in pairwise(edges.tolist()):
        with contextlib.suppress(UsageError):  # no network has MACs in this interval
            codes = sample_within(costs, high, 1, rng, low)
            found.append(canonical(costs.architecture(codes[:, 0])))
    return found


def calibrate(space: Space, table: LatencyTable, networks: Sequence[MeasuredNetwork]) -> None:
    """Calibrate the table for `space` on the calibration networks, and certify it on the held-out ones."""
    calibration = fit([network_features(table, network) for network in networks if network.role == CALIBRATION])
    held_out = [network for network in networks if network.role == HELD_OUT]
    certificate = certify(
        [calibration.latency_ms(network_features(table, network)) for network in held_out],
        [table.network_ms(network) for network in held_out],
        table.repeatability(held_out),
    )
    table.append_calibration(space.key, calibration, certificate)


def network_features(table: LatencyTable, network: MeasuredNetwork) -> Features:
    """Return the features and the measured latency of a network."""
    layers = [table.features_of(layer) for layer in trace(network.arch)]
    return sum(layers, Features(0.0, 0.0, 0, 0, 0, table.network_ms(network)))
