"""Encodes a space for controllers: its choices, and the latency, MACs and parameters of many candidates at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.spaces.automaton import Cost, unroll
from nas.spaces.cost_tables import tabulate_automaton
from nas.spaces.encoding import CandidateCosts, EncodedSpace, Indices
from nas.spaces.search_space import Space


def encode_space(space: Space, layer_ms: Cost | Sequence[Cost], constant_ms: float = 0.0) -> EncodedSpace:
    """Return the encoded space, in which a network's latency is `constant_ms + sum(layer_ms(layer))`.

    Latencies are (N,) for a single `layer_ms`, and (devices, N) for a sequence with one function per device. The
    features are log MACs and log parameters. Rows that give the same network have equal keys. Raises SpaceError and
    ValueError as `tabulate_costs` does.
    """
    automaton = unroll(space)
    functions = [layer_ms] if callable(layer_ms) else list(layer_ms)
    latencies = [tabulate_automaton(automaton, function, constant_ms) for function in functions]
    macs = tabulate_automaton(automaton, lambda layer: layer.macs)
    params = tabulate_automaton(automaton, lambda layer: layer.params)

    def facts(rows: Indices) -> CandidateCosts:
        codes = latencies[0].encode_many(rows)
        sizes = np.stack([macs.costs(codes), params.costs(codes)], axis=1)
        predicted = [latency.costs(codes) for latency in latencies]
        keys = np.ascontiguousarray(codes.T)
        return CandidateCosts(
            keys.view(np.dtype((np.void, keys.shape[1] * keys.itemsize)))[:, 0],
            predicted[0] if callable(layer_ms) else np.stack(predicted),
            np.log(np.maximum(sizes, 1.0)),
        )

    return EncodedSpace(space.choices, facts, space.conditions, ("macs", "params"))
