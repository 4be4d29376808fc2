"""The main job: table, span, search, finalists again and on the device, training of the winner, export, result."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.architecture import Architecture
from nas.compiled import compile_space
from nas.distribution import count_within, latency_distribution
from nas.errors import UsageError
from nas.evaluators import Evaluator
from nas.evaluators.proxy_training import ProxyTraining
from nas.evaluators.setup import Setup
from nas.experiment import (
    Experiment,
    identity,
    make_controller,
    make_evaluator,
    make_experiment_objective,
    make_experiment_rungs,
    only_reads,
    resolve_space,
    shown,
)
from nas.experiment_check import check
from nas.export import export_folder
from nas.files import exclusive, write_json
from nas.final import Finalist, confirm, first_weights, train_winner, unmeasured
from nas.network import trace
from nas.objective import Objective
from nas.picture import draw_search
from nas.problem import Problem
from nas.profiler import measure_networks
from nas.profiling import Latency
from nas.progress import Reporter
from nas.ready import Ready, published_identity, ready_table
from nas.repeats import Finals, evaluate_finalists, train_finalists
from nas.result import (
    best_facts,
    epoch_facts,
    finalist_facts,
    finished_result,
    noise_facts,
    run_facts,
    verdict_facts,
    winner_facts,
)
from nas.search import Plan, search
from nas.space import Space
from nas.space_domain import space_domain
from nas.study import FINISH, RESULT, Study, check_run, open_study
from nas.tasks.classification import Classification
from nas.tasks.images import check_images
from nas.trust import in_words, known
from nas.units import format_latency

MAKING = "evaluator.lock"
NEVER_CHECKED = "was never checked in this space on this data: `nas check-proxy` tells how well it ranks"


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
    make_experiment_rungs(experiment, task, space)  # raises where there cannot be any
    settings = {**identity(experiment, space, task), **published_identity(experiment)}
    check_run(experiment.folder, settings, experiment.storage)
    if finished := finished_result(experiment, experiment.trials):
        reporter.say(f"{experiment.folder}: finished on {finished['date']}; more --trials would continue it")
        return finished
    for split in (task.data.train, task.data.validation, task.data.test):
        check_images(split)
    evaluator = make_evaluator(experiment, task, space, reporter) if only_reads(experiment) else None
    ready = ready_table(experiment, space, reporter)
    table = ready.table
    objective = make_experiment_objective(experiment)
    span = reach_of(space, ready, experiment.target_ms, reporter)
    with open_study(experiment.folder, settings, space, objective.directions, experiment.storage) as study:
        with exclusive(study.folder / MAKING):  # one trains what serves all, the others find it
            evaluator = evaluator or make_evaluator(experiment, task, space, reporter)
        reporter.say(
            f"candidates {evaluation_words(experiment, space)} on {task.data.name}; "
            f"latencies are of {'/'.join(map(str, space.resolution))} px in {table.header['runtime']}"
        )
        checked = known(space.key, task.data.name, evaluator.settings)
        reporter.say(f"{experiment.evaluator}: {in_words(checked) if checked else NEVER_CHECKED}")
        rungs = make_experiment_rungs(experiment, task, space)
        predict = ready.predictor.predict
        problem = Problem(space_domain(space, ready.predictor.layer_ms), objective)
        controller = make_controller(experiment, space, problem, task, predict, lambda: study.digests, reporter)
        plan = Plan(space, controller, evaluator, objective, predict, rungs)
        search(plan, study, experiment.trials, experiment.seed, reporter, experiment.retry_failed)
        if experiment.worker:
            return {"trials": study.count, "evaluated": study.ended_here, "run": str(study.folder)}
        with finishing(experiment, study, reporter) as finished:
            if finished:
                return finished
            finals = find_finalists(experiment, space, task, study, evaluator, objective, reporter)
            result = finish(experiment, space, task, objective, study, evaluator, finals, ready, reporter)
            result["settings"] |= {"proxy": evaluator.settings, "span_ms": asdict(span), "table": str(table.path)}
            result["certificate"] = asdict(found) if (found := table.certificates.get(space.key)) else None
            result["evaluator_check"] = checked
            result["device"] = table.header["device"]
            write_json(study.folder / RESULT, result)
    return result


@contextlib.contextmanager
def finishing(experiment: Experiment, study: Study, reporter: Reporter) -> Iterator[dict[str, Any] | None]:
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


def find_finalists(
    experiment: Experiment,
    space: Space,
    task: Classification,
    study: Study,
    evaluator: Evaluator,
    objective: Objective,
    reporter: Reporter,
) -> Finals:
    """Evaluate the best candidates again, or train them. Raises UsageError where there are none."""
    if not study.trials:
        last = f", the last: {study.failed[-1][1]}" if study.failed else ""
        raise UsageError(f"--trials: no candidate of {study.count} was evaluated to its end{last}")
    most, rounds = experiment.finalists, experiment.finalist_seeds
    if experiment.train_finalists:
        trainer = ProxyTraining(Setup(task, space, study.folder, None, experiment.seed, reporter))
        finals = train_finalists(
            study, trainer, objective, experiment.target_ms, experiment.seed, experiment.train_finalists, rounds,
            reporter,
        )  # fmt: skip
    else:
        finals = evaluate_finalists(
            study, evaluator, objective, experiment.target_ms, experiment.seed, most, rounds, reporter
        )
    say_learnt(study, finals, reporter)
    return finals


def evaluation_words(experiment: Experiment, space: Space) -> str:
    """Return what becomes of a candidate, as a part of a sentence."""
    if experiment.evaluator == "proxy_training":
        return f"train for {space.proxy.epochs} epochs at {space.proxy.resolution} px"
    source = f" of {experiment.source}" if experiment.source else ""
    return f"are evaluated by {experiment.evaluator}{source}, the winner is trained"


def reach_of(space: Space, ready: Ready, target_ms: float, reporter: Reporter) -> Span:
    """Say what the space spans on the device; raise UsageError where nothing in it meets the target."""
    compiled = compile_space(space, ready.predictor.layer_ms)
    span = Span(compiled.fastest_ms, latency_distribution(compiled).quantile(0.5), compiled.slowest_ms)
    spelled = " / ".join(format_latency(ms) for ms in (span.fastest_ms, span.median_ms, span.slowest_ms))
    within = count_within(compiled, target_ms).likely / compiled.size
    reporter.say(
        f"{space.name} on {ready.place}: {spelled} (fastest / median / slowest); "
        f"{within:.1%} of it is within {format_latency(target_ms)}"
    )
    if target_ms < span.fastest_ms:
        raise UsageError(
            f"--target-latency: the fastest network of '{space.name}' takes {format_latency(span.fastest_ms)} "
            f"on {ready.place}: '{format_latency(target_ms)}' is out of reach"
        )
    return span


def finish(
    experiment: Experiment,
    space: Space,
    task: Classification,
    objective: Objective,
    study: Study,
    evaluator: Evaluator,
    finals: Finals,
    ready: Ready,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure the best candidates if the device is here, train and export the winner, and return the result."""

    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        return measure_networks(archs, experiment.runtime, experiment.threads, reporter, experiment.device)

    target_ms = experiment.target_ms
    waiting = as_finalists(study, finals)
    if ready.here:
        finalists = confirm(waiting, objective, target_ms, measure)
    else:
        finalists = unmeasured(waiting, objective, target_ms)
    say_finalists(finalists, target_ms, reporter)
    winner = finalists[0]
    verdict = verdict_facts(winner, target_ms, ready)
    arch = winner.trial.architecture
    model = first_weights(arch, evaluator, experiment.seed)
    checkpoints = study.folder / "winner"
    seen = train_winner(model, arch, task, space, experiment.seed, checkpoints, reporter)
    facts = {**winner_facts(winner, experiment, task, ready.table), **seen, **verdict}
    export_folder(arch, model, study.folder / "model", experiment.runtime, facts)
    shutil.rmtree(checkpoints, ignore_errors=True)
    draw_search(study.evaluated, finalists, target_ms, study.folder / "search.png")
    return {
        **run_facts(experiment, study),
        **noise_facts(finals),
        **verdict,
        "best": best_facts(winner, seen["test_accuracy"], study.folder / "model"),
        "finalists": [finalist_facts(finalist, study) for finalist in finalists],
        "settings": {**shown(experiment), "final": asdict(space.final), "training": seen["training"]},
    }


def as_finalists(study: Study, finals: Finals) -> list[Finalist]:
    """Return every trial that finished, not measured, with the accuracy to believe of it."""
    return [
        Finalist(trial, None, finals.estimates[digest], digest in finals.finalists)
        for trial in study.trials
        for digest in [trial.architecture.digest]
    ]


def say_learnt(study: Study, finals: Finals, reporter: Reporter) -> None:
    """Say what stopping saved, and how noisy evaluations are."""
    epochs = epoch_facts(study)
    if study.stopped:
        share = epochs["spent"] / epochs["full"]
        reporter.say(f"{epochs['spent']} epochs spent, {share:.0%} of the {epochs['full']} of full trainings")
    if finals.spread:
        noise, between = finals.spread.noise, finals.spread.between
        reporter.say(
            f"another seed moves an accuracy by {noise:.1%}, candidates differ by {between:.1%} (standard deviations; "
            f"{len(finals.finalists)} evaluated again, {epochs['finalists']} epochs)"
        )


def say_finalists(finalists: Sequence[Finalist], target_ms: float, reporter: Reporter) -> None:
    """Say what was measured, and whether anything holds the target."""
    for finalist in finalists:
        predicted, measured = format_latency(finalist.trial.metrics.latency_ms), finalist.measured
        seen = "not measured"
        if measured:
            span = f"{format_latency(measured.p10)} to {format_latency(measured.p90)}"
            seen = f"{format_latency(measured.median)} measured ({span})"
        accuracy = f"{finalist.estimate:.1%} {'estimated' if finalist.again else 'expected'}"
        reporter.say(f"{finalist.trial.architecture.digest}: {accuracy}, {seen}, {predicted} predicted")
    if not finalists[0].holds(target_ms):
        known = "measured" if finalists[0].measured else "predicted"
        reporter.warn(f"none of the {len(finalists)} {known} candidates holds {format_latency(target_ms)}")
