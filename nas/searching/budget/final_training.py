"""The length of the winner's training: as many epochs as fit into what is left of the total time.

The winner and each reference get the same time, and a reference never gets more epochs than the winner. A reference
that trains slowly so sees fewer images, instead of taking the winner's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class Lengths:
    """The epochs of a final training.

    Attributes:
        winner: Those of the winner.
        references: Those of each reference, by its digest.
    """

    winner: int
    references: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the lengths as a study stores them."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Any) -> Lengths:
        """Return the lengths of `to_dict`. Older searches stored one number for all networks."""
        return cls(**stored) if isinstance(stored, dict) else cls(stored, {})


@dataclass(frozen=True)
class Timed:
    """The time of full trainings of the winner and its references.

    Attributes:
        winner: The speed of the winner.
        references: The speed of each reference, by its digest.
        task: The data set.
        branches: The branches of their convolutions while they train.
    """

    winner: TrainingSpeed
    references: Mapping[str, TrainingSpeed]
    task: Task
    branches: int = 0

    def seconds(self, speed: TrainingSpeed, epochs: int) -> float:
        """Return the seconds of a training."""
        data = self.task.data
        return speed.seconds(winner_recipe(self.task, epochs, self.branches), len(data.train), len(data.validation))

    def lengths(self, epochs: int, least: int) -> Lengths:
        """Return how long the references train beside a winner of `epochs`: the same time, and at least `least`."""
        limit_s = 1.001 * self.seconds(self.winner, epochs)
        found = {}
        for digest, speed in self.references.items():
            fitting = [each for each in EPOCHS if each <= epochs and self.seconds(speed, each) <= limit_s]
            found[digest] = max(least, fitting[-1] if fitting else 0)
        return Lengths(epochs, found)

    def total_s(self, lengths: Lengths) -> float:
        """Return the seconds of all trainings."""
        references = (self.seconds(self.references[each], epochs) for each, epochs in lengths.references.items())
        return self.seconds(self.winner, lengths.winner) + sum(references)


def with_final_epochs(
    context: SearchContext, study: Study, goal: Goal, winner: Architecture, references: Sequence[Architecture]
) -> SearchContext:
    """Return the context of a goal's final training.

    Without a budget, or if the final training is set by hand, return the context as it is.

    The lengths are decided once and recorded, so that a search that was killed continues the same trainings.

    Args:
        context: The search.
        study: Its study, which stores the decision.
        goal: The goal. Goals share the time that is left equally.
        winner: The winner of the goal.
        references: The references, without the winner.
    """
    by_hand = context.settings.final_epochs or context.settings.final_images
    if context.stopwatch is None or context.budget_s is None or by_hand:
        return context
    stored = dict(study.fact(FINAL) or {})
    if goal.name not in stored:
        waiting = [each for each in context.objective.goals if each.name not in stored]
        left_s = (context.budget_s - context.stopwatch.elapsed_s - RESERVE_S) / len(waiting)
        stored[goal.name] = _choose_lengths(context, winner, references, left_s).to_dict()
        study.record_fact(FINAL, stored)
    lengths = Lengths.of(stored[goal.name])
    final = replace(context.space.final, full_epochs=lengths.winner)
    return replace(context, space=replace(context.space, final=final), reference_epochs=lengths.references)


def final_settings(context: SearchContext, study: Study) -> dict[str, Any]:
    """Return the settings of the winner's training as `result.json` holds them: several goals have a list."""
    stored = study.fact(FINAL) if context.stopwatch else None
    if not stored:
        return asdict(context.space.final)
    epochs = [Lengths.of(stored[goal.name]).winner for goal in context.objective.goals]
    return {"full_epochs": epochs[0] if len(epochs) == 1 else epochs}


def _choose_lengths(
    context: SearchContext, winner: Architecture, references: Sequence[Architecture], left_s: float
) -> Lengths:
    """Return the longest trainings that fit into a time, at least the shortest, and report them."""
    task, reporter, seeds = context.task, context.reporter, context.settings.final_seeds
    branches = context.space.final.branches
    recipe, images = winner_recipe(task, EPOCHS[-1], branches), len(task.data.train)
    speeds = {arch.digest: measure_speed(arch, task, recipe) for arch in (winner, *references)}
    timed = Timed(speeds.pop(winner.digest), speeds, task, branches)
    least, most = least_epochs(images), max(MOST_EPOCHS, ceil(MOST_IMAGES / images))
    each_s = left_s / seeds
    possible = [timed.lengths(epochs, least) for epochs in EPOCHS if least <= epochs <= most]
    chosen = max((each for each in possible if timed.total_s(each) <= each_s), key=_epochs, default=possible[0])
    seconds = seeds * timed.total_s(chosen)
    counted = "" if seeds == 1 else f", {seeds} seeds each"
    reporter.say(
        f"final training: {chosen.winner} epochs of {images:,} images{_beside(chosen)}{counted}, about "
        f"{format_duration(seconds)} of the {format_duration(max(0.0, left_s))} that are left"
    )
    if seconds > 1.1 * left_s:
        reporter.warn(f"{least} epochs are the least: the search will take longer than --budget")
    return chosen


def _epochs(lengths: Lengths) -> int:
    return lengths.winner


def _beside(lengths: Lengths) -> str:
    """Return in words how long the references train, if not as long as the winner."""
    fewer = {epochs for epochs in lengths.references.values() if epochs < lengths.winner}
    if not fewer:
        return ""
    counted = " and ".join(map(str, sorted(fewer)))
    return f" for the winner, {counted} in the same time for a reference that trains slower"
