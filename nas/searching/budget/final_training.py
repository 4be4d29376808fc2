"""The length of the winner's training: as many epochs as fit into what is left of the total time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from nas.architecture import Architecture
from nas.searching.budget.plan import RESERVE_S, least_epochs
from nas.searching.context import SearchContext
from nas.searching.winner_training import winner_recipe
from nas.study.objectives import Goal
from nas.study.study import Study
from nas.training.speed import TrainingSpeed, measure_speed
from nas.training.tasks.base import Task
from nas.utils.units import format_duration

FINAL = "final"
"""The name under which a study stores the epochs of the final training by goal."""
EPOCHS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 70, 80, 90, 100,
    112, 125, 140, 160, 180, 200, 225, 250, 280, 315, 355, 400,
)  # fmt: skip
"""The numbers of epochs to choose from: coarse steps, so that small changes of speed change nothing."""
MOST_EPOCHS, MOST_IMAGES = 200, 40_000
"""The final training sees the training images at most this often, or this many images if they are few."""


@dataclass(frozen=True)
class _Share:
    """The speeds of the networks that are trained with the same number of epochs, on the same images."""

    speeds: Sequence[TrainingSpeed]
    task: Task
    images: int
    validation: int

    def seconds(self, epochs: int) -> float:
        recipe = winner_recipe(self.task, epochs)
        return sum(speed.seconds(recipe, self.images, self.validation) for speed in self.speeds)


def with_final_epochs(context: SearchContext, study: Study, goal: Goal, archs: Sequence[Architecture]) -> SearchContext:
    """Return the context of a goal's final training.

    Without a budget, or if the final training is set by hand, return the context as it is.

    The winner and its references see the same images, so all of them get the same number of epochs. It is decided
    once and recorded, so that a search that was killed continues the same training.

    Args:
        context: The search.
        study: Its study, which stores the decision.
        goal: The goal. Goals share the time that is left equally.
        archs: The networks to train.
    """
    by_hand = context.settings.final_epochs or context.settings.final_images
    if context.stopwatch is None or context.budget_s is None or by_hand:
        return context
    stored = dict(study.fact(FINAL) or {})
    if goal.name not in stored:
        waiting = [each for each in context.objective.goals if each.name not in stored]
        left_s = (context.budget_s - context.stopwatch.elapsed_s - RESERVE_S) / len(waiting)
        stored[goal.name] = _choose_epochs(context, archs, left_s)
        study.record_fact(FINAL, stored)
    final = replace(context.space.final, full_epochs=stored[goal.name])
    return replace(context, space=replace(context.space, final=final))


def final_settings(context: SearchContext, study: Study) -> dict[str, Any]:
    """Return the settings of the winner's training as `result.json` holds them: several goals have a list."""
    stored = study.fact(FINAL) if context.stopwatch else None
    if not stored:
        return asdict(context.space.final)
    epochs = [stored[goal.name] for goal in context.objective.goals]
    return {"full_epochs": epochs[0] if len(epochs) == 1 else epochs}


def _choose_epochs(context: SearchContext, archs: Sequence[Architecture], left_s: float) -> int:
    """Return the number of epochs that fit into a time, at least the fewest, and report it."""
    task = context.task
    recipe = winner_recipe(task, EPOCHS[-1])
    speeds = [measure_speed(arch, task, recipe) for arch in archs]
    share = _Share(speeds, task, len(task.data.train), len(task.data.validation))
    most = max(MOST_EPOCHS, ceil(MOST_IMAGES / share.images))
    fitting = [epochs for epochs in EPOCHS if epochs <= most and share.seconds(epochs) <= left_s]
    least = least_epochs(share.images)
    chosen = max(least, fitting[-1] if fitting else 0)
    seconds = share.seconds(chosen)
    text = f"final training: {chosen} epochs of {share.images:,} images, about {format_duration(seconds)}"
    context.reporter.say(f"{text} of the {format_duration(max(0.0, left_s))} that are left")
    if seconds > 1.1 * left_s:
        context.reporter.warn(f"{least} epochs are the least: the search will take longer than --budget")
    return chosen
