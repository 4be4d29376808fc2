"""The main job of `nas search`: resolve settings, select tables, search, and find the winner of each goal."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from nas.architecture import Architecture
from nas.controllers import Controller
from nas.controllers.base import Problem
from nas.devices.runtimes import computes, is_exact
from nas.errors import located
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.executors.ray import check_cluster
from nas.evaluators.executors.replay import ReplayExecutor
from nas.evaluators.proxy_training import CHECKPOINTS
from nas.evaluators.rank_check.records import describe_record, find_record
from nas.networks.block_check import check_blocks
from nas.networks.blocks import is_ours
from nas.networks.network import trace
from nas.searching.against.choice import choose_references, is_foreign
from nas.searching.budget.certificate import certificate_of
from nas.searching.budget.final_training import final_settings
from nas.searching.budget.preparation import prepare, record_pilot_repeats, spent_budget
from nas.searching.context import SearchContext, resolve
from nas.searching.cost_predictors import CostPredictors, make_cost_predictors
from nas.searching.evaluation import largest_choices
from nas.searching.failed_exports import check_exported, export_missing
from nas.searching.identity import digests_identity, given_tables_identity, report_corrected_source
from nas.searching.loop import SearchPlan, search
from nas.searching.prior_runs import PriorKnowledge, PriorSource, make_prior_knowledge, source_of_network
from nas.searching.result import FrontRecord, SearchResult, read_finished, write_result
from nas.searching.settings import SearchSettings
from nas.searching.table_selection import LatencySpan, SelectedTable, check_reach, select_tables
from nas.searching.warm_start import WarmStart, best_of_random
from nas.searching.winners import FinishedSearch, find_winners
from nas.spaces.automaton import block_names, reachable
from nas.spaces.encoded_space import encode_space
from nas.spaces.resolutions import sizes_of
from nas.spaces.yaml_format import load_space
from nas.study.study import FINISH, Study, check_run, open_study
from nas.training.deployed_network import must_deploy
from nas.training.tasks.image_datasets import check_images
from nas.training.tasks.metrics import spell
from nas.utils.files import check_writable, exclusive
from nas.utils.reporting import Reporter

EVALUATOR_LOCK, PLAN_LOCK = "evaluator.lock", "plan.lock"
WARM_SHARE = 16
"""A warm start evaluates the best sixteenth of its samples, at least one. The share does not depend on --trials."""


def run_search(settings: SearchSettings, reporter: Reporter, started: float | None = None) -> dict[str, Any]:
    """Run a whole search and return what `result.json` holds. Raises NasError for bad input."""
    context = resolve(settings, reporter, started)
    settings = context.settings
    check_run(settings.folder, {**context.identity, **given_tables_identity(settings, context.space)}, settings.storage)
    if finished := read_finished(settings, settings.trials):
        more = "" if context.budget_s else "; more --trials would continue it"
        reporter.say(f"{settings.folder}: finished on {finished['date']}{more}")
        return finished
    check_writable(settings.folder)
    report_corrected_source(settings.folder, context.identity, reporter)
    check_environment(context)
    if exported := export_missing(settings, context.task, reporter):
        return exported
    evaluator = context.make_evaluator() if context.evaluator_only_reads else None
    tables = select_tables(context)
    spans = tuple(span_of(context, tables, device) for device in range(len(tables)))
    costs = make_cost_predictors([table.predictor for table in tables], context.space, context.objective.axes)
    context = replace(context, references=choose_references(context, tables))
    identity = {
        **context.identity,
        **context.references.identity,
        **digests_identity([each.digest for each in tables], [each.table.path for each in tables]),
    }
    directions = context.objective.directions
    with open_study(settings.folder, identity, context.space, directions, settings.storage) as study:
        context.images.write(study.folder)
        with exclusive(study.folder / PLAN_LOCK):
            context = prepare(context, study, costs)
        with exclusive(study.folder / EVALUATOR_LOCK):  # one process trains what all share, the others load it
            evaluator = evaluator or context.make_evaluator()
        checked = report_conditions(context, evaluator, costs)
        with context.timed("candidates"):
            evaluate_candidates(context, study, evaluator, costs)
        record_pilot_repeats(context, study)
        if settings.worker:
            return {"trials": study.count, "evaluated": study.ended_here, "run": str(study.folder)}
        return finish(FinishedSearch(context, study, evaluator, tables, spans), costs, checked)


def finish(search: FinishedSearch, costs: CostPredictors, checked: dict[str, Any] | None) -> dict[str, Any]:
    """Find and export the winners, and write and return the result. Only one process of a shared run does it."""
    context, study = search.context, search.study
    with one_finisher(context, study) as finished:
        if finished:
            return finished
        front = FrontRecord.of(study, context.objective, costs.worst) if costs.worst else None
        goals = find_winners(replace(search, progress=front.hypervolume if front else ()))
        final = {"final": final_settings(context, study), "proxy": search.evaluator.settings}
        result = SearchResult(
            context.settings, study, context.objective, front, goals, {**context.recorded, **final}, checked,
            certificate_of(context, study, search.evaluator), spent_budget(context),
        )  # fmt: skip
        content = write_result(result)
        shutil.rmtree(study.folder / CHECKPOINTS, ignore_errors=True)
        check_exported(content)
        return content


def check_environment(context: SearchContext) -> None:
    """Check that the cluster, the images and blocks of other packages are usable, and report them. Raises NasError."""
    settings, data = context.settings, context.task.data
    if settings.ray:
        check_cluster(settings.ray, settings.ray_cpus, settings.ray_gpus)
    context.task.report_data(context.reporter)
    if not must_deploy(settings.runtime) and computes(settings.runtime) and not is_exact(settings.runtime):
        context.reporter.warn(f"{settings.runtime} does not run on this machine: accuracies are those of float32")
    if context.pretrained:
        inherited = context.pretrained.describe(largest_choices(context.space))
        context.reporter.say(
            f"weights of {context.pretrained.name}: the network of the last choices inherits {inherited}"
        )
    check_images((data.train, data.validation, data.test), context.reporter, context.task.input.channels)
    if not all(map(is_ours, block_names(context.space))):
        with located(context.settings.space):
            layers = reachable(context.space)
        check_blocks(layers)
    for reference in filter(is_foreign, context.references.named):
        check_blocks(trace(reference.architecture))


def span_of(context: SearchContext, tables: tuple[SelectedTable, ...], device: int) -> LatencySpan:
    """Return the latencies that the space spans on a device. Raises UsageError for a goal that is out of reach."""
    goals = [goal for goal in context.objective.goals if goal.device == device]
    return check_reach(context, tables[device], goals)


@contextlib.contextmanager
def one_finisher(context: SearchContext, study: Study) -> Iterator[dict[str, Any] | None]:
    """Let one process of a shared run find the winners.

    Yields:
        None for that process; for those that have waited for it, its result.
    """
    has_waited = False

    def report_wait() -> None:
        nonlocal has_waited
        has_waited = True
        context.reporter.say(f"{study.folder}: waiting for the process that measures finalists and trains the winner")

    with exclusive(study.folder / FINISH, report_wait):
        study.refresh()
        study.refresh_repeats()
        trials = min(context.settings.trials, study.count)
        yield read_finished(context.settings, trials) if has_waited else None


def evaluate_candidates(context: SearchContext, study: Study, evaluator: Evaluator, costs: CostPredictors) -> None:
    """Fill the study with evaluated candidates, up to --trials."""
    objective, settings, reporter = context.objective, context.settings, context.reporter
    sources = (*context.prior_sources, *weights_sources(context), *context.references.sources(context.space))
    prior = make_prior_knowledge(sources, objective, costs.predict, reporter, costs.extra_metrics)
    plan = SearchPlan(
        context.space, make_controller(context, costs, prior, study), evaluator, objective, costs.predict,
        context.rungs, prior.digests, executor=make_candidates_executor(context, evaluator),
        extra_metrics=costs.extra_metrics, reference=costs.worst, metric=context.task.metric,
    )  # fmt: skip
    search(plan, study, settings.trials, settings.seed, reporter, settings.retry_failed)


def weights_sources(context: SearchContext) -> tuple[PriorSource, ...]:
    """Return the network of --weights, if the space contains it. It inherits most, so it is evaluated first."""
    pretrained, space = context.pretrained, context.space
    if pretrained is None:
        return ()
    source = source_of_network(pretrained.name, pretrained.architecture, space, "--weights")
    return (source,) if source else ()


def make_candidates_executor(context: SearchContext, evaluator: Evaluator) -> Executor | None:
    """Return the executor of the candidates, which does not repeat the pilot's trainings; None for this process."""
    executor = context.make_executor()
    if context.pilot is None:
        return executor
    return ReplayExecutor(executor or InProcessExecutor(evaluator), context.pilot.recorded)


def make_controller(context: SearchContext, costs: CostPredictors, prior: PriorKnowledge, study: Study) -> Controller:
    """Return the controller, which knows the prior results.

    It first asks for the networks to start from, then for those of a warm start.
    """
    controller = context.controller(Problem(encode_space(context.space, costs.layer_ms), context.objective))

    def is_feasible(arch: Architecture) -> bool:
        return costs.hold_a_target(arch, context.objective.goals) and arch.digest not in prior.digests

    controller = warm_started(context, controller, is_feasible, len(prior.first), study)
    if context.pilot_networks:
        controller = WarmStart(controller, context.pilot_networks, lambda: study.digests)
    return with_prior(controller, prior, study)


def with_prior(controller: Controller, prior: PriorKnowledge, study: Study) -> Controller:
    """Return the controller after telling it the prior results; it first asks for the networks to start from."""
    for trial in prior.trials:
        controller.tell(trial)
    return WarmStart(controller, prior.first, lambda: study.digests) if prior.first else controller


def warm_started(
    context: SearchContext,
    controller: Controller,
    is_feasible: Callable[[Architecture], bool],
    first: int,
    study: Study,
) -> Controller:
    """Return the controller with a warm start in front of it, unless none is asked for or all of it was evaluated.

    Args:
        context: The search.
        controller: The controller that continues after the warm start.
        is_feasible: Whether a network may be part of the warm start.
        first: How many other candidates are evaluated before it.
        study: The trials so far.
    """
    settings = context.settings
    keep = max(1, settings.warm_start_samples // WARM_SHARE)
    if not settings.warm_start or len(study.digests) >= keep + first:
        return controller
    pool = best_of_random(
        settings.warm_start, context.space, context.task, is_feasible, settings.warm_start_samples, keep,
        settings.seed, context.reporter,
    )  # fmt: skip
    return WarmStart(controller, pool, lambda: study.digests)


def report_conditions(context: SearchContext, evaluator: Evaluator, costs: CostPredictors) -> dict[str, Any] | None:
    """Report how candidates are evaluated and how reliable that is. Return the record of the evaluator's check."""
    settings, space, data, reporter = context.settings, context.space, context.task.data.name, context.reporter
    if settings.evaluator == "proxy_training":
        method = f"train for {space.proxy.epochs} epochs at {space.input.size(space.proxy.resolution)} px"
    else:
        source = f" of {settings.source}" if settings.source else ""
        method = f"are evaluated by {settings.evaluator}{source}, the winner is trained"
    sizes, runtime = "/".join(map(str, sizes_of(space))), costs.predictors[0].table.header["runtime"]
    if settings.metric != "accuracy":
        method += f", are ranked by {spell(settings.metric)}"
    reporter.say(f"candidates {method} on {data}; latencies are of {sizes} px in {runtime}")
    if costs.memory:
        reporter.say(f"peak memory is predicted with a mean error of {costs.memory.error:.1%} on measured networks")
    keys = space.key, load_space(settings.space).key  # a check does not depend on the deployed resolution
    checked = next(filter(None, (find_record(key, data, evaluator.settings) for key in keys)), None)
    unknown = "was never checked in this space on this data; `nas check-proxy` measures how well it ranks"
    reporter.say(f"{settings.evaluator}: {describe_record(checked) if checked else unknown}")
    return checked
