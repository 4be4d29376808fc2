"""Warm starts: the first candidates are the best of many random ones by a zero-cost score."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence

from nas.architecture import Architecture, Scalar
from nas.controllers import Controller
from nas.evaluators.zero_cost_scores import draw_batch, score
from nas.spaces.sampling import distinct_networks
from nas.spaces.search_space import Choices, Space
from nas.study.trials import Trial
from nas.training.loop import TrainingError
from nas.training.tasks.base import Task
from nas.utils.reporting import Reporter

ATTEMPTS = 50
"""Random draws for each candidate to score. If they do not suffice, as with a tight target, the pool is smaller."""


class WarmStart:
    """A controller that proposes all members of a pool first, then what another controller proposes.

    Its proposals depend only on the seeds, on what it learned, and on `tried`.

    Args:
        controller: Takes over when all members of the pool were tried.
        pool: The choices of each member, by digest.
        tried: Returns the digests of all candidates so far, failed ones included.
    """

    def __init__(self, controller: Controller, pool: Mapping[str, Choices], tried: Callable[[], Container[str]]):
        self._controller, self._pool, self._tried = controller, pool, tried

    def ask(self, seed: int, pending: Sequence[Choices] = ()) -> dict[str, Scalar]:
        """Return an untried member of the pool, chosen by the seed, or the controller's proposal if none is left."""
        tried = self._tried()
        waiting = [choices for digest, choices in self._pool.items() if digest not in tried]
        return dict(random.Random(seed).choice(waiting)) if waiting else self._controller.ask(seed, pending)

    def tell(self, trial: Trial) -> None:
        """Let the controller learn from a trial that ended."""
        self._controller.tell(trial)


def best_of_random(
    name: str,
    space: Space,
    task: Task,
    is_feasible: Callable[[Architecture], bool],
    samples: int,
    keep: int,
    seed: int,
    reporter: Reporter,
) -> dict[str, Choices]:
    """Return the best of random distinct feasible networks by a zero-cost score, best first, by digest.

    Args:
        name: The zero-cost score.
        space: The search space.
        task: The data from which the score draws one batch.
        is_feasible: Whether a network may be tried.
        samples: How many networks to score.
        keep: How many of them to return. There are fewer if the space or the target admits fewer, or if a score
            cannot be computed.
        seed: The seed of the networks, the batch and the weights.
        reporter: Prints progress and warnings.
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
        reporter.warn(f"--warm-start: no random candidate within the target has a score '{name}': starting cold")
    return {digest: found[digest] for _, digest in sorted(scored, reverse=True)[:keep]}
