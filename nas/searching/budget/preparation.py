"""Prepares a search within a total time: its plan, its pilot, and how its candidates are evaluated."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.rank_check.reference_trainings import ReferenceTrainings
from nas.networks.block_schema import block_sources
from nas.searching.budget.pilot import FEWEST, LEAST_LOW, LevelSetup, Network, Pilot, pilot_networks, run_pilot
from nas.searching.budget.plan import Plan, Wishes, count_candidates, describe_plan, make_plan
from nas.searching.budget.plots import draw_pilot
from nas.searching.budget.stopwatch import Stopwatch
from nas.searching.budget.training_cost import measure_training_cost
from nas.searching.context import SearchContext
from nas.searching.cost_predictors import CostPredictors
from nas.spaces.automaton import block_names
from nas.spaces.identity import hex_digest
from nas.spaces.trainings import Proxy
from nas.study.reliability import POOR, Reliability
from nas.study.study import Repeat, Study
from nas.training.tasks.metrics import spell
from nas.utils.paths import user_cache
from nas.utils.units import format_duration

PLAN, PILOT = "plan", "pilot"
"""The names under which a study stores the plan and the result of the pilot."""
MOST_TIMES = 16
"""A budget this many times as long is the longest that is proposed."""
LEARNS_AFTER = 4
"""If all networks are near chance, their differences say nothing yet: this many times the budget is proposed."""


def prepare(context: SearchContext, study: Study, costs: CostPredictors) -> SearchContext:
    """Return the context with everything that the plan and the pilot decide. Without a budget, return it as it is.

    Raises:
        UsageError: The budget is too short.
    """
    if context.budget_s is None or context.settings.worker:
        return context if context.budget_s is None else _joined(context, study)
    watch = Stopwatch.of(study, context.started)
    goals = context.objective.goals
    networks = pilot_networks(context.space, lambda arch: costs.hold_a_target(arch, goals), context.settings.seed)
    context = replace(context, space=replace(context.space, proxy=_proxy(context)), stopwatch=watch)
    with watch.part("pilot"):
        plan = _plan(context, study, networks, watch.total_s)
        pilot = _pilot(context, study, plan, networks)
    trials = count_candidates(plan, watch.spent["pilot"], pilot.evaluation_s, pilot.trust)
    if (stored := study.fact(PILOT)) and "trials" in stored:
        trials = context.settings.trials or stored["trials"]
    else:
        study.record_fact(PILOT, {**pilot.to_dict(), "trials": trials})
        if pilot.certificate:
            draw_pilot(pilot.certificate, study.folder / "pilot.png", spell(context.task.metric))
        _report_choice(context, plan, pilot, trials)
    return _settled(context, pilot, trials, networks)


def _settled(context: SearchContext, pilot: Pilot, trials: int, networks: Sequence[Network] = ()) -> SearchContext:
    """Return the context with the decisions of the pilot."""
    space = replace(context.space, proxy=pilot.proxy)
    first = {arch.digest: choices for arch, choices in networks}
    return replace(
        context, settings=replace(context.settings, trials=trials), space=space, pilot=pilot,
        recorded={**context.recorded, "trials": trials}, pilot_networks=first,
    )  # fmt: skip


def _joined(context: SearchContext, study: Study) -> SearchContext:
    """Return the context of a process that only evaluates candidates, once another process has made the decisions."""
    has_waited = False
    while not (stored := study.fact(PILOT)) or "trials" not in stored:
        if not has_waited:
            context.reporter.say(f"{study.folder}: waiting for the process that makes the plan and runs the pilot")
        has_waited = True
        time.sleep(1.0)
    return _settled(context, Pilot.from_dict(stored), stored["trials"])


def _proxy(context: SearchContext) -> Proxy:
    """Return the space's proxy. If networks differ in resolution, each trains at the same share of its own."""
    space, settings = context.space, context.settings
    largest = max(space.resolution)
    resolution = settings.proxy_resolution or default_resolution(largest)
    return Proxy(min(resolution, largest), 1, 0, largest if len(space.resolution) > 1 else 0)


def default_resolution(deployed: int) -> int:
    """Return the resolution in pixels at which candidates are trained, for networks deployed at `deployed` pixels.

    At half of it, a training takes a quarter of the time. Below 64 px, networks of stride 32 have one or two pixels
    left, so small inputs are not reduced further.
    """
    return deployed if deployed <= 64 else max(64, round(deployed / 64) * 32)


def _plan(context: SearchContext, study: Study, networks: Sequence[Network], spent_s: float) -> Plan:
    """Return the stored plan, or a new one, which is printed before anything is trained."""
    settings, reporter, task = context.settings, context.reporter, context.task
    assert context.budget_s is not None
    if stored := study.fact(PLAN):
        return Plan.from_dict(stored)
    archs = [arch for arch, _ in networks or pilot_networks(context.space, lambda _: True, settings.seed)]
    wishes = Wishes(context.space.proxy, settings.proxy_epochs, settings.proxy_images, settings.trials)
    sample = [archs[0], archs[len(archs) // 2], archs[-1]]
    cost = measure_training_cost(sample, context.space.proxy, task)
    winner_s = cost.image_s(archs[len(archs) // 2].at(max(context.space.resolution)))
    beside_s = [min(winner_s, cost.image_s(arch)) for arch in _references(context).values()]
    epoch_s = settings.final_seeds * cost.images * (winner_s + sum(beside_s))
    plan = make_plan(context.budget_s, spent_s, archs, cost, wishes, task.num_classes, epoch_s)
    for line in describe_plan(plan, archs, ["the winner", *_references(context)]):
        reporter.say(line)
    study.record_fact(PLAN, plan.to_dict())
    return plan


def _references(context: SearchContext) -> dict[str, Architecture]:
    """Return the references of all goals at the deployed resolution, by name."""
    resolution = max(context.space.resolution)
    return {each.name: each.at(resolution) for goal in context.objective.goals for each in context.references.of(goal)}


def _pilot(context: SearchContext, study: Study, plan: Plan, networks: Sequence[Network]) -> Pilot:
    """Return the stored result of the pilot, or run it. With too few networks, the longest budget is used."""
    settings, task = context.settings, context.task
    if stored := study.fact(PILOT):
        return Pilot.from_dict(stored)
    if len(networks) < FEWEST:
        context.reporter.warn(f"{len(networks)} random networks hold the target: too few for a pilot")
        evaluation_s = max((plan.cost.training_s(arch, plan.levels[-1]) for arch, _ in networks), default=1.0)
        return Pilot(plan.levels[-1], {}, evaluation_s, {})
    base = task.chance

    def make_level(proxy: Proxy) -> LevelSetup:
        leveled = replace(context, space=replace(context.space, proxy=proxy))
        evaluator = leveled.make_evaluator()

        def make_executor() -> Executor:
            return leveled.make_executor() or InProcessExecutor(evaluator)

        return LevelSetup(evaluator, make_executor, _trainings(leveled, evaluator))

    return run_pilot(plan, networks, make_level, settings.seed, settings.reliability, base, context.reporter)


def _trainings(context: SearchContext, evaluator: Any) -> ReferenceTrainings:
    """Return the recorded trainings of pilots of the same space, data and settings, in the user's cache."""
    import torch

    assert isinstance(evaluator, ProxyTraining)
    settings = {
        "space": context.space.key,
        "data": context.task.data.name,
        **evaluator.settings,
        "images": evaluator.digest,
        "fit": context.task.fit,
        **context.images.identity,
        **block_sources(block_names(context.space)),
        "threads": torch.get_num_threads(),
        "workers": context.settings.workers,
        "torch": torch.__version__,
    }
    name = hex_digest(json.dumps(settings, sort_keys=True))
    path: Path = user_cache() / "pilots" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return ReferenceTrainings.open(path, settings)


def _report_choice(context: SearchContext, plan: Plan, pilot: Pilot, trials: int) -> None:
    """Report which budget candidates get, and warn if it does not suffice."""
    found, reporter = pilot.certificate, context.reporter
    by_pilot = len({digest for digest, _ in pilot.recorded})
    reporter.say(
        f"each candidate sees {pilot.proxy.images_seen:,} images at {pilot.proxy.resolution} px, "
        f"{format_duration(pilot.evaluation_s)}; {trials} candidates, {by_pilot} of them trained by the pilot"
        + (": few, because their accuracies say little" if pilot.trust < 1 and not context.settings.trials else "")
    )
    if found and found["saturated"]:
        reporter.say("all networks of the pilot are right on nearly all validation images: their latencies decide")
    elif found and not found["suffices"]:
        reporter.warn(f"{describe_doubt(found)}; {_advice(plan, found)}")


def _advice(plan: Plan, certificate: dict[str, Any]) -> str:
    """Return which budget would do. More training reduces the noise about as averaging does."""
    if certificate["reliability"] is None:
        return "see the warnings above"
    found = Reliability.from_dict(certificate)
    times = max(2, found.times_for(certificate["wanted"]))
    if times > MOST_TIMES and found.mean < (1 + certificate["chance"]) / 2:
        longer = plan.before_s + LEARNS_AFTER * (plan.budget_s - plan.before_s)
        learned = f"{found.mean:.0%} right where chance is {certificate['chance']:.0%}"
        advice = f"--budget {format_duration(longer)} lets them differ more"
        return f"the networks have learned little yet ({learned}); {advice}"
    if times > MOST_TIMES:
        return "a longer budget will hardly help: the networks of this space differ too little on these images"
    return f"--budget {format_duration(plan.before_s + times * (plan.budget_s - plan.before_s))} would probably do"


def describe_doubt(certificate: dict[str, Any]) -> str:
    """Return in words why a budget does not suffice."""
    reliability, wanted = certificate["reliability"], certificate["wanted"]
    if reliability is None or reliability < wanted:
        known = "unknown" if reliability is None else f"{reliability:.2f}"
        noise = "mostly noise" if reliability is None or reliability < POOR else "noisy"
        return f"the accuracies of candidates are {noise}: reliability {known}, {wanted:g} was asked for"
    if certificate["low"] < LEAST_LOW:
        return f"the reliability of the accuracies is uncertain: {Reliability.from_dict(certificate)}"
    return "some candidates are not clearly better than chance"


def record_pilot_repeats(context: SearchContext, study: Study) -> None:
    """Add the pilot's trainings with further seeds to the study, for candidates that it holds."""
    if context.pilot is None:
        return
    complete = {trial.digest for trial in study.trials}
    for (digest, seed), curve in context.pilot.recorded.items():
        if digest in complete and seed != context.settings.seed and (digest, seed, 1) not in study.repeats:
            study.record_repeat(Repeat(digest, seed, 1, 0, curve))


def spent_budget(context: SearchContext) -> dict[str, Any] | None:
    """Return the total time and the seconds of each part as `result.json` holds them; None without a budget."""
    if context.stopwatch is None or context.budget_s is None:
        return None
    watch = context.stopwatch
    context.reporter.say(f"took {format_duration(watch.total_s)} of {format_duration(context.budget_s)}")
    return {"seconds": context.budget_s, "spent": {**watch.spent, "total": round(watch.total_s, 3)}}
