"""A warm start: the first candidates are the best of many random ones by a score that costs no training."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.controllers.base import Observation
from nas.evaluators.zero_cost_scores import draw_batch, score
from nas.spaces.sampling import distinct_networks
from nas.spaces.search_space import Choices, Space
from nas.training.loop import TrainingError
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter

ATTEMPTS = 50
"""Draws for each candidate that is scored, before a tight target leaves the pool smaller."""


class WarmStart:
    """Asks for the members of a pool, by digest, while there are any that were not tried; then asks `controller`.

    What it asks is a function of the seed, of what it was told, and of `tried`, which gives the digests of all
    candidates so far: those that failed are never told.
    """

    def __init__(self, controller: Controller, pool: Mapping[str, Choices], tried: Callable[[], Container[str]]):
        self._controller, self._pool, self._tried = controller, pool, tried

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return one of the pool that was not tried yet, by the seed; after it, what the controller asks."""
        tried = self._tried()
        waiting = [choices for digest, choices in self._pool.items() if digest not in tried]
        return dict(random.Random(seed).choice(waiting)) if waiting else self._controller.ask(seed, pending)

    def tell(self, told: Observation) -> None:
        """Let the controller learn from a candidate that ended."""
        self._controller.tell(told)


def best_of_random(
    name: str,
    space: Space,
    task: Classification,
    is_feasible: Callable[[Architecture], bool],
    samples: int,
    keep: int,
    seed: int,
    reporter: Reporter,
) -> dict[str, Choices]:
    """Return the `keep` best of `samples` random distinct feasible networks by the zero-cost score `name`, by digest.

    The best comes first. Networks without a score are left out; fewer come back where a space or a target has fewer.
    """
    drawn = distinct_networks(space, samples, random.Random(seed), ATTEMPTS, is_feasible)
    found = {arch.digest: choices for arch, choices in drawn}
    batch = draw_batch(task, space.proxy.resolution, seed)
    scored: list[tuple[float, str]] = []
    with reporter.task(f"{name} of random candidates", len(drawn)) as advance:
        for arch, _ in drawn:
            try:
                scored.append((score(name, arch, batch, seed), arch.digest))
            except TrainingError as error:
                reporter.warn(f"{arch.digest}: {error}")
            advance(1)
    if not scored:
        reporter.warn(f"--warm-start: no random candidate within the target has a score '{name}': it starts cold")
    return {digest: found[digest] for _, digest in sorted(scored, reverse=True)[:keep]}
