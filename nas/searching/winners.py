"""Winners: evaluates and measures the finalists of each goal, and trains and exports the best one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.devices.runtimes import is_exact
from nas.devices.timing import Latency
from nas.errors import ExportError, UsageError
from nas.evaluators import find_evaluator
from nas.evaluators.base import Evaluator
from nas.latency.graph_latency import measure_detector, measure_exported
from nas.latency.profiler import measure_networks
from nas.networks.export import export_folder
from nas.searching.against.comparison import Comparison, compare, measurement_facts, references_of
from nas.searching.budget.final_training import with_final_epochs
from nas.searching.context import SearchContext
from nas.searching.finalists import FinalistEstimates, Stage, evaluate_finalists, train_finalists
from nas.searching.plots import TestedNetwork, draw_search
from nas.searching.result import FinalistRecord, GoalResult, Verdict, count_epochs
from nas.searching.table_selection import LatencySpan, SelectedTable
from nas.searching.winner_training import (
    Finalist,
    WinnerTraining,
    best_predicted,
    first_weights,
    measure_best,
    train_seeds,
)
from nas.study.objectives import Goal
from nas.study.study import Study
from nas.training.deployed_network import calibration_for
from nas.training.exported_metric import add_to_card, exported_facts
from nas.training.tasks.metrics import spell
from nas.utils.reporting import Reporter
from nas.utils.units import format_latency

LARGEST_DROP = 0.05
"""A finalist that loses more of its metric by the precision of the runtime is replaced by the next one."""
MOST_TRAINED = 3
"""At most this many finalists are trained for one winner."""


@dataclass(frozen=True)
class FinishedSearch:
    """A search whose candidates are all evaluated.

    Attributes:
        context: What the search consists of.
        study: Its trials.
        evaluator: The evaluator of the candidates.
        tables: The latency table of each device.
        spans: The latencies that the space spans on each device.
        progress: The hypervolume after each candidate, for objectives with a front.
        measured: Measured latencies by device and architecture, shared by all goals.
        trained: Trained winners by architecture, shared by all goals.
        references: Trained references by architecture, shared by all goals.
        folders: The architecture of the reference in each exported folder.
    """

    context: SearchContext
    study: Study
    evaluator: Evaluator
    tables: tuple[SelectedTable, ...]
    spans: tuple[LatencySpan, ...]
    progress: Sequence[float] = ()
    measured: dict[tuple[int, str], Latency] = field(default_factory=dict)
    trained: dict[str, tuple[nn.Module, WinnerTraining]] = field(default_factory=dict)
    references: dict[str, tuple[nn.Module, WinnerTraining]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


def find_winners(search: FinishedSearch) -> tuple[GoalResult, ...]:
    """Return the result of each goal. Its winner is trained and exported into the run folder.

    Goals share their work: a network is evaluated again, measured and trained only once.

    Raises:
        UsageError: No candidate was evaluated to its end.
    """
    study, reporter = search.study, search.context.reporter
    if not study.trials:
        last = f", the last: {study.failed[-1].error}" if study.failed else ""
        raise UsageError(f"no candidate of {study.count} was evaluated to its end{last}", key="trials")
    found = []
    for goal in search.context.objective.goals:
        if goal.name:
            device = search.tables[goal.device].device_name
            reporter.say(f"goal {goal.name}: {format_latency(goal.target_ms)} on {device}")
        found.append(find_winner(search, goal))
    if any(result.export_error for result in found):
        return tuple(found)
    for goal in search.context.objective.goals:  # every winner is exported, so no checkpoint is needed any more
        shutil.rmtree(study.folder / file_name("winner", goal), ignore_errors=True)
    return tuple(found)


def find_winner(search: FinishedSearch, goal: Goal) -> GoalResult:
    """Evaluate, measure, train and export the winner of one goal, and return its result."""
    study, selected = search.study, search.tables[goal.device]
    with search.context.timed("finalists"):
        finalists, tied, estimates = choose_winner(search, goal)
        search = replace(search, context=with_lengths(search, goal, finalists[0].trial.architecture))
    context = search.context
    with context.timed("training"):
        winner, model, training = train_first_sound(search, goal, finalists)
        if winner is not finalists[0]:  # what is known of ties is known of the first one
            tied = None
            context.reporter.say(f"{winner.trial.digest} wins instead of {finalists[0].trial.digest}")
        finalists = [winner, *(each for each in finalists if each is not winner)]
    verdict = Verdict.of(winner, goal, selected)
    folder = study.folder / file_name("model", goal)
    card = {**card_facts(context, goal, winner, selected), **training.to_dict(), **verdict.to_dict()}
    export_error, exported = export_winner(context, selected, winner, model, training, folder, card)
    with context.timed("reference"):
        comparisons = compare(search, goal, winner, training)
    picture = study.folder / f"{file_name('search', goal)}.png"
    stars = tested_networks(winner, training, comparisons)
    draw_search(
        study.evaluated, finalists, context.objective, goal, picture, search.progress, context.task.metric, stars
    )
    title = f"{winner.trial.digest} on {context.task.data.name}: test {spell(training.report.metric)} "
    title += f"{training.report.metric_value:.1%}"
    report = training.report
    report.draw(title, study.folder / f"{file_name(Path(report.picture).stem, goal)}.png")
    return GoalResult(
        goal=goal,
        finalists=tuple(FinalistRecord.of(finalist, study) for finalist in finalists),
        noise_model=estimates.noise_model,
        verdict=verdict,
        report=training.report,
        training=training.training,
        accuracies=training.accuracies,
        float32=dict(training.float32),
        model=folder,
        table=selected,
        certificate=selected.table.certificates.get(context.space.key),
        span=search.spans[goal.device],
        export_error=export_error,
        exported=exported,
        training_problem=training.problem,
        tied=tied,
        against=tuple(comparison.to_dict() for comparison in comparisons),
    )


def export_winner(
    context: SearchContext,
    selected: SelectedTable,
    winner: Finalist,
    model: nn.Module,
    training: WinnerTraining,
    folder: Path,
    card: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Export a winner. Return why that failed, "" if it did not, and what is known of the exported files.

    Of a detector, that is the metric of the exported file, and the latency of network and post-processing. Of a network
    in a lower precision, it is the metric, the latency and the size of the file.
    """
    settings, task, arch = context.settings, context.task, winner.trial.architecture
    try:
        export_folder(
            arch, model, folder, settings.runtime, card, task.fit, keep_failed=True,
            images=calibration_for(settings.runtime, task, arch.resolution),
        )  # fmt: skip
    except ExportError as error:  # the result of the search is complete without it
        return str(error), {}
    facts = exported_facts(task, folder, arch, settings.runtime, training.report, context.reporter)
    if selected.can_measure and not is_exact(settings.runtime):
        whole = measure_exported(folder, settings.runtime, settings.threads, settings.device, context.reporter).latency
        add_to_card(folder, exported := {"latency_ms": {"exported": whole.median}, "size_bytes": whole.size_bytes})
        facts |= exported
    elif selected.can_measure:
        parts = measure_detector(folder, settings.runtime, settings.threads, settings.device, context.reporter)
        latency_ms = {"latency_ms": parts.to_dict()} if parts else {}
        add_to_card(folder, latency_ms)
        facts |= latency_ms
    return "", facts


def choose_winner(search: FinishedSearch, goal: Goal) -> tuple[list[Finalist], int | None, FinalistEstimates]:
    """Evaluate the best candidates again and measure them.

    Returns:
        The finalists, the winner first; how many other candidates may be as accurate, see `settle_ties`; the estimates.
    """
    context, study = search.context, search.study
    estimates = estimate_accuracies(search, goal)
    candidates = make_candidates(study, goal, estimates)
    if search.tables[goal.device].can_measure:
        finalists = measure_best(candidates, goal, lambda archs: measure_once(search, goal.device, archs))
    else:
        finalists = best_predicted(candidates, goal)
    report_finalists(finalists, goal.target_ms, context.reporter)
    return (*settle_ties(finalists, study, estimates, goal, context), estimates)


def with_lengths(search: FinishedSearch, goal: Goal, winner: Architecture) -> SearchContext:
    """Return the context with the epochs that winner and references get in what is left of the total time."""
    references = references_of(search.context, goal, winner, search.tables[goal.device])
    networks = {each.digest: each for each in (reference.at(winner.resolution) for reference in references)}
    networks.pop(winner.digest, None)
    return with_final_epochs(search.context, search.study, goal, winner, list(networks.values()))


def settle_ties(
    finalists: list[Finalist], study: Study, estimates: FinalistEstimates, goal: Goal, context: SearchContext
) -> tuple[list[Finalist], int | None]:
    """Return the finalists, the winner first, and how many other candidates may be as accurate as the winner.

    Latencies are certain, accuracies are not. So with the objective "soft", the fastest wins of the finalists that
    were evaluated again, hold the target and may be as accurate as the best one. The number is None if the noise is
    unknown.
    """
    best, reporter = finalists[0], context.reporter
    if estimates.noise_model is None or best.trial.digest not in estimates.evaluations:
        return finalists, None
    close = estimates.rivals(best.trial.digest)
    equals = [each for each in finalists if each.is_repeated and each.trial.digest in close]
    equals = [each for each in equals if each.holds(goal.target_ms)]
    fastest = min(equals, key=lambda each: each.latency_ms, default=best)
    if context.settings.objective == "soft" and best.holds(goal.target_ms) and fastest.latency_ms < best.latency_ms:
        reporter.say(
            f"{fastest.trial.digest} wins: its accuracy cannot be told from that of {best.trial.digest}, and it takes "
            f"{format_latency(fastest.latency_ms)} instead of {format_latency(best.latency_ms)}"
        )
        finalists = [fastest, *(each for each in finalists if each is not fastest)]
        close = estimates.rivals(fastest.trial.digest)
    tied = sum(goal.holds(trial.metrics) for trial in study.trials if trial.digest in close)
    others = max(0, sum(goal.holds(trial.metrics) for trial in study.trials) - 1)
    reporter.say(f"{tied} of the other {others} candidates within the target may be as accurate as the winner")
    return finalists, tied


def estimate_accuracies(search: FinishedSearch, goal: Goal) -> FinalistEstimates:
    """Evaluate the best candidates of a goal again, or train them, and return what accuracy to expect of each."""
    context, study, settings = search.context, search.study, search.context.settings
    if settings.train_finalists:  # without the time limit, which was meant for candidates that are only scored
        trainer = "proxy_training"
        changed = replace(
            settings, evaluator=trainer, accuracies=None, supernet=None, trial_timeout="", run=str(study.folder)
        )
        context = replace(context, settings=changed, evaluator=find_evaluator(trainer))
    stage = Stage(
        study, goal, settings.seed, settings.train_finalists or settings.finalists, settings.finalist_seeds,
        context.reporter, context.make_executor,
    )  # fmt: skip
    if settings.train_finalists:
        estimates = train_finalists(stage, context.make_evaluator())
    else:
        estimates = evaluate_finalists(stage, search.evaluator)
    report_noise(study, estimates, context.task.metric, context.reporter)
    return estimates


def make_candidates(study: Study, goal: Goal, estimates: FinalistEstimates) -> list[Finalist]:
    """Return all finished trials as the goal's device sees them, not measured, with their estimated accuracies."""
    return [
        Finalist(
            trial=replace(trial, metrics=trial.metrics.on(goal.device)),
            measured=None,
            estimate=estimates.accuracies[trial.digest],
            is_repeated=trial.digest in estimates.finalists,
        )
        for trial in study.trials
    ]


def measure_once(search: FinishedSearch, device: int, archs: Sequence[Architecture]) -> list[Latency]:
    """Return the latencies of networks on a device. Only those that no goal has measured yet are measured."""
    settings, measured = search.context.settings, search.measured
    missing = [arch for arch in archs if (device, arch.digest) not in measured]
    if missing:
        latencies = measure_networks(
            missing, settings.runtime, settings.threads, search.context.reporter, settings.device
        )
        measured.update(((device, arch.digest), ms) for arch, ms in zip(missing, latencies, strict=True))
    return [measured[device, arch.digest] for arch in archs]


def train_first_sound(
    search: FinishedSearch, goal: Goal, finalists: Sequence[Finalist]
) -> tuple[Finalist, nn.Module, WinnerTraining]:
    """Train the finalists within the target, in their order, until the precision of the runtime costs one little.

    Returns:
        That finalist, its network and its training. If the precision costs all of them much, those with the best
        metric on the validation images, in this precision.
    """
    reporter, tried = search.context.reporter, list[tuple[Finalist, nn.Module, WinnerTraining]]()
    others = [each for each in finalists[1:] if each.holds(goal.target_ms)]
    some = [finalists[0], *others][:MOST_TRAINED]
    for finalist in some:
        model, training = train_once(search, goal, finalist.trial.architecture)
        tried.append((finalist, model, training))
        if training.drop <= LARGEST_DROP:
            return tried[-1]
        reporter.warn(
            f"{finalist.trial.digest}: {search.context.settings.runtime} costs {100 * training.drop:.1f} points of "
            f"validation {spell(training.report.metric)}, more than {100 * LARGEST_DROP:.0f}"
            + ("; trying the next finalist" if finalist is not some[-1] else "")
        )
    return max(tried, key=lambda each: each[2].validation[f"validation_{each[2].report.metric}"])


def train_once(search: FinishedSearch, goal: Goal, arch: Architecture) -> tuple[nn.Module, WinnerTraining]:
    """Return the trained network of a goal's winner, trained now unless it has won another goal before."""
    context = search.context
    if arch.digest not in search.trained:
        checkpoints, pretrained = search.study.folder / file_name("winner", goal), context.pretrained
        search.trained[arch.digest] = train_seeds(
            context, lambda seed: first_weights(arch, seed, pretrained, search.evaluator), arch, checkpoints
        )
    return search.trained[arch.digest]


def tested_networks(
    winner: Finalist, training: WinnerTraining, comparisons: Sequence[Comparison]
) -> list[TestedNetwork]:
    """Return what the picture shows of the tests: the winner and its references; nothing without a reference."""
    points = [
        TestedNetwork(each.reference.name, each.latency_ms, each.training.report.metric_value)
        for each in comparisons
        if each.latency_ms is not None
    ]
    return [TestedNetwork("winner", winner.latency_ms, training.report.metric_value), *points] if points else []


def file_name(kind: str, goal: Goal) -> str:
    """Return the name of a goal's folder or picture: "model" for the only goal, else for example "model-20ms"."""
    return f"{kind}-{goal.name}" if goal.name else kind


def card_facts(context: SearchContext, goal: Goal, winner: Finalist, selected: SelectedTable) -> dict[str, Any]:
    """Return what the exported model card holds about the search."""
    predicted_ms = winner.trial.metrics.latency_ms
    facts = measurement_facts(context, goal, selected, predicted_ms, winner.measured)
    return {"accuracy": winner.trial.metrics.accuracy, **facts}


def report_noise(study: Study, estimates: FinalistEstimates, metric: str, reporter: Reporter) -> None:
    """Report what early stopping has saved and how noisy evaluations are."""
    epochs, noise = count_epochs(study), estimates.noise_model
    if study.stopped:
        share = epochs.spent / epochs.full
        reporter.say(f"{epochs.spent} epochs spent, {share:.0%} of the {epochs.full} of full trainings")
    if noise:
        reporter.say(
            f"standard deviation of the {spell(metric)}: {noise.noise:.1%} between seeds, {noise.between:.1%} between "
            f"candidates ({len(estimates.finalists)} evaluated again for {epochs.finalists} epochs)"
        )


def report_finalists(finalists: Sequence[Finalist], target_ms: float, reporter: Reporter) -> None:
    """Report the latency and accuracy of each finalist, and warn if none holds the target."""
    for finalist in finalists:
        predicted, measured = format_latency(finalist.trial.metrics.latency_ms), finalist.measured
        latency = "not measured"
        if measured:
            span = f"{format_latency(measured.p10)} to {format_latency(measured.p90)}"
            latency = f"{format_latency(measured.median)} measured ({span})"
        accuracy = f"{finalist.estimate:.1%} {'estimated' if finalist.is_repeated else 'expected'}"
        reporter.say(f"{finalist.trial.digest}: {accuracy}, {latency}, {predicted} predicted")
    if not finalists[0].holds(target_ms):
        known = "measured" if finalists[0].measured else "predicted"
        reporter.warn(f"none of the {len(finalists)} {known} candidates meets {format_latency(target_ms)}")
