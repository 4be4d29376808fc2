"""A search space as what a controller searches: its choices, and the latency, MACs and parameters of any million."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.spaces.automaton import Cost, unroll
from nas.spaces.cost_tables import compile_lattice
from nas.spaces.encoding import Domain, Facts, Indices
from nas.spaces.search_space import Space


def space_domain(space: Space, layer_ms: Cost | Sequence[Cost], constant_ms: float = 0.0) -> Domain:
    """Return the space with the latency `constant_ms + sum(layer_ms(layer))` of each network.

    Of several costs, one for each device, latencies are (devices, N), else (N,). The features are log MACs and log
    parameters. Two rows have one key where they are one network, however each is spelled. Raises what `compile_space`
    raises.
    """
    lattice = unroll(space)
    each = [layer_ms] if callable(layer_ms) else list(layer_ms)
    latencies = [compile_lattice(lattice, cost, constant_ms) for cost in each]
    macs = compile_lattice(lattice, lambda layer: layer.macs)
    params = compile_lattice(lattice, lambda layer: layer.params)

    def facts(rows: Indices) -> Facts:
        codes = latencies[0].encode_many(rows)
        sizes = np.stack([macs.predict_many(codes), params.predict_many(codes)], axis=1)
        predicted = [latency.predict_many(codes) for latency in latencies]
        keys = np.ascontiguousarray(codes.T)
        return Facts(
            keys.view(np.dtype((np.void, keys.shape[1] * keys.itemsize)))[:, 0],
            predicted[0] if callable(layer_ms) else np.stack(predicted),
            np.log(np.maximum(sizes, 1.0)),
        )

    return Domain(space.choices, facts, space.conditions, ("macs", "params"))
