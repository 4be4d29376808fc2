"""The pilot: trains a few networks at growing budgets, and certifies how well evaluations tell candidates apart.

A latency table is checked on networks that it has not seen. The pilot does the same for accuracies: it trains networks
from all strata of the space with two seeds each, the cheapest budget first, and stops at the first budget whose
reliability suffices. The search uses that budget, and the pilot's networks are its first candidates.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from nas.architecture import Architecture
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Executor, Task, evaluate_all
from nas.evaluators.rank_check.reference_trainings import ReferenceTrainings, Training
from nas.networks.network import totals, trace
from nas.searching.budget.plan import SEEDS, Plan
from nas.spaces.sampling import distinct_networks, one_per_stratum
from nas.spaces.search_space import Choices, Searched
from nas.spaces.trainings import Proxy
from nas.study.reliability import Reliability, measure_reliability
from nas.utils.reporting import Reporter
from nas.utils.units import format_duration

NETWORKS = 8
"""The networks of the pilot."""
LEAST_LOW = 0.3
"""An evaluation suffices only if the interval of its reliability begins above this.

The cheapest budget that seems reliable is partly lucky, and good candidates differ less than random networks."""
SATURATED = 0.995
"""If no network is below this, their accuracies cannot tell them apart, and more training will not help."""
MOST_SHARE = 0.85
"""The pilot tries no further budget if that would take it beyond this share of the time for ranking."""
FEWEST = 3
"""With fewer networks than this, nothing can be said about the reliability."""
SAMPLES = 20
"""Random networks that are sorted into strata, for each network of the pilot."""
ATTEMPTS = 40
"""Draws for each of them. A tight target may admit few networks."""
ABOVE_CHANCE = 2.0
"""An evaluation suffices if every network is this many deviations above chance."""


@dataclass(frozen=True)
class Level:
    """What the pilot found at one budget of an evaluation.

    Attributes:
        proxy: The budget.
        reliability: How well evaluations tell networks apart; None if too few networks could be trained.
        lowest: The lowest mean accuracy of a network.
        highest: The highest mean accuracy of a network.
        agreement: Spearman's rank correlation of the networks' means with those of the last budget.
        evaluation_s: The mean time of an evaluation; predicted if all were recorded already.
    """

    proxy: Proxy
    reliability: Reliability | None
    lowest: float
    highest: float
    evaluation_s: float
    agreement: float | None = None

    def suffices(self, wanted: float, chance: float) -> bool:
        """Return whether the reliability is surely high enough, and every network is clearly better than chance."""
        found = self.reliability
        if found is None or found.reliability < wanted or found.low < min(LEAST_LOW, wanted):
            return False
        return self.lowest > chance + ABOVE_CHANCE * found.noise

    @property
    def is_saturated(self) -> bool:
        """Whether every network is right on nearly all images."""
        return self.reliability is not None and self.lowest >= SATURATED

    def to_dict(self) -> dict[str, Any]:
        """Return the level as results record it."""
        found = self.reliability.to_dict() if self.reliability else {"reliability": None}
        budget = {"resolution": self.proxy.resolution, "epochs": self.proxy.epochs, "images": self.proxy.images}
        facts = {"lowest": self.lowest, "highest": self.highest, "agreement_with_longest": self.agreement}
        return {
            **found,
            **facts,
            "budget": {**budget, "images_seen": self.proxy.images_seen, "seconds": self.evaluation_s},
        }


@dataclass(frozen=True)
class Pilot:
    """The result of a pilot, as a run records it.

    Attributes:
        proxy: The budget that the search uses.
        certificate: The certificate of the evaluator, as `result.json` holds it.
        evaluation_s: The mean time of an evaluation.
        recorded: The curves of the evaluations at this budget, by (digest, seed).
    """

    proxy: Proxy
    certificate: dict[str, Any]
    evaluation_s: float
    recorded: dict[tuple[str, int], tuple[float, ...]]

    @property
    def trust(self) -> float:
        """The reliability as a share of the wanted one, at most 1; 1 if latencies decide or nothing is known."""
        found = self.certificate
        if not found or found["saturated"] or found["reliability"] is None or not found["wanted"]:
            return 1.0
        return min(1.0, float(found["reliability"] / found["wanted"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the pilot as JSON values."""
        curves = [[digest, seed, list(curve)] for (digest, seed), curve in self.recorded.items()]
        facts = {"certificate": self.certificate, "evaluation_s": self.evaluation_s}
        return {"proxy": asdict(self.proxy), **facts, "recorded": curves}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pilot:
        """Return the pilot of a mapping from `to_dict`."""
        recorded = {(digest, seed): tuple(curve) for digest, seed, curve in data["recorded"]}
        return cls(Proxy(**data["proxy"]), data["certificate"], data["evaluation_s"], recorded)


Network = tuple[Architecture, Choices]
Curves = dict[tuple[str, int], tuple[float, ...]]
"""The curves of trainings by (digest, seed)."""
MakeLevel = Callable[[Proxy], "LevelSetup"]


@dataclass(frozen=True)
class LevelSetup:
    """What the pilot trains with at one budget.

    Attributes:
        evaluator: The evaluator at this budget.
        executor: Makes the executor of the trainings.
        trainings: The trainings that are recorded already; receives new ones.
    """

    evaluator: Evaluator
    executor: Callable[[], Executor]
    trainings: ReferenceTrainings


def pilot_networks(
    space: Searched, is_feasible: Callable[[Architecture], bool], seed: int, count: int = NETWORKS
) -> list[Network]:
    """Return up to `count` feasible networks with their choices, one from each stratum of MACs.

    Args:
        space: The search space.
        is_feasible: Whether a network is within a latency target.
        seed: Selects the networks.
        count: The number of strata.
    """
    rng = random.Random(f"{space.name} pilot {seed}")
    drawn = distinct_networks(space, SAMPLES * count, rng, ATTEMPTS, is_feasible)
    drawn.sort(key=lambda network: totals(trace(network[0])).macs)
    return one_per_stratum(drawn, count, rng)


def run_pilot(
    plan: Plan,
    networks: Sequence[Network],
    make_level: MakeLevel,
    seed: int,
    wanted: float,
    chance: float,
    reporter: Reporter,
) -> Pilot:
    """Train the networks at one budget after the other until the reliability suffices, and return what was found.

    If no budget of the plan suffices, the longest one is used. If all networks are right on nearly all images, no
    longer one is tried. Every training is recorded as soon as it ends.

    Args:
        plan: The budgets to try.
        networks: The networks.
        make_level: Makes what trains at a budget.
        seed: The first seed; each further seed is one higher.
        wanted: The reliability that suffices.
        chance: The value of the metric for a network that ignores the images.
        reporter: Prints the results and the progress.
    """
    archs, seeds = [arch for arch, _ in networks], range(seed, seed + SEEDS)
    levels: list[Level] = []
    curves: list[Curves] = []
    begun = time.monotonic()
    for proxy in plan.levels:
        if levels and time.monotonic() - begun + _level_s(levels[-1], proxy, networks) > MOST_SHARE * plan.ranking_s:
            reporter.say("pilot: trainings take longer than measured before; there is no time for a longer budget")
            break
        setup = make_level(proxy)
        predicted_s = fmean(plan.cost.training_s(arch, proxy) for arch in archs)
        found, seconds = _train(setup, archs, seeds, reporter, describe_budget(proxy))
        curves.append(found)
        levels.append(_judge(proxy, archs, found, seeds, seconds or predicted_s))
        reporter.say(f"pilot: {describe_level(levels[-1], chance)}")
        if levels[-1].suffices(wanted, chance) or levels[-1].is_saturated:
            break
    agreeing = (_with_agreement(*pair, curves[-1], archs, seeds) for pair in zip(levels, curves, strict=True))
    return _certified(list(agreeing), curves, wanted, chance)


def _certified(levels: Sequence[Level], curves: Sequence[Curves], wanted: float, chance: float) -> Pilot:
    """Return the pilot with the cheapest level that suffices, else with the longest."""
    suffice = (at for at, level in enumerate(levels) if level.suffices(wanted, chance))
    chosen = next(suffice, len(levels) - 1)
    level = levels[chosen]
    certificate = {
        **level.to_dict(),
        "wanted": wanted,
        "suffices": level.suffices(wanted, chance),
        "saturated": level.is_saturated,
        "chance": chance,
        "levels": [each.to_dict() for each in levels],
    }
    return Pilot(level.proxy, certificate, level.evaluation_s, curves[chosen])


def _level_s(last: Level, proxy: Proxy, networks: Sequence[Network]) -> float:
    """Return the seconds that a budget takes, given what the last one took."""
    longer = proxy.images_seen / last.proxy.images_seen
    return SEEDS * len(networks) * last.evaluation_s * longer


def _train(
    setup: LevelSetup, archs: Sequence[Architecture], seeds: Sequence[int], reporter: Reporter, what: str
) -> tuple[Curves, float]:
    """Return the curve of each training, and the mean time of one; 0 if all were recorded. Failed ones are left out."""
    trainings = setup.trainings
    missing = trainings.missing(archs, seeds)
    begun, failed = time.monotonic(), 0
    if missing:
        executor = setup.executor()
        try:
            with reporter.task(f"pilot, {what}", len(missing)) as advance:
                for outcome in evaluate_all(executor, [Task(arch, seed) for arch, seed in missing]):
                    arch, number = outcome.task.architecture, outcome.task.seed
                    if outcome.error is None:
                        trainings.add(Training(arch, number, outcome.curve, outcome.processor_s))
                    else:
                        failed += 1
                        reporter.warn(f"pilot: {arch.digest} with seed {number} failed: {outcome.error}")
                    advance(1)
        finally:
            executor.close()
    done = trainings.trainings
    keys = [(arch.digest, seed) for arch in archs for seed in seeds]
    seconds = (time.monotonic() - begun) / (len(missing) - failed) if len(missing) > failed else 0.0
    return {key: done[key].curve for key in keys if key in done}, seconds


def _means(
    archs: Sequence[Architecture], found: Mapping[tuple[str, int], Sequence[float]], seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Return the accuracies of each network that was trained with all seeds."""
    groups = {
        arch.digest: [found[arch.digest, seed][-1] for seed in seeds if (arch.digest, seed) in found] for arch in archs
    }
    return {digest: values for digest, values in groups.items() if len(values) == len(seeds)}


def _judge(
    proxy: Proxy,
    archs: Sequence[Architecture],
    found: Mapping[tuple[str, int], Sequence[float]],
    seeds: Sequence[int],
    evaluation_s: float,
) -> Level:
    groups = _means(archs, found, seeds)
    means = [fmean(values) for values in groups.values()] or [0.0]
    reliability = measure_reliability(list(groups.values())) if len(groups) >= FEWEST else None
    return Level(proxy, reliability, min(means), max(means), evaluation_s)


def _with_agreement(
    level: Level,
    found: Mapping[tuple[str, int], Sequence[float]],
    longest: Mapping[tuple[str, int], Sequence[float]],
    archs: Sequence[Architecture],
    seeds: Sequence[int],
) -> Level:
    """Return the level with its rank agreement with the last one; None for the last one itself."""
    from scipy.stats import spearmanr

    own, other = _means(archs, found, seeds), _means(archs, longest, seeds)
    both = sorted(own.keys() & other.keys())
    pairs = [(fmean(own[digest]), fmean(other[digest])) for digest in both]
    if found is longest or len(both) < FEWEST or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return level
    rho = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return replace(level, agreement=rho)


def describe_budget(proxy: Proxy) -> str:
    """Return the budget of an evaluation in words: "3,200 images (2 x 1,600) at 64 px"."""
    passes = f" ({proxy.epochs} x {proxy.images:,})" if proxy.epochs > 1 else ""
    share = f"/{proxy.of} of its own resolution" if proxy.of else " px"
    return f"{proxy.images_seen:,} images{passes} at {proxy.resolution}{share}"


def describe_level(level: Level, chance: float) -> str:
    """Return in one line what the pilot found at a budget."""
    found = level.reliability
    text = f"{describe_budget(level.proxy)}, {format_duration(level.evaluation_s)} each: "
    if found is None:
        return f"{text}too few networks could be trained to tell the reliability"
    spread = f"standard deviation {found.noise:.1%} between seeds, {found.between:.1%} between networks"
    reach = f"accuracies {level.lowest:.1%} to {level.highest:.1%}, chance {chance:.1%}"
    return f"{text}reliability {found}; {spread}; {reach}"
