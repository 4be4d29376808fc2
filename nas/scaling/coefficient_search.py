"""`nas scale --search`: finds the coefficients of a network by evaluating a grid of them within a budget.

The search measures the grid's points, evaluates those within the budget with any evaluator and controller, and
evaluates the best ones again. It then compares the base, the compound rule and single dimensions at the same measured
latency.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas.controllers import CONTROLLERS
from nas.controllers.base import Problem
from nas.errors import NasError, RunError, SpaceError, TableError, UsageError
from nas.evaluators.base import Evaluator
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.in_process import InProcessExecutor
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.scaling.budget import Budget, make_budget_objective
from nas.scaling.comparison import ComparedNetwork, evaluate_networks, rules_to_compare, select_networks
from nas.scaling.family_job import describe_device, is_complete, make_family, make_network_latency, requested
from nas.scaling.grid import encode_grid
from nas.scaling.grid_latencies import GridLatencies, measure_admitted, measure_grid
from nas.scaling.latency_targets import LatencyEstimator
from nas.scaling.network_latency import NETWORKS_FILE
from nas.scaling.parsing import Rule, parse_latencies, parse_phis
from nas.scaling.plots import draw_scaling
from nas.scaling.presets import Coefficients
from nas.scaling.scale import missing_dimensions
from nas.scaling.search_setup import CoefficientSearch, admitted_points, make_budget, point_cost, prepare_search
from nas.scaling.settings import SCALE_RESULT, ScaleSettings
from nas.searching.early_stopping import make_rungs
from nas.searching.evaluation import make_evaluator, make_executor
from nas.searching.finalists import FinalistEstimates, Stage, evaluate_finalists
from nas.searching.identity import report_corrected_source
from nas.searching.loop import SearchPlan, search
from nas.searching.result import FINALIST_SETTINGS, TrialRecord
from nas.searching.settings import recorded_settings
from nas.study.objectives import Objective
from nas.study.study import FINISH, Study, Trial, check_run, open_study
from nas.training.tasks.image_datasets import check_images
from nas.training.tasks.metrics import value_keys
from nas.utils.files import exclusive, read_json, write_json
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

SCALING_PLOT = "scaling.png"
GRID_FILE, COMPARED_FILE, ACCURACIES_FILE = "grid.json", "contestants.json", "accuracies.jsonl"
GRID_LOCK = "grid.lock"
COMPARISON_SEED_OFFSET = 100
"""Distance of the comparison's seeds from the search's seed, so that no network was selected with them."""


def run_scale_search(settings: ScaleSettings, reporter: Reporter) -> dict[str, Any]:
    """Find the coefficients, run the comparison, and return the contents of `scale.json`.

    An interrupted search continues. Raises NasError for any error in the input.
    """
    prepared_search = prepare_search(settings, reporter)
    folder = settings.folder
    check_run(folder, prepared_search.identity)
    if finished := finished_result(prepared_search):
        reporter.say(f"{folder}: finished on {finished['date']}; more --trials or --compare-seeds would continue it")
        return finished
    report_corrected_source(folder, prepared_search.identity, reporter)
    prepared_search.task.report_data(reporter)
    task = prepared_search.task
    check_images((task.data.train, task.data.validation), reporter, task.input.channels)
    with open_study(folder, prepared_search.identity, prepared_search.grid, ("maximize",)) as study:
        prepared_search.images.write(folder)
        with exclusive(folder / GRID_LOCK):
            measured = measure_search(prepared_search, reporter)
        evaluate_points(measured, study, reporter)
        with exclusive(folder / FINISH):
            return finished_result(prepared_search) or conclude(measured, study, reporter)


@dataclass(frozen=True)
class MeasuredSearch:
    """A coefficient search whose grid has been measured.

    Attributes:
        search: The search.
        evaluator: Evaluates candidates.
        grid_latencies: The latencies of the grid's points.
        budget: The budget.
        objective: The objective towards the budget.
        admitted: The number of points that the budget admits.
    """

    search: CoefficientSearch
    evaluator: Evaluator
    grid_latencies: GridLatencies
    budget: Budget
    objective: Objective
    admitted: int


def measure_search(search: CoefficientSearch, reporter: Reporter) -> MeasuredSearch:
    """Make the evaluator, measure the grid, and return both with the budget.

    The evaluator is made first, so that its errors are reported before minutes of measurement. Zero-cost scores are
    the exception: they write their reference into the folder, which must stay empty if the budget admits no point.
    """
    settings = search.settings
    experiment = settings.experiment
    make = partial(make_evaluator, experiment, search.task, search.grid, reporter)
    early = None if experiment.evaluator in ZERO_COST else make()
    grid_latencies = load_or_measure_grid(search, reporter)
    base_ms = grid_latencies.base_ms
    for target_ms in parse_latencies(settings.latency) if settings.latency else ():
        if target_ms < base_ms:  # reported before hours of training
            rule = f"is below the latency of the base, {format_latency(base_ms)}, and scaling only adds to it"
            raise UsageError(rule, key="latency", value=format_latency(target_ms))
    budget = make_budget(search, base_ms)
    objective = make_budget_objective(search.objective, budget, settings.exponent)
    admitted = len(admitted_points(search, grid_latencies))
    return MeasuredSearch(search, early or make(), grid_latencies, budget, objective, admitted)


def load_or_measure_grid(search: CoefficientSearch, reporter: Reporter) -> GridLatencies:
    """Return the latencies of the grid. They are measured once and stored, so that a continued search uses the same."""
    settings, folder, base = search.settings, search.settings.folder, search.base_point
    if (path := folder / GRID_FILE).is_file():
        return read_grid_latencies(path)
    network_latency = make_network_latency(settings, search.base, reporter, "grid")
    try:
        if search.resource == "latency":
            points, times, tolerance = search.distinct_points, settings.times, settings.tolerance
            grid_latencies = measure_grid(base, points, times, tolerance, network_latency, reporter)
        else:
            admitted = admitted_points(search, GridLatencies(math.nan, {}))
            grid_latencies = measure_admitted(base, admitted, network_latency, reporter)
        admitted_points(search, grid_latencies)
    except NasError as error:  # leaves the folder free for a corrected command, but keeps measurements of a device
        if isinstance(error, UsageError) or not network_latency.session_count(base.architecture):
            (folder / NETWORKS_FILE).unlink(missing_ok=True)
        raise
    grid_latencies = replace(grid_latencies, measured_on=describe_device(network_latency))
    write_json(path, asdict(grid_latencies))
    return grid_latencies


def read_grid_latencies(path: Path) -> GridLatencies:
    """Return the stored latencies of a grid. Raises RunError if the file holds something else."""
    try:
        return GridLatencies(**read_json(path))
    except TypeError as error:
        raise RunError(f"not the latencies of a grid: {error}", where=path) from error


def evaluate_points(measured: MeasuredSearch, study: Study, reporter: Reporter) -> None:
    """Evaluate --trials of the points that the budget admits, or all of them, and store them in the study."""
    grid, budget, latency_ms = measured.search.grid, measured.budget, measured.grid_latencies.latency_ms
    experiment = measured.search.settings.experiment
    reporter.say(
        f"{measured.admitted} of {grid.size} grid points are within {budget.times:g} times the base's {budget.resource}"
    )
    cost = partial(point_cost, measured.search, measured.grid_latencies)
    domain = encode_grid(grid, measured.search.grid_points, cost)
    controller = lookup(CONTROLLERS, experiment.controller, "controller")(Problem(domain, measured.objective))
    activations = {point.architecture.digest: point.activations for point in measured.search.distinct_points}
    plan = SearchPlan(
        grid, controller, measured.evaluator, measured.objective,
        predict=lambda arch: latency_ms.get(arch.digest, math.inf),
        rungs=make_rungs("full", 2, 1, 1),
        known=frozenset([measured.search.base_point.architecture.digest]),
        executor=make_search_executor(measured, reporter),
        extra_metrics=lambda arch: {"activations": activations.get(arch.digest, 0)},
        budgeted_cost=budget.cost,
        metric=measured.search.task.metric,
    )  # fmt: skip
    trials = min(experiment.trials or measured.admitted, measured.admitted)
    search(plan, study, trials, experiment.seed, reporter, experiment.retry_failed)


def make_search_executor(measured: MeasuredSearch, reporter: Reporter) -> Executor | None:
    """Return the executor that evaluates networks; None for this process. Raises UsageError without a cluster."""
    return make_executor(measured.search.settings.experiment, measured.search.task, measured.search.grid, reporter)


def conclude(measured: MeasuredSearch, study: Study, reporter: Reporter) -> dict[str, Any]:
    """Evaluate the best points again, run the comparison, make the family, and write the result."""
    search, settings = measured.search, measured.search.settings
    experiment, (goal,) = settings.experiment, measured.objective.goals
    stage = Stage(
        study, goal, experiment.seed, experiment.finalists, experiment.finalist_seeds, reporter,
        partial(make_search_executor, measured, reporter),
    )  # fmt: skip
    finals = evaluate_finalists(stage, measured.evaluator)
    if not study.trials:
        raise UsageError("failed for every grid point", key="evaluator", value=experiment.evaluator)
    best = max(
        study.trials,
        key=lambda trial: goal.score(replace(trial.metrics, accuracy=finals.accuracies[trial.digest])),
    )
    found = search.coefficients(best.digest)
    warn_about_rounding(search, found, best, reporter)
    networks = compare_rules(measured, found, reporter) if settings.compare_seeds else []
    family = make_search_family(measured, found, reporter)
    result = {
        **family,
        "search": {**describe_search(measured, study, finals), "best": best.digest},
        "comparison": [network.to_dict(search.base, search.task.metric) for network in networks],
        "asked": requested(settings),
        "picture": str(settings.folder / SCALING_PLOT),
    }
    draw_scaling(result, settings.folder / SCALING_PLOT)
    write_json(settings.folder / SCALE_RESULT, result)
    return result


def make_search_family(measured: MeasuredSearch, found: Coefficients, reporter: Reporter) -> dict[str, Any]:
    """Return the requested family of the coefficients, or if it is invalid, only the network of phi 1."""
    settings, base, base_ms = measured.search.settings, measured.search.base, measured.grid_latencies.base_ms
    rule = Rule("searched", measured.search.grid.rounding, found)
    try:
        return make_family(settings, rule, base, reporter, base_ms)
    except (SpaceError, TableError, UsageError) as error:  # must not lose the search's result
        reporter.warn(f"the family has only the network of phi 1: {error}")
        return make_family(replace(settings, phi="1", latency=None), rule, base, reporter, base_ms)


def warn_about_rounding(search: CoefficientSearch, found: Coefficients, best: Trial, reporter: Reporter) -> None:
    """Warn if rounding made the growth of the best network differ from that of its coefficients."""
    of = "the MACs" if found.neck is None else "the backbone's MACs"
    exact, rounded = found.growth, search.grid.macs_growth(search.point(best.digest).architecture)
    if abs(exact / rounded - 1) > search.settings.tolerance:
        reporter.warn(
            f"the coefficients give {exact:.2f} times {of} for each phi, but the network that they were found by "
            f"has {rounded:.2f} times after rounding: a smaller --divisor or --repeats round reduces the difference"
        )


def describe_search(measured: MeasuredSearch, study: Study, finals: FinalistEstimates) -> dict[str, Any]:
    """Return the search's part of the result file."""
    search, grid, budget = measured.search, measured.search.grid, measured.budget
    settings = {
        **recorded_settings(search.settings.experiment),
        "fit": search.task.fit,
        **search.identity,
        "evaluator_settings": measured.evaluator.settings,
    }
    return {
        "budget": {**asdict(budget), "target": budget.target},
        "objective": search.objective,
        "metric": search.task.metric,
        "grid": grid.size,
        "timed": len(measured.grid_latencies.latency_ms),
        "values": grid.named_values,
        "admissible": measured.admitted,
        "trials": len(study.evaluated),
        "failed": [{"architecture": trial.digest, "error": trial.error} for trial in study.failed],
        "noise": finals.noise_model.noise if finals.noise_model else None,
        "candidates": [
            {
                **search.coefficients(trial.digest).to_dict(),
                **named_summary(trial, search.task.metric),
                "estimate": finals.accuracies[trial.digest],
                "curve": list(trial.curve),
            }
            for trial in study.trials
        ],
        "base_ms": measured.grid_latencies.base_ms,
        "measured_on": measured.grid_latencies.measured_on,
        "settings": settings,
    }


def named_summary(trial: Trial, metric: str) -> dict[str, Any]:
    """Return the record of a trial without its curve, with the metric's value under its key."""
    summary = TrialRecord.of(trial).summary()
    return {value_keys(metric)[0] if key == "accuracy" else key: value for key, value in summary.items()}


def compare_rules(measured: MeasuredSearch, found: Coefficients, reporter: Reporter) -> list[ComparedNetwork]:
    """Return the base, the compound rule and single dimensions at the same latency, with their accuracies.

    Returns an empty list if there are no such networks.
    """
    settings = measured.search.settings
    networks = load_or_select_networks(measured, found, reporter)
    if not networks:
        return []
    first = settings.experiment.seed + COMPARISON_SEED_OFFSET
    return evaluate_networks(
        networks,
        lambda: make_search_executor(measured, reporter) or InProcessExecutor(measured.evaluator),
        range(first, first + settings.compare_seeds),
        settings.folder / ACCURACIES_FILE,
        reporter,
        settings.experiment.retry_failed,
        measured.search.task.metric,
    )


def load_or_select_networks(measured: MeasuredSearch, found: Coefficients, reporter: Reporter) -> list[ComparedNetwork]:
    """Return the networks to compare. They are selected once for each result and stored.

    Returns an empty list, with a warning, if the networks are invalid or not covered by the latency table.
    """
    search, settings = measured.search, measured.search.settings
    path, phis = settings.folder / COMPARED_FILE, parse_phis(settings.compare_phi, "compare_phi")
    stored = read_json(path) if path.is_file() else {}
    chosen = {"compound": found.to_dict(), "phis": phis}
    if stored.get("chosen") == chosen:
        return [ComparedNetwork.from_dict(data) for data in stored["entries"]]
    network_latency = make_network_latency(settings, search.base, reporter, "compare")
    archs = [point.architecture for point in search.distinct_points]
    known = [arch for arch in archs if network_latency.session_count(arch)] if network_latency.is_measured else ()
    estimator = LatencyEstimator(search.base, network_latency, known)
    rules = rules_to_compare(found, settings.times, missing_dimensions(search.base))
    try:
        networks = select_networks(estimator, rules, settings.times, phis, search.grid.rounding, reporter)
    except (TableError, SpaceError, UsageError) as error:  # must not lose the search's result
        reporter.warn(f"no comparison: {error}")
        return []
    networks = rescale_latencies(networks, measured.grid_latencies.base_ms)
    write_json(path, {"chosen": chosen, "entries": [network.to_dict(search.base) for network in networks]})
    return networks


def rescale_latencies(networks: list[ComparedNetwork], base_ms: float) -> list[ComparedNetwork]:
    """Return the networks, the first of which is the base, with latencies scaled so that the base takes `base_ms`.

    This makes latencies of the comparison's sessions comparable with those of the grid's sessions.
    """
    factor = base_ms / networks[0].latency_ms
    return [
        replace(network, latency_ms=factor * network.latency_ms, target_ms=factor * network.target_ms)
        for network in networks
    ]


def finished_result(search: CoefficientSearch) -> dict[str, Any] | None:
    """Return the stored result if it has the requested trials, finalists, family and comparison; else None."""
    settings, path = search.settings, search.settings.folder / SCALE_RESULT
    if not path.is_file():
        return None
    stored, experiment = read_json(path), settings.experiment
    try:
        result = stored["search"]
        trials = min(experiment.trials or result["admissible"], result["admissible"])
        is_done = result["trials"] + len(result["failed"]) >= trials
        is_done = is_done and not (experiment.retry_failed and result["failed"])
        is_same = stored["asked"] == requested(settings) and all(
            result["settings"][key] == getattr(experiment, key) for key in FINALIST_SETTINGS
        )
        has_files = (settings.folder / SCALING_PLOT).is_file() and is_complete(settings.folder, stored)
    except (KeyError, TypeError) as error:
        raise RunError(f"not the result of a coefficient search: {error!r}", where=path) from error
    return stored if is_done and is_same and has_files else None
