"""The main job: tables, spans, search, the winner of each goal (`nas/winners.py`), result."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from nas.architecture import Architecture
from nas.controllers.base import Problem
from nas.errors import UsageError
from nas.evaluators import Evaluator
from nas.evaluators.executors.ray import check_cluster
from nas.evaluators.rank_check.records import describe_record, find_record
from nas.networks.network import trace
from nas.searching.cost_predictors import CostPredictors, make_cost_predictors
from nas.searching.loop import SearchPlan, search
from nas.searching.prior_runs import PriorSource, make_prior_knowledge, prior_identity, read_sources
from nas.searching.result import finished_result, front_facts, goal_facts, run_facts
from nas.searching.settings import (
    SearchSettings,
    check_controller,
    identity,
    make_controller,
    make_evaluator,
    make_executor,
    make_experiment_objective,
    make_experiment_rungs,
    only_reads,
    resolve_space,
    shown,
)
from nas.searching.settings_check import check
from nas.searching.table_selection import (
    SelectedTable,
    given_identity,
    published_identity,
    select_tables,
    table_identity,
)
from nas.searching.winners import FinishedSearch, find_winners
from nas.spaces.cost_tables import tabulate_costs
from nas.spaces.encoded_space import encode_space
from nas.spaces.latency_distribution import count_within, latency_distribution
from nas.spaces.search_space import Space
from nas.study.objectives import Goal, Objective
from nas.study.ranking import ReferencePoint
from nas.study.study import FINISH, RESULT, Study, check_run, open_study
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import check_images
from nas.utils.files import exclusive, write_json
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

MAKING = "evaluator.lock"
NEVER_CHECKED = "was never checked in this space on this data: `nas check-proxy` tells how well it ranks"


@dataclass(frozen=True)
class Span:
    """What a space spans on a device, by its table, in ms: over its distinct networks, all of them."""

    fastest_ms: float
    median_ms: float
    slowest_ms: float


def run_search(experiment: SearchSettings, reporter: Reporter) -> dict[str, Any]:
    """Do the whole job and return what `result.json` holds. Raises NasError for whatever is wrong in the input."""
    check(experiment)
    space = resolve_space(experiment)
    task = Classification.load(experiment.data, experiment.data_root)
    space = space.for_classes(task.num_classes)
    trace(space.decode(space.sample(random.Random(0))).at(space.proxy.resolution))
    make_experiment_rungs(experiment, task, space)  # raises where there cannot be any
    check_controller(experiment, space)
    settings = {**identity(experiment, space, task), **published_identity(experiment)}
    sources = read_sources(experiment.starts, space, settings, experiment.folder)
    settings |= prior_identity(sources)
    check_run(experiment.folder, {**settings, **given_identity(experiment, space)}, experiment.storage)
    if finished := finished_result(experiment, experiment.trials):
        reporter.say(f"{experiment.folder}: finished on {finished['date']}; more --trials would continue it")
        return finished
    if experiment.ray:
        check_cluster(experiment.ray, experiment.ray_cpus, experiment.ray_gpus)
    check_images((task.data.train, task.data.validation, task.data.test), reporter)
    evaluator = make_evaluator(experiment, task, space, reporter) if only_reads(experiment) else None
    tables = select_tables(experiment, space, reporter)
    settings |= table_identity(tables)
    objective = make_experiment_objective(experiment)
    spans = [reach_of(space, ready, goals_on(objective, device), reporter) for device, ready in enumerate(tables)]
    forecast = make_cost_predictors([ready.predictor for ready in tables], space, objective.axes)
    with open_study(experiment.folder, settings, space, objective.directions, experiment.storage) as study:
        with exclusive(study.folder / MAKING):  # one trains what serves all, the others find it
            evaluator = evaluator or make_evaluator(experiment, task, space, reporter)
        checked = say_conditions(experiment, space, task, evaluator, forecast, reporter)
        try_candidates(experiment, space, task, study, evaluator, objective, forecast, sources, reporter)
        if experiment.worker:
            return {"trials": study.count, "evaluated": study.ended_here, "run": str(study.folder)}
        with finishing(experiment, study, reporter) as finished:
            if finished:
                return finished
            ended = FinishedSearch(experiment, space, task, study, evaluator, objective, tables, reporter)
            result = {**conclude(ended, forecast.worst, spans), "evaluator_check": checked}
            write_json(study.folder / RESULT, result)
    return result


@contextlib.contextmanager
def finishing(experiment: SearchSettings, study: Study, reporter: Reporter) -> Iterator[dict[str, Any] | None]:
    """Let one process of a run's folder name the winner; the others wait for it and are given its result."""
    waited = False

    def waits() -> None:
        nonlocal waited
        waited = True
        reporter.say(f"{study.folder}: another process measures the finalists and trains the winner: waiting for it")

    with exclusive(study.folder / FINISH, waits):
        study.refresh()
        study.refresh_repeats()
        yield finished_result(experiment, min(experiment.trials, study.count)) if waited else None


def try_candidates(
    experiment: SearchSettings,
    space: Space,
    task: Classification,
    study: Study,
    evaluator: Evaluator,
    objective: Objective,
    forecast: CostPredictors,
    sources: Sequence[PriorSource],
    reporter: Reporter,
) -> None:
    """Fill the study with candidates, as many as the experiment asks for, told what `sources` know."""
    problem = Problem(encode_space(space, forecast.layer_ms), objective)
    start = make_prior_knowledge(sources, objective, forecast.predict, reporter, forecast.extra_metrics)
    feasible = partial(is_feasible, objective, forecast)
    controller = make_controller(experiment, space, problem, task, feasible, start, lambda: study.digests, reporter)
    rungs = make_experiment_rungs(experiment, task, space)
    plan = SearchPlan(
        space, controller, evaluator, objective, forecast.predict, rungs, start.digests,
        executor=make_executor(experiment, task, space, reporter), extra_metrics=forecast.extra_metrics,
        reference=forecast.worst,
    )  # fmt: skip
    search(plan, study, experiment.trials, experiment.seed, reporter, experiment.retry_failed)


def conclude(ended: FinishedSearch, worst: ReferencePoint | None, spans: Sequence[Span]) -> dict[str, Any]:
    """Find the winner of each goal and return what the result holds, but for the evaluator's check."""
    objective, space = ended.objective, ended.space
    spread = front_facts(ended.study, objective, worst) if worst else {}
    found = find_winners(ended, spread.get("hypervolume", ()))
    goals = goal_facts(objective, found, ended.tables, [asdict(span) for span in spans], space)
    result = {**run_facts(ended.experiment, ended.study, objective), **spread}
    settings = {**shown(ended.experiment), "final": asdict(space.final), "proxy": ended.evaluator.settings}
    if len(goals) == 1:  # not in a list, as results have always been
        settings |= {key: goals[0].pop(key) for key in ("training", "span_ms", "table")}
    return {**result, **(goals[0] if len(goals) == 1 else {"goals": goals}), "settings": settings}


def goals_on(objective: Objective, device: int) -> list[Goal]:
    """Return the goals of one device."""
    return [goal for goal in objective.goals if goal.device == device]


def is_feasible(objective: Objective, forecast: CostPredictors, arch: Architecture) -> bool:
    """Whether a network holds the target of any goal, by prediction."""
    return any(forecast.predictors[goal.device].predict(arch) <= goal.target_ms for goal in objective.goals)


def say_conditions(
    experiment: SearchSettings,
    space: Space,
    task: Classification,
    evaluator: Evaluator,
    forecast: CostPredictors,
    reporter: Reporter,
) -> dict[str, Any] | None:
    """Say what becomes of a candidate and how far to trust that; return the evaluator's check, if there was one."""
    table = forecast.predictors[0].table
    reporter.say(
        f"candidates {evaluation_words(experiment, space)} on {task.data.name}; "
        f"latencies are of {'/'.join(map(str, space.resolution))} px in {table.header['runtime']}"
    )
    if forecast.memory:
        reporter.say(f"peak memory is predicted with a mean error of {forecast.memory.error:.1%} on measured networks")
    checked = find_record(space.key, task.data.name, evaluator.settings)
    reporter.say(f"{experiment.evaluator}: {describe_record(checked) if checked else NEVER_CHECKED}")
    return checked


def evaluation_words(experiment: SearchSettings, space: Space) -> str:
    """Return what becomes of a candidate, as a part of a sentence."""
    if experiment.evaluator == "proxy_training":
        return f"train for {space.proxy.epochs} epochs at {space.proxy.resolution} px"
    source = f" of {experiment.source}" if experiment.source else ""
    return f"are evaluated by {experiment.evaluator}{source}, the winner is trained"


def reach_of(space: Space, ready: SelectedTable, goals: Sequence[Goal], reporter: Reporter) -> Span:
    """Say what the space spans on the device; raise UsageError where nothing in it meets one of the device's goals."""
    compiled = tabulate_costs(space, ready.predictor.layer_ms)
    span = Span(compiled.min_cost, latency_distribution(compiled).quantile(0.5), compiled.max_cost)
    spelled = " / ".join(format_latency(ms) for ms in (span.fastest_ms, span.median_ms, span.slowest_ms))
    shares = " and ".join(
        f"{count_within(compiled, goal.target_ms).likely / compiled.size:.1%} of it is within "
        f"{format_latency(goal.target_ms)}"
        for goal in goals
    )
    reporter.say(f"{space.name} on {ready.place}: {spelled} (fastest / median / slowest); {shares}")
    for goal in goals:
        if goal.target_ms < span.fastest_ms:
            raise UsageError(
                f"--target-latency: the fastest network of '{space.name}' takes {format_latency(span.fastest_ms)} "
                f"on {ready.place}: '{format_latency(goal.target_ms)}' is out of reach"
            )
    return span
