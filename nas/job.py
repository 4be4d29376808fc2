"""The main job: table, span, search, finalists on the device, training of the winner, export, result."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.architecture import Architecture
from nas.compiled import compile_space
from nas.device import open_worker
from nas.distribution import count_within, latency_distribution
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
from nas.final import Finalist, confirm, train_winner, unmeasured
from nas.latency import IDENTITY, LatencyTable, Predictor
from nas.lattice import reachable
from nas.network import Layer, trace
from nas.objective import Objective, front
from nas.picture import draw_search
from nas.profiler import default_table_path, measure_networks, profile, table_header
from nas.profiling import Latency
from nas.progress import Reporter
from nas.published import complete, is_published
from nas.search import search
from nas.space import Space
from nas.study import RESULT, Study, Trial, check_run, open_study
from nas.tables import find_table, processor
from nas.tasks.classification import Classification
from nas.tasks.images import check_images
from nas.units import format_latency


@dataclass(frozen=True)
class Span:
    """What a space spans on a device, by its table, in ms: over its distinct networks, all of them."""

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
    settings = {**identity(experiment, space, task), **published_identity(experiment)}
    check_run(experiment.folder, settings)
    if finished := finished_result(experiment):
        reporter.say(f"{experiment.folder}: finished on {finished['date']}; more --trials would continue it")
        return finished
    for split in (task.data.train, task.data.validation, task.data.test):
        check_images(split)
    table = ready_table(experiment, space, reporter)
    objective = make_experiment_objective(experiment)
    predictor = table.predictor(space.name)
    span = reach_of(space, table, predictor, experiment.target_ms, reporter)
    with open_study(experiment.folder, settings, space, objective.directions) as study:
        evaluator = make_evaluator(experiment, task, space)
        reporter.say(
            f"candidates train for {space.proxy.epochs} epochs at {space.proxy.resolution} px on {task.data.name}; "
            f"latencies are of {'/'.join(map(str, space.resolution))} px in {table.header['runtime']}"
        )
        controller = make_controller(experiment, space, objective)
        search(
            space, controller, evaluator, objective, predictor.predict, study, experiment.trials, experiment.seed,
            reporter,
        )  # fmt: skip
        result = finish(experiment, space, task, objective, study, table, reporter)
        result["settings"] |= {"proxy": evaluator.settings, "span_ms": asdict(span), "table": str(table.path)}
        result["device"] = table.header["device"]
        write_json(study.folder / RESULT, result)
    return result


def published_identity(experiment: Experiment) -> dict[str, str]:
    """Return which published table a run's latencies are of; nothing for a table of this or another machine here."""
    if experiment.table is None:
        return {}
    table = LatencyTable.open(find_table(experiment.table))
    return {"published_table": f"{table.path.stem}: {table.header.get('source')}"} if is_published(table) else {}


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

    Raises TableError where a given table is of another device or runtime and --any-device is not, and where a table
    that cannot be measured further lacks a layer.
    """
    header = table_header(experiment.runtime, experiment.threads, experiment.device)
    worker = open_worker(experiment.device, experiment.runtime, experiment.threads, reporter.say)
    reporter.say(f"listing the layers that '{space.name}' can have")
    layers = reachable(space)
    if experiment.table is None:
        table = LatencyTable.open(default_table_path(header), header)
        profile(space, table, reporter, worker=worker)
        return table
    table = LatencyTable.open(find_table(experiment.table))
    if is_published(table):
        for note in complete(table, layers):
            reporter.say(f"{table.path.stem}: {note}")
        check_covered(table, layers)
        return table
    differences = table.differences(header)
    if differences and not experiment.any_device:
        raise TableError(f"{table.path}: {'; '.join(differences)}; give --any-device to use it all the same")
    if not differences:
        profile(space, table, reporter, worker=worker)
        return table
    reporter.warn(f"{table.path}: {'; '.join(differences)}")
    check_covered(table, layers)
    return table


def check_covered(table: LatencyTable, layers: Sequence[Layer]) -> None:
    """Raise TableError, with the first layer that the table lacks and the nearest that it has."""
    for layer in table.missing(layers)[:1]:
        table.latency_ms(layer)


def place(table: LatencyTable) -> str:
    """Return the device of a table in words: "this device", or the name of one that is not here."""
    return processor(table) if is_published(table) else "this device"


def reach_of(space: Space, table: LatencyTable, predictor: Predictor, target_ms: float, reporter: Reporter) -> Span:
    """Say what the space spans on the device; raise UsageError where nothing in it meets the target."""
    compiled = compile_space(space, predictor.layer_ms)
    span = Span(compiled.fastest_ms, latency_distribution(compiled).quantile(0.5), compiled.slowest_ms)
    spelled = " / ".join(format_latency(ms) for ms in (span.fastest_ms, span.median_ms, span.slowest_ms))
    within = count_within(compiled, target_ms).likely / compiled.size
    reporter.say(
        f"{space.name} on {place(table)}: {spelled} (fastest / median / slowest); "
        f"{within:.1%} of it is within {format_latency(target_ms)}"
    )
    if target_ms < span.fastest_ms:
        raise UsageError(
            f"--target-latency: the fastest network of '{space.name}' takes {format_latency(span.fastest_ms)} "
            f"on {place(table)}: '{format_latency(target_ms)}' is out of reach"
        )
    return span


def finish(
    experiment: Experiment,
    space: Space,
    task: Classification,
    objective: Objective,
    study: Study,
    table: LatencyTable,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure the best candidates if the device is here, train and export the winner, and return the result."""

    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        return measure_networks(archs, experiment.runtime, experiment.threads, reporter, experiment.device)

    if not study.trials:
        raise UsageError(f"--trials: all {len(study.failed)} candidates failed, the last: {study.failed[-1][1]}")
    target_ms = experiment.target_ms
    if is_published(table):
        finalists = unmeasured(study.trials, objective, target_ms)
    else:
        finalists = confirm(study.trials, objective, target_ms, measure)
    say_finalists(finalists, target_ms, reporter)
    winner = finalists[0]
    verdict = verdict_facts(winner, target_ms, table)
    arch = winner.trial.architecture
    model, seen = train_winner(arch, task, space.proxy, space.final, experiment.seed, reporter)
    facts = {**winner_facts(winner, experiment, task, table), **seen, **verdict}
    export_folder(arch, model, study.folder / "model", experiment.runtime, facts)
    draw_search(study.trials, finalists, target_ms, study.folder / "search.png")
    return {
        **run_facts(experiment, study),
        **verdict,
        "best": {
            "architecture": arch.digest,
            "accuracy": winner.trial.metrics.accuracy,
            "test_accuracy": seen["test_accuracy"],
            "latency_ms": {
                "predicted": winner.trial.metrics.latency_ms,
                "measured": winner.measured.median if winner.measured else None,
            },
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
        predicted, measured = format_latency(finalist.trial.metrics.latency_ms), finalist.measured
        seen = "not measured"
        if measured:
            span = f"{format_latency(measured.p10)} to {format_latency(measured.p90)}"
            seen = f"{format_latency(measured.median)} measured ({span})"
        reporter.say(f"{finalist.trial.architecture.digest}: {seen}, {predicted} predicted")
    if not finalists[0].holds(target_ms):
        known = "measured" if finalists[0].measured else "predicted"
        reporter.warn(f"none of the {len(finalists)} {known} candidates holds {format_latency(target_ms)}")


def verdict_facts(winner: Finalist, target_ms: float, table: LatencyTable) -> dict[str, Any]:
    """Return whether the winner holds the target, and by what one knows: unknown (None) where nothing was measured."""
    if winner.measured:
        return {"holds_target": winner.holds(target_ms), "latency_basis": "measured on this device"}
    return {
        "holds_target": None,
        "predicted_to_hold_target": winner.holds(target_ms),
        "latency_basis": f"predicted by {table.path.stem}, {place(table)}; not measured: the device is not here",
    }


def winner_facts(winner: Finalist, experiment: Experiment, task: Classification, table: LatencyTable) -> dict[str, Any]:
    """Return what the exported card says of the search."""
    measured = winner.measured
    here = table_header(experiment.runtime, experiment.threads, experiment.device) if measured else None
    return {
        "data": {"name": task.data.name, "classes": list(task.data.classes)},
        "accuracy": winner.trial.metrics.accuracy,
        "latency_ms": {
            "predicted": winner.trial.metrics.latency_ms,
            "measured": measured.median if measured else None,
            "p10": measured.p10 if measured else None,
            "p90": measured.p90 if measured else None,
            "target": experiment.target_ms,
        },
        "measured_on": here,
        "predicted_by": {"table": table.path.stem, **{key: table.header[key] for key in IDENTITY}},
        "seed": experiment.seed,
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    """Return a trial as the result lists it."""
    return {"number": trial.number, "architecture": trial.architecture.digest, **trial.metrics.to_dict()}


def finalist_facts(finalist: Finalist) -> dict[str, Any]:
    """Return a finalist as the result lists it."""
    return {**trial_facts(finalist.trial), "measured_ms": asdict(finalist.measured) if finalist.measured else None}
