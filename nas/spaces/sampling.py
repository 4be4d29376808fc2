"""Random networks of a space that differ, the same for the same random state. Tables and records rest on the order."""

from __future__ import annotations

import random
from collections.abc import Callable

from nas.architecture import Architecture
from nas.networks.network import canonical
from nas.spaces.search_space import Choices, Searched

ATTEMPTS = 4
"""Draws for each network that is wanted; a small space has fewer."""


def distinct_networks(
    space: Searched,
    count: int,
    rng: random.Random,
    attempts: int = ATTEMPTS,
    admits: Callable[[Architecture], bool] = lambda arch: True,
) -> list[tuple[Architecture, Choices]]:
    """Return up to `count` different networks that `admits` lets in, canonical, each with the choices that gave it.

    Every choice is drawn uniformly, `attempts * count` times at most.
    """
    found: dict[str, tuple[Architecture, Choices]] = {}
    for _ in range(attempts * count):
        choices = space.sample(rng)
        arch = canonical(space.decode(choices))
        if arch.digest not in found and admits(arch):
            found[arch.digest] = (arch, choices)
        if len(found) == count:
            break
    return list(found.values())


def sample_networks(space: Searched, count: int, seed: int | str, attempts: int = ATTEMPTS) -> list[Architecture]:
    """Return up to `count` different networks, every choice drawn uniformly, by a seed of their own."""
    return [arch for arch, _ in distinct_networks(space, count, random.Random(seed), attempts)]
