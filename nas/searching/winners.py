"""From a search's trials to the winner of each goal: finalists again and on the device, training, export, pictures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.errors import UsageError
from nas.evaluators.base import Evaluator
from nas.latency.profiler import measure_networks
from nas.networks.export import export_folder
from nas.searching.finalists import FinalistEstimates, Stage, evaluate_finalists, train_finalists
from nas.searching.plots import draw_search
from nas.searching.result import best_facts, epoch_facts, finalist_facts, noise_facts, verdict_facts, winner_facts
from nas.searching.settings import SearchSettings, make_evaluator, make_executor
from nas.searching.table_selection import SelectedTable
from nas.searching.winner_training import Finalist, confirm, first_weights, train_winner, unmeasured
from nas.spaces.search_space import Space
from nas.study.objectives import Goal, Objective
from nas.study.study import Study
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency


@dataclass(frozen=True)
class FinishedSearch:
    """A search whose trials are done, and the tables of its devices."""

    experiment: SearchSettings
    space: Space
    task: Classification
    study: Study
    evaluator: Evaluator
    objective: Objective
    tables: tuple[SelectedTable, ...]
    reporter: Reporter


def find_winners(ended: FinishedSearch, progress: Sequence[float] = ()) -> list[dict[str, Any]]:
    """Return for each goal what the result says of it: its winner stands trained and exported in the run's folder.

    `progress` is the hypervolume after each candidate, for the pictures. A network that wins several goals is trained
    once, and a finalist of several is evaluated and measured once. Raises UsageError where no candidate was evaluated
    to its end.
    """
    study = ended.study
    if not study.trials:
        last = f", the last: {study.failed[-1][1]}" if study.failed else ""
        raise UsageError(f"--trials: no candidate of {study.count} was evaluated to its end{last}")
    measured: dict[tuple[int, str], Latency] = {}
    trained: dict[str, tuple[nn.Module, dict[str, Any]]] = {}
    found = []
    for goal in ended.objective.goals:
        if goal.name:
            ended.reporter.say(
                f"goal {goal.name}: {format_latency(goal.target_ms)} on {ended.tables[goal.device].place}"
            )
        found.append(finish(ended, goal, find_finalists(ended, goal), measured, trained, progress))
    for goal in ended.objective.goals:  # all are exported: no training is to be continued
        shutil.rmtree(study.folder / file_name("winner", goal), ignore_errors=True)
    return found


def find_finalists(ended: FinishedSearch, goal: Goal) -> FinalistEstimates:
    """Evaluate a goal's best candidates again, or train them."""
    experiment, study, task, space = ended.experiment, ended.study, ended.task, ended.space
    most, by = experiment.train_finalists or experiment.finalists, experiment
    if experiment.train_finalists:  # with no limit: that of a candidate which is only scored is short
        by = replace(
            by, evaluator="proxy_training", accuracies=None, supernet=None, trial_timeout="", run=str(study.folder)
        )
    executor = partial(make_executor, by, task, space, ended.reporter)
    stage = Stage(study, goal, experiment.seed, most, experiment.finalist_seeds, ended.reporter, executor)
    if experiment.train_finalists:
        finals = train_finalists(stage, make_evaluator(by, task, space, ended.reporter))
    else:
        finals = evaluate_finalists(stage, ended.evaluator)
    say_learnt(study, finals, ended.reporter)
    return finals


def finish(
    ended: FinishedSearch,
    goal: Goal,
    finals: FinalistEstimates,
    measured: dict[tuple[int, str], Latency],
    trained: dict[str, tuple[nn.Module, dict[str, Any]]],
    progress: Sequence[float],
) -> dict[str, Any]:
    """Measure a goal's best candidates if its device is here, train and export the winner; return what is said of it.

    What other goals measured, by device and architecture, and trained, by architecture, is taken from there.
    """
    experiment, study, ready = ended.experiment, ended.study, ended.tables[goal.device]

    def measure(archs: Sequence[Architecture]) -> list[Latency]:
        fresh = [arch for arch in archs if (goal.device, arch.digest) not in measured]
        if fresh:
            args = experiment.runtime, experiment.threads, ended.reporter, experiment.device
            latencies = measure_networks(fresh, *args)
            measured.update(((goal.device, a.digest), ms) for a, ms in zip(fresh, latencies, strict=True))
        return [measured[goal.device, arch.digest] for arch in archs]

    waiting = as_finalists(study, goal, finals)
    finalists = confirm(waiting, goal, measure) if ready.here else unmeasured(waiting, goal)
    say_finalists(finalists, goal.target_ms, ended.reporter)
    winner = finalists[0]
    arch = winner.trial.architecture
    if arch.digest not in trained:
        model = first_weights(arch, ended.evaluator, experiment.seed)
        checkpoints = study.folder / file_name("winner", goal)
        seen = train_winner(model, arch, ended.task, ended.space, experiment.seed, checkpoints, ended.reporter)
        trained[arch.digest] = model, seen
    model, seen = trained[arch.digest]
    verdict = verdict_facts(winner, goal.target_ms, ready)
    folder = study.folder / file_name("model", goal)
    facts = {**winner_facts(winner, goal.target_ms, experiment, ended.task, ready.table), **seen, **verdict}
    export_folder(arch, model, folder, experiment.runtime, facts)
    picture = study.folder / f"{file_name('search', goal)}.png"
    draw_search(study.evaluated, finalists, ended.objective, goal, picture, progress)
    return {
        **noise_facts(finals),
        **verdict,
        "best": best_facts(winner, seen["test_accuracy"], folder),
        "finalists": [finalist_facts(finalist, study) for finalist in finalists],
        "training": seen["training"],
    }


def file_name(kind: str, goal: Goal) -> str:
    """Return what a goal's folder or picture is called: "model" of the only one, else "model-20ms"."""
    return f"{kind}-{goal.name}" if goal.name else kind


def as_finalists(study: Study, goal: Goal, finals: FinalistEstimates) -> list[Finalist]:
    """Return every trial that finished as the goal's device sees it, not measured, with the accuracy to believe."""
    return [
        Finalist(
            replace(trial, metrics=trial.metrics.on(goal.device)), None, finals.estimates[digest],
            digest in finals.finalists,
        )
        for trial in study.trials
        for digest in [trial.digest]
    ]  # fmt: skip


def say_learnt(study: Study, finals: FinalistEstimates, reporter: Reporter) -> None:
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
        reporter.say(f"{finalist.trial.digest}: {accuracy}, {seen}, {predicted} predicted")
    if not finalists[0].holds(target_ms):
        known = "measured" if finalists[0].measured else "predicted"
        reporter.warn(f"none of the {len(finalists)} {known} candidates holds {format_latency(target_ms)}")
