"""A warm start: the first candidates are the best of many random ones by a score that costs no training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.network import canonical
from nas.progress import Reporter
from nas.space import Choices, Space
from nas.tasks.classification import Classification
from nas.training import TrainingError
from nas.zero_cost import draw_batch, score

ATTEMPTS = 50
"""Draws for each candidate that is scored, before a tight target leaves the pool smaller."""


class WarmStart:
    """Asks for the members of a pool until as many candidates are told as the pool has, then asks `controller`.

    As any controller, what it asks is a function of the seed and of what it was told. `make_pool` is called at
    the first ask, if at all: a search that goes on beyond its warm start scores nothing.
    """

    def __init__(self, controller: Controller, size: int, make_pool: Callable[[], Sequence[Choices]]):
        self._controller, self._size, self._make_pool = controller, size, make_pool
        self._pool: list[dict[str, Scalar]] | None = None
        self._told: list[dict[str, Scalar]] = []

    def ask(self, seed: int) -> dict[str, Scalar]:
        """Return one of the pool that was not told yet, by the seed; after it, what the controller asks.

        A member whose evaluation failed is never told: then another seed asks for another one.
        """
        if len(self._told) >= self._size:
            return self._controller.ask(seed)
        if self._pool is None:
            self._pool = [dict(choices) for choices in self._make_pool()]
        waiting = [choices for choices in self._pool if choices not in self._told]
        return dict(random.Random(seed).choice(waiting)) if waiting else self._controller.ask(seed)

    def tell(self, choices: Choices, values: tuple[float, ...]) -> None:
        """Take in a finished candidate; the controller learns from it too."""
        self._told.append(dict(choices))
        self._controller.tell(choices, values)


def best_of_random(
    name: str,
    space: Space,
    task: Classification,
    is_feasible: Callable[[Architecture], bool],
    samples: int,
    keep: int,
    seed: int,
    reporter: Reporter,
) -> list[dict[str, Scalar]]:
    """Return the `keep` best of `samples` random distinct feasible networks by the zero-cost score `name`.

    The best comes first. Networks without a score are left out; fewer come back where a space or a target has fewer.
    """
    rng = random.Random(seed)
    found: dict[str, tuple[dict[str, Scalar], Architecture]] = {}
    for _ in range(ATTEMPTS * samples):
        choices = space.sample(rng)
        arch = canonical(space.decode(choices))
        if arch.digest not in found and is_feasible(arch):
            found[arch.digest] = (choices, arch)
        if len(found) == samples:
            break
    batch = draw_batch(task, space.proxy.resolution, seed)
    scored: list[tuple[float, str]] = []
    with reporter.task(f"{name} of random candidates", len(found)) as advance:
        for digest, (_, arch) in found.items():
            try:
                scored.append((score(name, arch, batch, seed), digest))
            except TrainingError as error:
                reporter.warn(f"{digest}: {error}")
            advance(1)
    if not scored:
        reporter.warn(f"--warm-start: no random candidate within the target has a score '{name}': it starts cold")
    return [found[digest][0] for _, digest in sorted(scored, reverse=True)[:keep]]
