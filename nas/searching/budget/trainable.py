"""Which networks a search can train well within its total time."""

from __future__ import annotations

from collections.abc import Sequence

from nas.architecture import Architecture
from nas.searching.budget.total_time import default_budget
from nas.searching.budget.training_cost import TrainingCost, elements, measure_training_cost
from nas.searching.context import SearchContext
from nas.spaces.trainings import Proxy

PASSES = 20
"""A network that is trained from scratch should see the training images this many times."""
SHARE = 0.25
"""The share of the total time for these passes."""
TIMED = (0.2, 0.5, 0.8, 0.95)
"""The networks whose training is timed, as quantiles of their sizes: the smallest ones say little about large ones."""


def trainable(context: SearchContext, networks: Sequence[Architecture]) -> list[bool]:
    """Return for each network whether `PASSES` passes fit into `SHARE` of the total time on this machine.

    A network that sees few images in the time that there is would be no fair reference: it would be undertrained, and
    it would take the time of the winner, because both see the same images. If none fits, the smallest one counts. If
    the parts of the search are set by hand, the total time is the default one.

    Args:
        context: The search.
        networks: Networks with a head for the task's classes, at the deployed resolution.
    """
    if not networks:
        return []
    total_s = context.budget_s or default_budget(
        len(context.task.data.train), context.space.input.side(max(context.space.resolution))
    )
    sizes = [elements(arch) for arch in networks]
    order = sorted(range(len(networks)), key=lambda index: sizes[index])
    timed = [networks[order[int(share * (len(order) - 1))]] for share in TIMED]
    image_s = SHARE * total_s / (PASSES * len(context.task.data.train))
    cost = measure_training_cost(timed, Proxy(networks[0].resolution), context.task, image_s)
    limit = most_elements(cost, image_s)
    return [count <= max(limit, sizes[order[0]]) for count in sizes]


def most_elements(cost: TrainingCost, image_s: float) -> float:
    """Return how many elements the largest network reads and writes that takes at most `image_s` for an image."""
    return (image_s - cost.base_s) / cost.per_element_s if cost.per_element_s else float("inf")
