"""Sampling of distinct random networks. The same seed gives the same networks; stored tables depend on the order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from nas.architecture import Architecture
from nas.networks.network import canonical
from nas.spaces.search_space import Choices, Searched

T = TypeVar("T")
ATTEMPTS = 4
"""Draws per requested network; a small space may hold fewer networks."""


def distinct_networks(
    space: Searched,
    count: int,
    rng: random.Random,
    attempts: int = ATTEMPTS,
    admits: Callable[[Architecture], bool] = lambda arch: True,
) -> list[tuple[Architecture, Choices]]:
    """Return up to `count` distinct canonical networks that `admits` accepts, each with its choices.

    Choices are drawn uniformly, in at most `attempts * count` draws.
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
    """Return up to `count` distinct canonical networks. Choices are drawn uniformly with `seed`."""
    return [arch for arch, _ in distinct_networks(space, count, random.Random(seed), attempts)]


def one_per_stratum(ordered: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """Return a random element of each of `count` strata of equal size, in order. Empty strata give none."""
    edges = [len(ordered) * index // count for index in range(count + 1)]
    return [rng.choice(ordered[low:high]) for low, high in pairwise(edges) if high > low]
