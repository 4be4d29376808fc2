"""A search space as what a controller searches: its choices, and the latency, MACs and parameters of any million."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.compiled import compile_lattice
from nas.domain import Domain, Facts, Indices
from nas.lattice import Cost, unroll
from nas.space import Space


def space_domain(space: Space, layer_ms: Cost, constant_ms: float = 0.0) -> Domain:
    """Return the space with the latency `constant_ms + sum(layer_ms(layer))` of each network.

    The features are log MACs and log parameters. Two rows have one key where they are one network, however each is
    spelled. Raises what `compile_space` raises.
    """
    lattice = unroll(space)
    latency = compile_lattice(lattice, layer_ms, constant_ms)
    macs = compile_lattice(lattice, lambda layer: layer.macs)
    params = compile_lattice(lattice, lambda layer: layer.params)

    def facts(rows: Indices) -> Facts:
        codes = latency.encode_many(rows)
        sizes = np.stack([macs.predict_many(codes), params.predict_many(codes)], axis=1)
        keys = np.ascontiguousarray(codes.T)
        return Facts(
            keys.view(np.dtype((np.void, keys.shape[1] * keys.itemsize)))[:, 0],
            latency.predict_many(codes),
            np.log(np.maximum(sizes, 1.0)),
        )

    return Domain(space.choices, facts, space.conditions, groups_of(space), ("macs", "params"))


def groups_of(space: Space) -> Mapping[str, str]:
    """Return the stage of each choice: "stage3" of "stage3.layer0.kernel_size"."""
    return {key: key.split(".")[0] for key in space.choices}
