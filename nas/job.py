"""The main job: table, span, search, finalists on the device, training of the winner, export, result."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.device import open_worker
from nas.errors import TableError, UsageError
from nas.experiment import (
    Experiment,
    check,
    identity,
    make_controller,
    make_evaluator,
    make_experiment_objective,
    resolve_space,
)
from nas.export import export_folder, versions
from nas.files import write_json
from nas.final import Finalist, confirm, train_winner
from nas.latency import LatencyTable
from nas.lattice import best_path, reachable
from nas.network import trace
from nas.objective import Objective, front
from nas.picture import draw_search
from nas.profiler import default_table_path, measure_networks, profile, table_header
from nas.profiling import Latency
from nas.progress import Reporter
from nas.search import search
from nas.space import Space
from nas.study import RESULT, Study, Trial, check_run, open_study
from nas.tasks.classification import Classification
from nas.tasks.images import check_images
from nas.units import format_latency

SPAN_SAMPLES = 1000


@dataclass(frozen=True)
class Span:
    """What a space spans on a device, by its table, in ms; fastest and slowest are exact."""

    fastest_ms: float
    median_ms: float
    slowest_ms: float


def run_search(experiment: Experiment, reporter: Reporter) -> dict[str, Any]:
    """Do the whole job and return what `result.json` holds. Raises NasError for whatever is wrong in the input."""
    check(experiment)
    space = resolve_space(experiment)
    task = Classification.load(experiment.data, experiment.data_root)
    space = space.for_classes(task.num_classes)
    trace(space.decode(space.sample(random.Random(0))).at(space.proxy.resolution))
    settings = identity(experiment, space, task)
    check_run(experiment.folder, settings)
    if finished := finished_result(experiment):
        reporter.say(f"{experiment.folder}: finished on {finished['date']}; more --trials would continue it")
        return finished
    for split in (task.data.train, task.data.validation, task.data.test):
        check_images(split)
    table = ready_table(experiment, space, reporter)
    objective = make_experiment_objective(experiment)
    span = reach_of(space, table, experiment.target_ms, reporter)
    with open_study(experiment.folder, settings, space, objective.directions) as study:
        evaluator = make_evaluator(experiment, task, space)
        reporter.say(
            f"candidates train for {space.proxy.epochs} epochs at {space.proxy.resolution} px on {task.data.name}; "
            f"latencies are of {'/'.join(map(str, space.resolution))} px in {experiment.runtime}"
        )
        controller = make_controller(experiment, space, objective)
        search(
            space, controller, evaluator, objective, table.predict, study, experiment.trials, experiment.seed, reporter
        )
        result = finish(experiment, space, task, objective, study, reporter)
        result["settings"] |= {"proxy": evaluator.settings, "span_ms": asdict(span), "table": str(table.path)}
        result["device"] = table.header["device"]
        write_json(study.folder / RESULT, result)
    return result


def finished_result(experiment: Experiment) -> dict[str, Any] | None:
    """Return the result of a run folder whose trials are all done and whose winner is exported."""
    path = experiment.folder / RESULT
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    done = result["trials"] + len(result["failed"]) >= experiment.trials
    return result if done and (experiment.folder / "model" / "card.json").is_file() else None


def ready_table(experiment: Experiment, space: Space, reporter: Reporter) -> LatencyTable:
    """Return a table that covers `space`: the one that --table names, or the device's own, profiled as far as needed.

    Raises TableError where a given table is of another device or runtime and --any-device is not.
    """
    header = table_header(experiment.runtime, experiment.threads, experiment.device)
    worker = open_worker(experiment.device, experiment.runtime, experiment.threads, reporter.say)
    reporter.say(f"listing the layers that '{space.name}' can have")
    layers = reachable(space)
    if experiment.table is None:
        table = LatencyTable.open(default_table_path(header), header)
        profile(layers, table, reporter, worker=worker)
        return table
    table = LatencyTable.open(Path(experiment.table))
    differences = table.differences(header)
    if differences and not experiment.any_device:
        raise TableError(f"{table.path}: {'; '.join(differences)}; give --any-device to use it all the same")
    if not differences:
        profile(layers, table, reporter, worker=worker)
        return table
    reporter.warn(f"{table.path}: {'; '.join(differences)}")
    for layer in table.missing(layers)[:1]:
        table.latency_ms(layer)  # raises, with the nearest layer that is covered
    return table


def reach_of(space: Space, table: LatencyTable, target_ms: float, reporter: Reporter) -> Span:
    """Say what the space spans on the device; raise UsageError where nothing in it meets the target."""
    rng = random.Random(0)
    fastest, slowest = (best_path(space, table.latency_ms, largest=largest)[0] for largest in (False, True))
    drawn = sorted(table.predict(space.decode(space.sample(rng))) for _ in range(SPAN_SAMPLES))
    span = Span(fastest, drawn[SPAN_SAMPLES // 2], slowest)
    spelled = " / ".join(format_latency(ms) for ms in (span.fastest_ms, span.median_ms, span.slowest_ms))
    within = sum(latency <= target_ms for latency in drawn) / SPAN_SAMPLES
    reporter.say(
        f"{space.name} on this device: {spelled} (fastest / median / slowest); "
        f"{within:.1%} of it is within {format_latency(target_ms)}"
    )
    if target_ms < span.fastest_ms:
        raise UsageError(
            f"--target-latency: the fastest network of '{space.name}' takes {format_latency(span.fastest_ms)} "
            f"on this device: '{format_latency(target_ms)}' is out of reach"
        )
    return span


def finish(
    experiment: Experiment, space: Space, task: Classification, objective: Objective, study: Study, reporter: Reporter
) -> dict[str, Any]:
    """Measure the best candidates, train and export the winner, and return the result."""

    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        return measure_networks(archs, experiment.runtime, experiment.threads, reporter, experiment.device)

    if not study.trials:
        raise UsageError(f"--trials: all {len(study.failed)} candidates failed, the last: {study.failed[-1][1]}")
    target_ms = experiment.target_ms
    finalists = confirm(study.trials, objective, target_ms, measure)
    say_finalists(finalists, target_ms, reporter)
    winner = finalists[0]
    arch = winner.trial.architecture
    model, seen = train_winner(arch, task, space.proxy, space.final, experiment.seed, reporter)
    facts = {**winner_facts(winner, experiment, task), **seen, "holds_target": winner.holds(target_ms)}
    export_folder(arch, model, study.folder / "model", experiment.runtime, facts)
    draw_search(study.trials, finalists, target_ms, study.folder / "search.png")
    return {
        **run_facts(experiment, study),
        "holds_target": winner.holds(target_ms),
        "best": {
            "architecture": arch.digest,
            "accuracy": winner.trial.metrics.accuracy,
            "test_accuracy": seen["test_accuracy"],
            "latency_ms": {"predicted": winner.trial.metrics.latency_ms, "measured": winner.measured.median},
            "params": winner.trial.metrics.params,
            "macs": winner.trial.metrics.macs,
            "model": str(study.folder / "model"),
        },
        "finalists": [finalist_facts(finalist) for finalist in finalists],
        "settings": {**asdict(experiment), "final": asdict(space.final), "training": seen["training"]},
    }


def run_facts(experiment: Experiment, study: Study) -> dict[str, Any]:
    """Return what the result says of the run as a whole."""
    return {
        "target_latency_ms": experiment.target_ms,
        "objective": experiment.objective,
        "trials": len(study.trials),
        "failed": [{"architecture": digest, "error": error} for digest, error in study.failed],
        "seed": experiment.seed,
        "front": [trial_facts(study.trials[index]) for index in front([trial.metrics for trial in study.trials])],
        "candidates": [trial_facts(trial) for trial in study.trials],
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def say_finalists(finalists: Sequence[Finalist], target_ms: float, reporter: Reporter) -> None:
    """Say what was measured, and whether anything holds the target."""
    for finalist in finalists:
        predicted, measured = finalist.trial.metrics.latency_ms, finalist.measured
        reporter.say(
            f"{finalist.trial.architecture.digest}: {format_latency(measured.median)} measured "
            f"({format_latency(measured.p10)} to {format_latency(measured.p90)}), {format_latency(predicted)} predicted"
        )
    if not finalists[0].holds(target_ms):
        reporter.warn(f"none of the {len(finalists)} measured candidates holds {format_latency(target_ms)}")


def winner_facts(winner: Finalist, experiment: Experiment, task: Classification) -> dict[str, Any]:
    """Return what the exported card says of the search."""
    return {
        "data": {"name": task.data.name, "classes": list(task.data.classes)},
        "accuracy": winner.trial.metrics.accuracy,
        "latency_ms": {
            "predicted": winner.trial.metrics.latency_ms,
            "measured": winner.measured.median,
            "p10": winner.measured.p10,
            "p90": winner.measured.p90,
            "target": experiment.target_ms,
        },
        "measured_on": table_header(experiment.runtime, experiment.threads, experiment.device),
        "seed": experiment.seed,
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    """Return a trial as the result lists it."""
    return {"number": trial.number, "architecture": trial.architecture.digest, **trial.metrics.to_dict()}


def finalist_facts(finalist: Finalist) -> dict[str, Any]:
    """Return a finalist as the result lists it."""
    return {**trial_facts(finalist.trial), "measured_ms": asdict(finalist.measured)}
