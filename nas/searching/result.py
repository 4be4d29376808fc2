"""The result of a search: what `result.json` and the exported model card hold."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas.devices.timing import Latency
from nas.errors import RunError
from nas.latency.calibration import Certificate
from nas.networks.export import versions
from nas.searching.early_stopping import spent
from nas.searching.settings import SearchSettings
from nas.searching.table_selection import LatencySpan, SelectedTable
from nas.searching.winner_training import Finalist
from nas.study.evaluation_noise import NoiseModel
from nas.study.multi_goal import listed_ms
from nas.study.objectives import DEFAULT_AXES, Goal, Metrics, Objective
from nas.study.pareto import growth
from nas.study.ranking import ReferencePoint, front, gains
from nas.study.study import RESULT, Repeat, Study, Trial
from nas.training.tasks.base import Report
from nas.utils.files import read_json, write_json

FINALIST_SETTINGS = ("finalists", "finalist_seeds", "train_finalists")
"""Settings that choose the winner. A finished run with other values is continued."""


@dataclass(frozen=True)
class TrialRecord:
    """A candidate: its number, digest and metrics, its accuracy after each epoch, and the epoch that stopped it."""

    number: int
    architecture: str
    metrics: Metrics
    curve: tuple[float, ...]
    stopped_at: int | None

    @classmethod
    def of(cls, trial: Trial) -> TrialRecord:
        """Return the record of a study's trial."""
        return cls(trial.number, trial.digest, trial.metrics, trial.curve, trial.stopped_at)

    def summary(self) -> dict[str, Any]:
        """Return the record without its curve."""
        return {"number": self.number, "architecture": self.architecture, **self.metrics.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Return the whole record."""
        return {**self.summary(), "curve": list(self.curve), "stopped_at": self.stopped_at}


@dataclass(frozen=True)
class EpochCounts:
    """Epochs of training, without failed candidates.

    Attributes:
        spent: Epochs of all candidates.
        full: Epochs that full trainings of them would take.
        finalists: Further epochs of the finalists.
    """

    spent: int
    full: int
    finalists: int


def count_epochs(study: Study) -> EpochCounts:
    """Return the epochs that a study's candidates and finalists have taken."""
    return EpochCounts(
        spent=spent(trial.curve for trial in study.evaluated),
        full=max(len(trial.curve) for trial in study.trials) * len(study.evaluated),
        finalists=spent(repeat.curve for repeat in study.repeats.values()),
    )


@dataclass(frozen=True)
class FrontRecord:
    """The Pareto front's axes and its growth.

    Attributes:
        axes: The axes of the front.
        reference: The reference point of the hypervolume, by axis.
        hypervolume: The dominated volume after each candidate, as a share of the box between the reference point and
            a network of accuracy 1 that costs nothing. Stopped candidates add nothing.
    """

    axes: tuple[str, ...]
    reference: ReferencePoint
    hypervolume: list[float]

    @classmethod
    def of(cls, study: Study, objective: Objective, reference: ReferencePoint) -> FrontRecord:
        """Return the record of a study's front."""
        points = [
            None if trial.stopped_at else gains(trial.metrics, objective.axes, reference) for trial in study.evaluated
        ]
        return cls(tuple(objective.axes), reference, growth(points))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as `result.json` holds it."""
        reference = {axis: list(values) for axis, values in self.reference.items()}
        return {"axes": list(self.axes), "reference": reference, "hypervolume": self.hypervolume}


@dataclass(frozen=True)
class Verdict:
    """Whether a winner holds its target.

    Attributes:
        holds: Whether its latency is within the target.
        is_measured: Whether that latency was measured. Otherwise it is predicted.
        basis: Where the latency comes from, in words.
    """

    holds: bool
    is_measured: bool
    basis: str

    @classmethod
    def of(cls, winner: Finalist, goal: Goal, selected: SelectedTable) -> Verdict:
        """Return the verdict on a goal's winner."""
        name, is_measured = selected.device_name, winner.measured is not None
        predicted = f"predicted by {selected.table.path.stem}, {name}; not measured, the device is not available"
        return cls(winner.holds(goal.target_ms), is_measured, f"measured on {name}" if is_measured else predicted)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict; `holds_target` is None when the latency was not measured."""
        predicted = {} if self.is_measured else {"predicted_to_hold_target": self.holds}
        return {"holds_target": self.holds if self.is_measured else None, **predicted, "latency_basis": self.basis}


@dataclass(frozen=True)
class FinalistRecord:
    """A finalist, with its estimated accuracy, its evaluations with other seeds and its measured latency."""

    trial: TrialRecord
    estimate: float
    repeats: tuple[Repeat, ...]
    measured: Latency | None

    @classmethod
    def of(cls, finalist: Finalist, study: Study) -> FinalistRecord:
        """Return the record of a study's finalist."""
        repeats = tuple(repeat for repeat in study.repeats.values() if repeat.repeat_of == finalist.trial.digest)
        return cls(TrialRecord.of(finalist.trial), finalist.estimate, repeats, finalist.measured)

    def to_dict(self) -> dict[str, Any]:
        """Return the record; `longer` is the factor by which a repeat's training was longer."""
        return {
            **self.trial.summary(),
            "estimate": self.estimate,
            "repeats": [
                {"seed": repeat.seed, "longer": repeat.longer, "accuracy": repeat.curve[-1] if repeat.curve else None}
                for repeat in self.repeats
            ],
            "measured_ms": asdict(self.measured) if self.measured else None,
        }


@dataclass(frozen=True)
class GoalResult:
    """The winner of one goal.

    Attributes:
        goal: The goal.
        finalists: The finalists; the first one is the winner.
        noise_model: The noise of evaluations, None when nothing was repeated.
        verdict: Whether the winner holds the target.
        report: The winner's test. Nothing else has used the test images.
        training: The phases of the winner's training.
        model: The folder of the exported winner.
        table: The latency table of the goal's device.
        certificate: The table's checked error in this space, if it was checked.
        span: The latencies that the space spans on the device.
        export_error: Why the export failed, "" if it did not.
        training_problem: Why the winner's training taught nothing, "" if it did.
        tied: How many other candidates within the target may be as accurate, given the noise; None if it is unknown.
        against: The comparisons with references, see `Comparison.to_dict`.
        accuracies: The metric of the winner on the test images by the seed of its training.
        exported: What `export_winner` knows of the exported files.
        float32: The metrics of the winner in float32, if its tests are those of another precision.
    """

    goal: Goal
    finalists: tuple[FinalistRecord, ...]
    noise_model: NoiseModel | None
    verdict: Verdict
    report: Report
    training: list[dict[str, Any]]
    model: Path
    table: SelectedTable
    certificate: Certificate | None
    span: LatencySpan
    export_error: str = ""
    training_problem: str = ""
    tied: int | None = None
    against: tuple[dict[str, Any], ...] = ()
    accuracies: dict[str, float] = field(default_factory=dict)
    exported: dict[str, Any] = field(default_factory=dict)
    float32: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any]:
        """The winner as `result.json` holds it."""
        winner = self.finalists[0]
        metrics, measured = winner.trial.metrics, winner.measured
        return {
            "architecture": winner.trial.architecture,
            "accuracy": metrics.accuracy,
            "estimate": winner.estimate,
            **self.report.to_dict(),
            "accuracies": self.accuracies,
            **({"float32": self.float32} if self.float32 else {}),
            **self.exported,
            "latency_ms": {
                "predicted": metrics.latency_ms,
                "measured": measured.median if measured else None,
                **self.exported.get("latency_ms", {}),
            },
            "params": metrics.params,
            "macs": metrics.macs,
            "model": str(self.model),
        }

    @property
    def conditions(self) -> dict[str, Any]:
        """The training, the span and the table. They belong to the settings when there is only one goal."""
        table = str(self.table.table.path)
        return {"training": self.training, "span_ms": self.span.to_dict(), "table": table}

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the goal without its conditions."""
        named = {"name": self.goal.name, "target_latency_ms": self.goal.target_ms} if self.goal.name else {}
        return {
            **named,
            "noise": self.noise_model.noise if self.noise_model else None,
            "noise_model": asdict(self.noise_model) if self.noise_model else None,
            "tied": self.tied,
            **self.verdict.to_dict(),
            "best": self.best,
            "finalists": [finalist.to_dict() for finalist in self.finalists],
            "against": list(self.against),
            "certificate": asdict(self.certificate) if self.certificate else None,
            "device": self.table.table.header["device"],
            **{key: getattr(self, key) for key in ("export_error", "training_problem") if getattr(self, key)},
        }


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        settings: The search's settings.
        study: Its trials.
        objective: What was maximized.
        front: The growth of the Pareto front, for objectives that have one.
        goals: The winner of each goal.
        recorded: The settings as the result holds them, with those that the space and the evaluator decided.
        evaluator_check: How well the evaluator ranks candidates, if that was checked.
        evaluator_certificate: How well its accuracies tell candidates apart; None if every candidate has one accuracy.
        budget: The total time and the seconds of each part; None if the parts were set by hand.
        date: When the search finished.
    """

    settings: SearchSettings
    study: Study
    objective: Objective
    front: FrontRecord | None
    goals: tuple[GoalResult, ...]
    recorded: dict[str, Any]
    evaluator_check: dict[str, Any] | None
    evaluator_certificate: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    date: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def to_dict(self) -> dict[str, Any]:
        """Return what `result.json` holds. A single goal is not in a list."""
        study = self.study
        best = front([trial.metrics for trial in study.trials], self.objective.axes or DEFAULT_AXES)
        result = {
            "target_latency_ms": listed_ms(self.settings.targets),
            "objective": self.settings.objective,
            "metric": self.settings.metric,
            "trials": len(study.evaluated),
            "stopped": len(study.stopped),
            "failed": [{"architecture": trial.digest, "error": trial.error} for trial in study.failed],
            "seed": self.settings.seed,
            "front": [TrialRecord.of(study.trials[index]).summary() for index in best],
            "candidates": [TrialRecord.of(trial).to_dict() for trial in study.evaluated],
            "epochs": asdict(count_epochs(study)),
            "versions": versions(),
            "date": self.date.isoformat(timespec="seconds"),
            **(self.front.to_dict() if self.front else {}),
        }
        if len(self.goals) == 1:
            result |= {**self.goals[0].to_dict(), "settings": {**self.recorded, **self.goals[0].conditions}}
        else:
            goals = [{**goal.to_dict(), **goal.conditions} for goal in self.goals]
            result |= {"goals": goals, "settings": self.recorded}
        certificate = {"evaluator_certificate": self.evaluator_certificate}
        timed = {"budget": self.budget} if self.budget else {}
        return {**result, "evaluator_check": self.evaluator_check, **certificate, **timed}


def write_result(result: SearchResult) -> dict[str, Any]:
    """Write `result.json` into the run folder and return what it holds."""
    content = result.to_dict()
    write_json(result.study.folder / RESULT, content)
    return content


def read_finished(settings: SearchSettings, trials: int) -> dict[str, Any] | None:
    """Return what `result.json` holds if the search needs nothing more, else None.

    Args:
        settings: The settings of the search.
        trials: How many candidates it needs.

    Raises:
        RunError: The file is broken.
    """
    result = read_complete(settings, trials)
    return None if result is None or missing_models(settings.folder, result) else result


def read_complete(settings: SearchSettings, trials: int) -> dict[str, Any] | None:
    """Return what `result.json` holds as `read_finished` does, also if a winner was not exported."""
    path = settings.folder / RESULT
    if not path.is_file():
        return None
    result = read_json(path)
    try:
        is_done = result["trials"] + len(result["failed"]) >= trials
        is_done = is_done and not (settings.retry_failed and result["failed"])
        is_same = all(result["settings"].get(key, 0) == getattr(settings, key) for key in FINALIST_SETTINGS)
        is_same = is_same and result["settings"].get("final_seeds", 1) == settings.final_seeds
    except (KeyError, TypeError) as error:
        raise RunError(
            f"not the result of a search: {error!r}; delete the file to write it again", where=path
        ) from error
    return result if is_done and is_same and result.get("goals", [result]) else None


def missing_models(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Return the folders of the winners that are not exported."""
    models = [f"model-{goal['name']}" for goal in result["goals"]] if "goals" in result else ["model"]
    return [folder / model for model in models if not (folder / model / "card.json").is_file()]
