"""Which networks a search can train well within its total time."""

from __future__ import annotations

from collections.abc import Sequence

from nas.architecture import Architecture
from nas.networks.network import totals, trace
from nas.searching.budget.total_time import default_budget
from nas.searching.budget.training_cost import TrainingCost, measure_training_cost
from nas.searching.context import SearchContext
from nas.spaces.trainings import Proxy

PASSES = 20
"""A network that is trained from scratch should see the training images this many times."""
SHARE = 0.25
"""The share of the total time for these passes."""


def trainable(context: SearchContext, networks: Sequence[Architecture]) -> list[bool]:
    """Return for each network whether `PASSES` passes fit into `SHARE` of the total time on this machine.

    A network that sees few images in the time that there is would be no fair reference: it would be undertrained, and
    it would take the time of the winner, because both see the same images. If none fits, the one with the fewest MACs
    counts. If the parts of the search are set by hand, the total time is the default one.

    Args:
        context: The search.
        networks: Networks with a head for the task's classes, at the deployed resolution.
    """
    if not networks:
        return []
    total_s = context.budget_s or default_budget(len(context.task.data.train), max(context.space.resolution))
    macs = [totals(trace(arch)).macs for arch in networks]
    order = sorted(range(len(networks)), key=lambda index: macs[index])
    timed = [networks[order[int(share * (len(order) - 1))]] for share in (0.0, 0.3)]
    cost = measure_training_cost(timed, Proxy(networks[0].resolution), context.task)
    limit = most_macs(cost, SHARE * total_s)
    return [count <= max(limit, macs[order[0]]) for count in macs]


def most_macs(cost: TrainingCost, seconds: float) -> float:
    """Return the MACs of the largest network that passes `PASSES` times over the training images in that time."""
    image_s = seconds / (PASSES * cost.images)
    return (image_s - cost.base_s) / cost.per_mac_s if cost.per_mac_s else float("inf")
