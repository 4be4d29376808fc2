"""Comparison: trains, tests, measures and exports the references as the winner, and reports the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.errors import NasError
from nas.latency.profiler import measure_networks, table_header
from nas.latency.table import IDENTITY
from nas.networks.export import export_folder
from nas.networks.network import totals, trace
from nas.searching.against.choice import choose, predict
from nas.searching.against.paired_test import Difference, paired_difference
from nas.searching.against.references import Reference
from nas.searching.context import SearchContext
from nas.searching.settings import AUTO
from nas.searching.table_selection import SelectedTable
from nas.searching.winner_training import Finalist, WinnerTraining, first_weights, train_seeds
from nas.study.objectives import Goal
from nas.training.deployed_network import calibration_for
from nas.training.tasks.metrics import named

if TYPE_CHECKING:
    from nas.searching.winners import FinishedSearch

SAME_NETWORK = "the search found this network itself"
FAVORS_WINNER = (
    "the winner started from the supernet's trained weights and the reference did not: this favors the winner"
)
SHARED_WEIGHTS = "trained"
"""The method of evaluators that provide trained weights for the winner."""


@dataclass(frozen=True)
class Comparison:
    """A reference beside the winner of one goal.

    Attributes:
        reference: The reference.
        architecture: The network at the winner's resolution.
        training: Its training and test.
        difference: The winner's metric minus the reference's.
        predicted_ms: The predicted latency in ms; None if the table does not cover its layers.
        measured: The measured latency; None without the device.
        winner: The winner's latency, measured at the same time.
        winner_epochs: The epochs of the winner's training.
        target_ms: The target in ms.
        folder: The folder of the exported network.
        export_error: Why the export failed, "" if it did not.
    """

    reference: Reference
    architecture: Architecture
    training: WinnerTraining
    difference: Difference
    predicted_ms: float | None
    measured: Latency | None
    winner: Latency | None
    winner_epochs: int
    target_ms: float
    folder: Path
    export_error: str = ""

    @property
    def latency_ms(self) -> float | None:
        """The measured median, else the prediction, else None."""
        return self.measured.median if self.measured else self.predicted_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as `result.json` holds it."""
        report, whole, latency_ms = self.training.report, totals(trace(self.architecture)), self.latency_ms
        return {
            "name": self.reference.name,
            "architecture": self.architecture.digest,
            "resolution": self.architecture.input_size,
            "published_ap" if self.reference.is_detector else "published_top1": self.reference.published,
            "metric": report.metric,
            **named("test", report.accuracy, report.metric, report.metric_value),
            "accuracies": self.training.accuracies,
            **({"float32": dict(self.training.float32)} if self.training.float32 else {}),
            "epochs": self.training.epochs,
            "winner_epochs": self.winner_epochs,
            "latency_ms": _times(self.predicted_ms, self.measured),
            "winner_latency_ms": _times(None, self.winner),
            "holds_target": None if latency_ms is None else latency_ms <= self.target_ms,
            "is_winner": self.difference.basis == SAME_NETWORK,
            "params": whole.params,
            "macs": whole.macs,
            "model": str(self.folder),
            "difference": asdict(self.difference),
            **({"export_error": self.export_error} if self.export_error else {}),
        }


def _times(predicted_ms: float | None, measured: Latency | None) -> dict[str, float | None]:
    """Return a latency in ms as results hold it."""
    times = {key: getattr(measured, name) if measured else None for key, name in
             (("measured", "median"), ("p10", "p10"), ("p90", "p90"))}  # fmt: skip
    return {"predicted": predicted_ms, **times}


def compare(search: FinishedSearch, goal: Goal, winner: Finalist, training: WinnerTraining) -> list[Comparison]:
    """Train, test, measure and export the references of a goal, and compare them with its winner.

    Each reference has the winner's resolution. It is trained by the same function with the same seed and images. All
    of them are measured together with the winner, interleaved. A reference whose training fails is left out, with a
    warning: the result of the search is complete without it.

    Args:
        search: The search.
        goal: The goal.
        winner: The winner.
        training: The training and test of the winner.
    """
    context, arch = search.context, winner.trial.architecture
    selected = search.tables[goal.device]
    references = {each.at(arch.resolution).digest: each for each in references_of(context, goal, arch, selected)}
    trained: list[tuple[Reference, Architecture, nn.Module, WinnerTraining]] = []
    for reference in references.values():
        network = reference.at(arch.resolution)
        try:
            trained.append((reference, network, *_train_once(search, goal, reference, network)))
        except NasError as error:
            context.reporter.warn(f"--against {reference.name}: it is left out of the comparison: {error}")
    latencies = measure_beside(context, selected, arch, [network for _, network, _, _ in trained])
    found = []
    for reference, network, model, tested in trained:
        difference = _difference(search, training, tested)
        predicted_ms, measured = predict(network, selected.predictor), latencies.get(network.digest)
        card = {
            **measurement_facts(context, goal, selected, predicted_ms, measured),
            "compared_with": arch.digest,
            "difference": asdict(difference),
            **tested.to_dict(),
        }
        folder = search.study.folder / _folder_name(search, reference, network)
        found.append(Comparison(
            reference, network, tested, difference, predicted_ms, measured, latencies.get(arch.digest),
            training.epochs, goal.target_ms, folder, _export(context, network, model, folder, card),
        ))  # fmt: skip
    return found


def references_of(
    context: SearchContext, goal: Goal, winner: Architecture, selected: SelectedTable
) -> tuple[Reference, ...]:
    """Return the references of a goal. At another resolution than the choice was made for, it is made again."""
    references = context.references
    if AUTO not in references.names or winner.resolution == max(context.space.resolution):
        return references.of(goal)
    context.reporter.say(f"the winner has {winner.input_size} px: the reference is chosen for this resolution")
    chosen = choose(context, goal, selected, winner.resolution)
    return (*references.named, *([chosen] if chosen else []))


def measure_beside(
    context: SearchContext, selected: SelectedTable, winner: Architecture, references: list[Architecture]
) -> Mapping[str, Latency]:
    """Return the latencies of the winner and the references, measured interleaved, by digest; {} without a device."""
    settings = context.settings
    networks = list({arch.digest: arch for arch in (winner, *references)}.values())
    if not references or not selected.can_measure:
        return {}
    latencies = measure_networks(networks, settings.runtime, settings.threads, context.reporter, settings.device)
    return {arch.digest: latency for arch, latency in zip(networks, latencies, strict=True)}


def measurement_facts(
    context: SearchContext, goal: Goal, selected: SelectedTable, predicted_ms: float | None, measured: Latency | None
) -> dict[str, Any]:
    """Return what an exported model card holds about the data, the latency and the device."""
    settings, table = context.settings, selected.table
    measured_on = table_header(settings.runtime, settings.threads, settings.device) if measured else None
    return {
        "data": {"name": context.task.data.name, "classes": list(context.task.data.classes)},
        "latency_ms": {**_times(predicted_ms, measured), "target": goal.target_ms},
        **{name: getattr(measured, name) if measured else None for name in ("size_bytes", "memory_bytes", "energy_mj")},
        "measured_on": measured_on,
        "predicted_by": {"table": table.path.stem, **{key: table.header[key] for key in IDENTITY}},
        "seed": settings.seed,
    }


def _train_once(
    search: FinishedSearch, goal: Goal, reference: Reference, arch: Architecture
) -> tuple[nn.Module, WinnerTraining]:
    """Return the trained network of a reference, trained now unless it was trained for another goal or has won one."""
    context, has_weights = search.context, hasattr(search.evaluator, SHARED_WEIGHTS)
    if arch.digest in search.trained and not has_weights:
        return search.trained[arch.digest]
    if arch.digest not in search.references:
        context.reporter.say(f"training the reference {reference.name} in the same way as the winner")
        if epochs := context.reference_epochs.get(arch.digest):
            final = replace(context.space.final, full_epochs=epochs)
            context = replace(context, space=replace(context.space, final=final))
        checkpoints = search.study.folder / (f"winner-{goal.name}" if goal.name else "winner")
        checkpoints = checkpoints / "against" if has_weights else checkpoints
        name, pretrained = f"the reference {reference.name}", context.pretrained
        search.references[arch.digest] = train_seeds(
            context, lambda seed: first_weights(arch, seed, pretrained), arch, checkpoints, name
        )
    return search.references[arch.digest]


def _difference(search: FinishedSearch, winner: WinnerTraining, reference: WinnerTraining) -> Difference:
    """Return the difference between the winner and a reference, and report if the comparison favors the winner."""
    if winner is reference:
        return Difference(0.0, 0.0, SAME_NETWORK)
    difference = paired_difference(winner.reports, reference.reports)
    if reference.epochs < winner.epochs:
        same = f"in the same time, the reference trained {reference.epochs} epochs and the winner {winner.epochs}"
        difference = replace(difference, basis=f"{difference.basis}; {same}")
    if not hasattr(search.evaluator, SHARED_WEIGHTS):
        return difference
    search.context.reporter.warn(FAVORS_WINNER)
    return Difference(difference.mean, difference.plus_minus, f"{difference.basis}; {FAVORS_WINNER}")


def _folder_name(search: FinishedSearch, reference: Reference, arch: Architecture) -> str:
    """Return the name of the exported folder: "against-NAME", with the digest if another network has that name."""
    name = f"against-{reference.label}"
    owner = search.folders.setdefault(name, arch.digest)
    return name if owner == arch.digest else f"{name}-{arch.digest}"


def _export(context: SearchContext, arch: Architecture, model: nn.Module, folder: Path, card: dict[str, Any]) -> str:
    """Export a reference, and return why that failed: "" if it did not."""
    try:
        export_folder(
            arch, model, folder, context.settings.runtime, card, context.task.fit, keep_failed=True,
            images=calibration_for(context.settings.runtime, context.task, arch.resolution),
        )  # fmt: skip
    except NasError as error:
        context.reporter.warn(f"{folder}: the reference cannot be exported: {error}")
        return str(error)
    return ""
