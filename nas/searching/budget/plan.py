"""The plan of a search within a total time: what each part may take, and how many candidates that gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from statistics import fmean
from typing import Any

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.searching.budget.training_cost import TrainingCost
from nas.spaces.trainings import Proxy
from nas.training.recipe import Recipe, batch_size
from nas.utils.units import format_duration

SEEDS = 2
"""Each network of the pilot is trained with this many seeds."""
LEVELS = 4
"""The pilot tries at most this many budgets of an evaluation, each twice the one before."""
RANKING_SHARE = 0.45
"""The share of the time for pilot, candidates and finalists. The rest trains the winner and its references."""
RESERVE_S = 10.0
"""Time that is kept for measuring the finalists and for the export."""
FEWEST_NEW = 4
"""At least this many candidates are evaluated beside those of the pilot."""
FINALIST_EVALUATIONS = 9
"""What the finalists cost: five repeats, and two evaluations of twice the length."""
FEWEST_STEPS = 24
"""The shortest evaluation has this many training steps."""
MOST_PASSES = 60
"""The longest evaluation passes over the training images this many times."""
LEAST_EPOCHS, LEAST_IMAGES = 4, 20_000
"""The winner's training sees the training images this often, or this many images if they are many."""
COUNTS = (6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 200)
"""The numbers of candidates to choose from: coarse steps, so that small changes of speed change nothing."""


@dataclass(frozen=True)
class Plan:
    """How a search spends its time. It is made once and recorded with the run.

    Attributes:
        budget_s: The total time in seconds.
        before_s: What was spent before the plan: the latency table.
        levels: The budgets of an evaluation that the pilot tries, the cheapest first.
        networks: The number of networks of the pilot.
        trials: The number of candidates if it is given by hand, else 0.
        cost: The time of trainings, as measured before the plan.
        epoch_s: The time of an epoch of the final training: of a typical winner and of its references, together.
    """

    budget_s: float
    before_s: float
    levels: tuple[Proxy, ...]
    networks: int
    trials: int
    cost: TrainingCost
    epoch_s: float = 0.0

    @property
    def left_s(self) -> float:
        """The time for all trainings."""
        return self.budget_s - self.before_s - RESERVE_S

    @property
    def ranking_s(self) -> float:
        """The time for pilot, candidates and finalists."""
        return RANKING_SHARE * self.left_s

    @property
    def final_s(self) -> float:
        """The time for the training of the winner and its references."""
        return self.left_s - self.ranking_s

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a run records it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Return the plan of a mapping from `to_dict`."""
        levels = tuple(Proxy(**level) for level in data["levels"])
        return cls(**{**data, "levels": levels, "cost": TrainingCost(**data["cost"])})


@dataclass(frozen=True)
class Wishes:
    """What the user has set by hand; 0 leaves a part to the plan.

    Attributes:
        proxy: The space's proxy, which provides the resolution.
        epochs: The epochs of an evaluation.
        images: The images of an evaluation.
        trials: The number of candidates.
    """

    proxy: Proxy
    epochs: int = 0
    images: int = 0
    trials: int = 0


def make_plan(
    budget_s: float,
    before_s: float,
    pilot: Sequence[Architecture],
    cost: TrainingCost,
    wishes: Wishes,
    classes: int,
    epoch_s: float = 0.0,
) -> Plan:
    """Return the plan of a search.

    The longest evaluation is the one that the pilot and a few more candidates can afford. The pilot begins with an
    eighth of it. So a set on which evaluations soon tell candidates apart gets many candidates, and a hard one few.

    Args:
        budget_s: The total time in seconds.
        before_s: What was spent already.
        pilot: The networks of the pilot.
        cost: The time of trainings on this machine.
        wishes: What was set by hand.
        classes: The number of classes. An evaluation sees at least one image of each.
        epoch_s: The time of an epoch of the final training, for all networks that it trains.

    Raises:
        UsageError: The time is too short for the shortest plan.
    """
    fewest = max(FEWEST_STEPS * batch_size(Recipe(1, cost.batch_size), cost.images), 2 * classes)
    shortest = proxy_of(fewest, cost.images, wishes)
    least_s = least_budget(before_s, pilot, cost, shortest, epoch_s)
    if budget_s < least_s:
        rule = f"is too short: this space, data and machine need at least {format_duration(least_s)}"
        spent = f", of which the latency table took {format_duration(before_s)}" if before_s > RESERVE_S else ""
        raise UsageError(f"{rule}{spent}", key="budget", value=format_duration(budget_s))
    plan = Plan(budget_s, before_s, (shortest,), len(pilot), wishes.trials, cost, epoch_s)
    if wishes.epochs:
        return plan
    affordable_s = plan.ranking_s / weight_of_longest(len(pilot))
    per_image_s = fmean(cost.training_s(arch, shortest) for arch in pilot) / shortest.images_seen
    most = max(fewest, coarse(min(int(affordable_s / per_image_s), MOST_PASSES * cost.images)))
    seen = [most >> level for level in reversed(range(LEVELS)) if most >> level >= fewest] or [fewest]
    levels = tuple(dict.fromkeys(proxy_of(count, cost.images, wishes) for count in seen))
    return replace(plan, levels=levels)


def coarse(count: int) -> int:
    """Return the largest 2^k or 3 * 2^k up to `count`: budgets of evaluations do not follow small changes of speed.

    So a second search of the same data can use the pilot of the first one.
    """
    power = 1 << max(0, count.bit_length() - 1)
    return power + power // 2 if power > 1 and power + power // 2 <= count else power


def weight_of_longest(networks: int) -> float:
    """Return how many longest evaluations pilot, candidates and finalists take together."""
    pilot = SEEDS * networks * sum(0.5**level for level in range(LEVELS))
    return pilot + FEWEST_NEW + FINALIST_EVALUATIONS


def least_epochs(images: int) -> int:
    """Return the fewest epochs of the final training on a number of training images."""
    return max(1, min(LEAST_EPOCHS, ceil(LEAST_IMAGES / images)))


def least_budget(
    before_s: float, pilot: Sequence[Architecture], cost: TrainingCost, shortest: Proxy, epoch_s: float = 0.0
) -> float:
    """Return the shortest possible budget in seconds: the shortest evaluations, and the shortest final training."""
    evaluation_s = fmean(cost.training_s(arch, shortest) for arch in pilot)
    ranking_s = evaluation_s * (SEEDS * len(pilot) + FEWEST_NEW + FINALIST_EVALUATIONS)
    final_s = least_epochs(cost.images) * epoch_s
    return before_s + RESERVE_S + max(ranking_s / RANKING_SHARE, final_s / (1 - RANKING_SHARE))


def proxy_of(seen: int, images: int, wishes: Wishes) -> Proxy:
    """Return the evaluation that sees about `seen` training images of `images`.

    Few images are seen once; beyond that, all are seen several times. Steps, not epochs, decide what a set gets.
    """
    used = wishes.images or min(seen, images)
    epochs = wishes.epochs or max(1, round(seen / used))
    return Proxy(wishes.proxy.resolution, epochs, used, wishes.proxy.of)


def count_candidates(plan: Plan, spent_s: float, evaluation_s: float, trust: float = 1.0) -> int:
    """Return how many candidates the search evaluates, those of the pilot included.

    The less their accuracies can be trusted, the less time new candidates get. What they do not take, the training of
    the winner gets.

    Args:
        plan: The plan.
        spent_s: What the pilot took.
        evaluation_s: The mean time of an evaluation.
        trust: The share of the time that new candidates may take, see `Pilot.trust`.
    """
    if plan.trials:
        return plan.trials
    left_s = plan.ranking_s - spent_s - FINALIST_EVALUATIONS * evaluation_s
    wanted = plan.networks + max(FEWEST_NEW, int(trust * left_s / evaluation_s))
    return max((count for count in COUNTS if count <= wanted), default=wanted)


@dataclass(frozen=True)
class Described:
    """A line of the printed plan."""

    part: str
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"  {self.part:<11} {format_duration(self.seconds):<9} {self.text}".rstrip()


def describe_plan(plan: Plan, pilot: Sequence[Architecture], trained: Sequence[str]) -> list[str]:
    """Return the lines that explain a plan before anything is trained.

    Args:
        plan: The plan.
        pilot: The networks of the pilot.
        trained: The names of what the final training trains.
    """
    means = [fmean(plan.cost.training_s(arch, level) for arch in pilot) for level in plan.levels]
    shortest, longest = plan.levels[0], plan.levels[-1]
    pilot_s = SEEDS * len(pilot) * sum(means)
    few = count_candidates(plan, pilot_s, means[-1], trust=0.0)
    many = count_candidates(plan, SEEDS * len(pilot) * means[0], means[0])
    finalists_s = FINALIST_EVALUATIONS * means[-1]
    epochs = f", about {max(1, int(plan.final_s / plan.epoch_s))} epochs" if plan.epoch_s else ""
    counted = f"{few}" if few == many else f"{few} to {many}"
    lines = [
        Described("table", plan.before_s, "the latency table of the device, done"),
        Described(
            "pilot", pilot_s, f"at most: {len(pilot)} networks with {SEEDS} seeds, {describe_levels(plan.levels)}"
        ),
        Described("candidates", max(0.0, plan.ranking_s - pilot_s - finalists_s), f"{counted}, as the pilot decides"),
        Described("finalists", finalists_s, "evaluated again with other seeds"),
        Described("training", plan.final_s, f"{' and '.join(trained)}{epochs}, at the deployed resolution"),
    ]
    speed = 1 / fmean(plan.cost.training_s(arch, longest) / longest.images_seen for arch in pilot)
    title = f"plan for {format_duration(plan.budget_s)}; this machine trains {speed:.0f} images/s at "
    return [f"{title}{shortest.resolution} px", *map(str, lines)]


def describe_levels(levels: Sequence[Proxy]) -> str:
    """Return the budgets of evaluations in words."""
    seen = [level.images_seen for level in levels]
    if len(seen) == 1:
        return f"{seen[0]:,} images each"
    return f"{seen[0]:,} to {seen[-1]:,} images each"
