"""A search space as what a controller searches: its choices, and the latency, MACs and parameters of any million."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.spaces.automaton import Cost, unroll
from nas.spaces.cost_tables import tabulate_automaton
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.spaces.search_space import Space


def encode_space(space: Space, layer_ms: Cost | Sequence[Cost], constant_ms: float = 0.0) -> EncodedSpace:
    """Return the space with the latency `constant_ms + sum(layer_ms(layer))` of each network.

    Of several costs, one for each device, latencies are (devices, N), else (N,). The features are log MACs and log
    parameters. Two rows have one key where they are one network, however each is spelled. Raises what `compile_space`
    raises.
    """
    lattice = unroll(space)
    each = [layer_ms] if callable(layer_ms) else list(layer_ms)
    latencies = [tabulate_automaton(lattice, cost, constant_ms) for cost in each]
    macs = tabulate_automaton(lattice, lambda layer: layer.macs)
    params = tabulate_automaton(lattice, lambda layer: layer.params)

    def facts(rows: Indices) -> CandidateCosts:
        codes = latencies[0].encode_many(rows)
        sizes = np.stack([macs.predict_many(codes), params.predict_many(codes)], axis=1)
        predicted = [latency.predict_many(codes) for latency in latencies]
        keys = np.ascontiguousarray(codes.T)
        return CandidateCosts(
            keys.view(np.dtype((np.void, keys.shape[1] * keys.itemsize)))[:, 0],
            predicted[0] if callable(layer_ms) else np.stack(predicted),
            np.log(np.maximum(sizes, 1.0)),
        )

    return EncodedSpace(space.choices, facts, space.conditions, ("macs", "params"))
