"""`nas scale --search`: the coefficients of a network, found by evaluating a grid of them within a budget.

The grid's points are measured, those within the budget evaluated by any evaluator and controller, the best evaluated
again; then base, compound and single dimensions are compared at the same measured latency.
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
from nas.scaling.budget import Budget, make_budgeted
from nas.scaling.comparison import Entry, compare, compared_rules, contestants
from nas.scaling.family_job import asked, device_facts, is_whole, make_family, make_network_latency
from nas.scaling.grid import grid_domain
from nas.scaling.grid_latencies import GridLatencies, measure_admitted, measure_grid
from nas.scaling.latency_targets import LatencyEstimator
from nas.scaling.network_latency import NETWORKS
from nas.scaling.parsing import Rule, parse_latencies, parse_phis
from nas.scaling.plots import draw_scaling
from nas.scaling.presets import Coefficients
from nas.scaling.scale import DIMENSIONS, missing_dimensions
from nas.scaling.search_setup import CoefficientSearch, check_admitted, make_budget, prepare, spends
from nas.scaling.settings import RESULT, ScaleSettings
from nas.searching.early_stopping import make_rungs
from nas.searching.evaluation import make_evaluator, make_executor
from nas.searching.finalists import FinalistEstimates, Stage, evaluate_finalists
from nas.searching.loop import SearchPlan, search
from nas.searching.result import FINALIST_SETTINGS, TrialRecord
from nas.searching.settings import recorded_settings
from nas.study.objectives import Objective
from nas.study.study import FINISH, Study, Trial, check_run, open_study
from nas.training.tasks.image_datasets import check_images
from nas.utils.files import exclusive, read_json, write_json
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

PICTURE = "scaling.png"
BENCH, CONTESTANTS, ACCURACIES = "grid.json", "contestants.json", "accuracies.jsonl"
MAKING = "grid.lock"
FRESH_SEEDS = 100
"""The seeds of the comparison start so far above the search's: its networks were not chosen by them."""


def run_scale_search(job: ScaleSettings, reporter: Reporter) -> dict[str, Any]:
    """Find the coefficients, compare, and return what `scale.json` holds; continue where a kill left it.

    Raises NasError for whatever is wrong in the input.
    """
    setting = prepare(job, reporter)
    folder = job.folder
    check_run(folder, setting.identity)
    if finished := finished_result(setting):
        reporter.say(f"{folder}: finished on {finished['date']}; more --trials or --compare-seeds would continue it")
        return finished
    check_images((setting.task.data.train, setting.task.data.validation), reporter)
    with open_study(folder, setting.identity, setting.grid, ("maximize",)) as study:
        with exclusive(folder / MAKING):
            ready = make_ready(setting, reporter)
        try_points(ready, study, reporter)
        with exclusive(folder / FINISH):
            return finished_result(setting) or conclude(ready, study, reporter)


@dataclass(frozen=True)
class PreparedSearch:
    """A setting with what was made for it: the evaluator, the latencies, the objective, and the admitted points."""

    setting: CoefficientSearch
    evaluator: Evaluator
    bench: GridLatencies
    budget: Budget
    objective: Objective
    admitted: int


def make_ready(setting: CoefficientSearch, reporter: Reporter) -> PreparedSearch:
    """Return what a search needs.

    What is wrong with the evaluator is told before minutes of measuring; but zero-cost scores write those of their
    reference into the folder, which a budget that no point meets leaves free.
    """
    experiment = setting.job.experiment
    make = partial(make_evaluator, experiment, setting.task, setting.grid, reporter)
    early = None if experiment.evaluator in ZERO_COST else make()
    bench = ready_bench(setting, reporter)
    for target_ms in parse_latencies(setting.job.latency) if setting.job.latency else ():
        if target_ms < bench.base_ms:  # told before hours of training
            taken = format_latency(bench.base_ms)
            raise UsageError(f"--latency: '{format_latency(target_ms)}' is under what the base takes, {taken}")
    budget = make_budget(setting, bench.base_ms)
    objective = make_budgeted(setting.objective, budget, setting.job.exponent)
    return PreparedSearch(setting, early or make(), bench, budget, objective, len(check_admitted(setting, bench)))


def ready_bench(setting: CoefficientSearch, reporter: Reporter) -> GridLatencies:
    """Return the latencies of the grid: measured once for all, so that a search that goes on sees the same."""
    job, folder = setting.job, setting.job.folder
    if (path := folder / BENCH).is_file():
        return read_bench(path)
    stopwatch, first, every = make_network_latency(job, setting.base, reporter, "grid"), setting.first, setting.every
    try:
        if setting.resource == "latency":
            bench = measure_grid(first, every, job.times, job.tolerance, stopwatch, reporter)
        else:
            bench = measure_admitted(first, check_admitted(setting, GridLatencies(math.nan, {})), stopwatch, reporter)
        check_admitted(setting, bench)
    except NasError as error:  # a corrected command may use the folder, but what was measured of a device is kept
        if isinstance(error, UsageError) or not stopwatch.sessions(first.architecture):
            (folder / NETWORKS).unlink(missing_ok=True)
        raise
    bench = replace(bench, measured_on=device_facts(stopwatch))
    write_json(path, asdict(bench))
    return bench


def read_bench(path: Path) -> GridLatencies:
    """Return the latencies that `ready_bench` wrote. Raises RunError for something else."""
    try:
        return GridLatencies(**read_json(path))
    except TypeError as error:
        raise RunError(f"{path}: not the latencies of a grid: {error}") from error


def try_points(ready: PreparedSearch, study: Study, reporter: Reporter) -> None:
    """Fill the study with points of the grid: --trials of those that the budget admits, or all."""
    setting, bench, budget = ready.setting, ready.bench, ready.budget
    experiment, grid = setting.job.experiment, setting.grid
    reporter.say(
        f"{ready.admitted} of {grid.size} grid points are within {budget.times:g} times the base's {budget.resource}"
    )
    domain = grid_domain(grid, setting.grid_points, partial(spends, setting, bench))
    controller = lookup(CONTROLLERS, experiment.controller, "controller")(Problem(domain, ready.objective))
    counts = {spot.architecture.digest: spot.activations for spot in setting.every}
    plan = SearchPlan(
        grid, controller, ready.evaluator, ready.objective,
        predict=lambda arch: bench.latency_ms.get(arch.digest, math.inf),
        rungs=make_rungs("full", 2, 1, 1),
        known=frozenset([setting.first.architecture.digest]),
        executor=executor_of(ready, reporter),
        extra_metrics=lambda arch: {"activations": counts.get(arch.digest, 0)},
        budgeted_cost=budget.of,
    )  # fmt: skip
    trials = min(experiment.trials or ready.admitted, ready.admitted)
    search(plan, study, trials, experiment.seed, reporter, experiment.retry_failed)


def executor_of(ready: PreparedSearch, reporter: Reporter) -> Executor | None:
    """Return what evaluates scaled networks, None for this process. Raises UsageError where there is no cluster."""
    return make_executor(ready.setting.job.experiment, ready.setting.task, ready.setting.grid, reporter)


def conclude(ready: PreparedSearch, study: Study, reporter: Reporter) -> dict[str, Any]:
    """Evaluate the best again, compare, make the family, and write the result."""
    setting, job = ready.setting, ready.setting.job
    experiment, (goal,) = job.experiment, ready.objective.goals
    stage = Stage(
        study, goal, experiment.seed, experiment.finalists, experiment.finalist_seeds, reporter,
        partial(executor_of, ready, reporter),
    )  # fmt: skip
    finals = evaluate_finalists(stage, ready.evaluator)
    if not study.trials:
        raise UsageError("--evaluator: no grid point could be evaluated")
    best = max(
        study.trials,
        key=lambda trial: goal.score(replace(trial.metrics, accuracy=finals.accuracies[trial.digest])),
    )
    found = setting.coefficients(best.digest)
    warn_of_rounding(setting, found, best, reporter)
    entries = compared(ready, found, reporter) if job.compare_seeds else []
    family = family_of(ready, found, reporter)
    result = {
        **family,
        "search": {**search_facts(ready, study, finals), "best": best.digest},
        "comparison": [entry.to_dict(setting.base) for entry in entries],
        "asked": asked(job),
        "picture": str(job.folder / PICTURE),
    }
    draw_scaling(result, job.folder / PICTURE)
    write_json(job.folder / RESULT, result)
    return result


def family_of(ready: PreparedSearch, found: Coefficients, reporter: Reporter) -> dict[str, Any]:
    """Return the family that the settings ask for; where it cannot be made, the network that was found: phi 1."""
    setting, job, base_ms = ready.setting, ready.setting.job, ready.bench.base_ms
    rule = Rule("searched", setting.grid.rounding, found)
    try:
        return make_family(job, rule, setting.base, reporter, base_ms)
    except (SpaceError, TableError, UsageError) as error:  # what was searched is not lost with it
        reporter.warn(f"the family is that of phi 1 alone: {error}")
        return make_family(replace(job, phi="1", latency=None), rule, setting.base, reporter, base_ms)


def warn_of_rounding(setting: CoefficientSearch, found: Coefficients, best: Trial, reporter: Reporter) -> None:
    """Say where the coefficients promise another growth than rounding gave the network that they were found by."""
    promised, real = found.at(1).growth, best.metrics.macs / setting.first.macs
    if abs(promised / real - 1) > setting.job.tolerance:
        reporter.warn(
            f"the coefficients promise {promised:.2f} times the MACs for each phi, rounding made it {real:.2f} in the "
            "network that they were found by: a smaller --divisor, or --repeats round, brings them together"
        )


def search_facts(ready: PreparedSearch, study: Study, finals: FinalistEstimates) -> dict[str, Any]:
    """Return what the result says of the search as a whole."""
    setting, grid, budget = ready.setting, ready.setting.grid, ready.budget
    settings = {
        **recorded_settings(setting.job.experiment),
        **setting.identity,
        "evaluator_settings": ready.evaluator.settings,
    }
    return {
        "budget": {**asdict(budget), "target": budget.target},
        "objective": setting.objective,
        "grid": grid.size,
        "timed": len(ready.bench.latency_ms),
        "values": dict(zip(DIMENSIONS, grid.values, strict=True)),
        "admissible": ready.admitted,
        "trials": len(study.evaluated),
        "failed": [{"architecture": trial.digest, "error": trial.error} for trial in study.failed],
        "noise": finals.noise_model.noise if finals.noise_model else None,
        "candidates": [
            {
                **asdict(setting.coefficients(trial.digest)),
                **TrialRecord.of(trial).summary(),
                "estimate": finals.accuracies[trial.digest],
                "curve": list(trial.curve),
            }
            for trial in study.trials
        ],
        "base_ms": ready.bench.base_ms,
        "measured_on": ready.bench.measured_on,
        "settings": settings,
    }


def compared(ready: PreparedSearch, found: Coefficients, reporter: Reporter) -> list[Entry]:
    """Return base, compound and single dimensions with their accuracies, at the same latency.

    None where there are no such networks, or a table that predicts latencies does not cover them.
    """
    setting, bench, job = ready.setting, ready.bench, ready.setting.job
    path, phis = job.folder / CONTESTANTS, parse_phis(job.compare_phi, "--compare-phi")
    stored = read_json(path) if path.is_file() else {}
    chosen = {"compound": asdict(found), "phis": phis}
    if stored.get("chosen") == chosen:
        entries = [Entry.from_dict(data) for data in stored["entries"]]
    else:
        stopwatch = make_network_latency(job, setting.base, reporter, "compare")
        timed = [spot.architecture for spot in setting.every if stopwatch.sessions(spot.architecture)]
        scout = LatencyEstimator(setting.base, stopwatch, timed if stopwatch.is_measured else ())
        rules = compared_rules(found, job.times, missing_dimensions(setting.base))
        try:
            entries = contestants(scout, rules, job.times, phis, setting.grid.rounding, reporter)
        except (TableError, SpaceError, UsageError) as error:  # what was searched is not lost with it
            reporter.warn(f"nothing is compared: {error}")
            return []
        entries = on_bench(entries, bench)
        write_json(path, {"chosen": chosen, "entries": [entry.to_dict(setting.base) for entry in entries]})
    first = job.experiment.seed + FRESH_SEEDS
    seeds = range(first, first + job.compare_seeds)
    retry = job.experiment.retry_failed
    return compare(
        entries, lambda: executor_of(ready, reporter) or InProcessExecutor(ready.evaluator), seeds,
        job.folder / ACCURACIES,
        reporter, retry,
    )  # fmt: skip


def on_bench(entries: list[Entry], bench: GridLatencies) -> list[Entry]:
    """Return the entries with latencies as of the grid's sessions: the base takes the same in both."""
    factor = bench.base_ms / entries[0].latency_ms
    return [
        replace(entry, latency_ms=factor * entry.latency_ms, target_ms=factor * entry.target_ms) for entry in entries
    ]


def finished_result(setting: CoefficientSearch) -> dict[str, Any] | None:
    """Return the result of a folder that has been searched so far and compared with as many seeds."""
    path = setting.job.folder / RESULT
    if not path.is_file():
        return None
    stored, job = read_json(path), setting.job
    try:
        search = stored["search"]
        asked_for = min(job.experiment.trials or search["admissible"], search["admissible"])
        done = search["trials"] + len(search["failed"]) >= asked_for
        done = done and not (job.experiment.retry_failed and search["failed"])
        same = stored["asked"] == asked(job) and all(
            search["settings"][key] == getattr(job.experiment, key) for key in FINALIST_SETTINGS
        )
        there = (job.folder / PICTURE).is_file() and is_whole(job.folder, stored)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not the result of a search for coefficients: {error!r}") from error
    return stored if done and same and there else None
