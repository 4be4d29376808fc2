"""What `result.json` and the exported card hold: facts of a finished run as plain dicts, and a result read back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.errors import RunError
from nas.latency.profiler import table_header
from nas.latency.table import IDENTITY, LatencyTable
from nas.networks.export import versions
from nas.searching.early_stopping import spent
from nas.searching.finalists import FinalistEstimates
from nas.searching.settings import SearchSettings
from nas.searching.table_selection import SelectedTable
from nas.searching.winner_training import Finalist
from nas.spaces.search_space import Space
from nas.study.multi_goal import listed_ms
from nas.study.objectives import DEFAULT_AXES, Objective
from nas.study.pareto import growth
from nas.study.ranking import ReferencePoint, front, gains
from nas.study.study import RESULT, Study, Trial
from nas.training.tasks.classification import Classification
from nas.utils.files import read_json

FINALIST_SETTINGS = ("finalists", "finalist_seeds", "train_finalists")


def finished_result(experiment: SearchSettings, trials: int) -> dict[str, Any] | None:
    """Return the result of a run folder with so many `trials`, of these finalists, whose winner is exported.

    Raises RunError where the file is broken.
    """
    path = experiment.folder / RESULT
    if not path.is_file():
        return None
    result = read_json(path)
    try:
        done = result["trials"] + len(result["failed"]) >= trials
        done = done and not (experiment.retry_failed and result["failed"])
        same = all(result["settings"].get(key, 0) == getattr(experiment, key) for key in FINALIST_SETTINGS)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not the result of a search: {error!r}; without the file it is made again") from error
    folders = [f"model-{goal['name']}" for goal in result["goals"]] if "goals" in result else ["model"]
    exported = all((experiment.folder / folder / "card.json").is_file() for folder in folders)
    return result if done and same and exported else None


def best_facts(winner: Finalist, test_accuracy: float, model: Path) -> dict[str, Any]:
    """Return what the result says of the winner."""
    trial, measured = winner.trial, winner.measured
    return {
        "architecture": trial.digest,
        "accuracy": trial.metrics.accuracy,
        "estimate": winner.estimate,
        "test_accuracy": test_accuracy,
        "latency_ms": {"predicted": trial.metrics.latency_ms, "measured": measured.median if measured else None},
        "params": trial.metrics.params,
        "macs": trial.metrics.macs,
        "model": str(model),
    }


def run_facts(experiment: SearchSettings, study: Study, objective: Objective) -> dict[str, Any]:
    """Return what the result says of the run as a whole."""
    points, axes = [trial.metrics for trial in study.trials], objective.axes or DEFAULT_AXES
    return {
        "target_latency_ms": listed_ms(experiment.targets),
        "objective": experiment.objective,
        "trials": len(study.evaluated),
        "stopped": len(study.stopped),
        "failed": [{"architecture": trial.digest, "error": trial.error} for trial in study.failed],
        "seed": experiment.seed,
        "front": [trial_facts(study.trials[index]) for index in front(points, axes)],
        "candidates": [
            {**trial_facts(trial), "curve": list(trial.curve), "stopped_at": trial.stopped_at}
            for trial in study.evaluated
        ],
        "epochs": epoch_facts(study),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def front_facts(study: Study, objective: Objective, reference: ReferencePoint) -> dict[str, Any]:
    """Return the front's axes, the reference point, and the hypervolume after each of the result's candidates.

    The volume is a share of the box between the reference and a network that is always right and costs nothing; what
    a rung stopped adds nothing. The front itself is among `run_facts`.
    """
    points = [
        None if trial.stopped_at else gains(trial.metrics, objective.axes, reference) for trial in study.evaluated
    ]
    return {
        "axes": list(objective.axes),
        "reference": {axis: list(values) for axis, values in reference.items()},
        "hypervolume": growth(points),
    }


def goal_facts(
    objective: Objective,
    found: Sequence[dict[str, Any]],
    tables: Sequence[SelectedTable],
    spans: Sequence[dict[str, float]],
    space: Space,
) -> list[dict[str, Any]]:
    """Return what the result says of each goal; `found` is what its winner tells, `spans` are the devices'."""
    listed = []
    for goal, facts in zip(objective.goals, found, strict=True):
        table = tables[goal.device].table
        certificate = table.certificates.get(space.key)
        listed.append({
            **({"name": goal.name, "target_latency_ms": goal.target_ms} if goal.name else {}),
            **facts,
            "certificate": asdict(certificate) if certificate else None,
            "device": table.header["device"],
            "table": str(table.path),
            "span_ms": spans[goal.device],
        })  # fmt: skip
    return listed


def epoch_facts(study: Study) -> dict[str, int]:
    """Return the epochs of all candidates, what full trainings of them would be, and what finalists took beside.

    Candidates that failed are not counted.
    """
    whole = max(len(trial.curve) for trial in study.trials)
    return {
        "spent": spent(trial.curve for trial in study.evaluated),
        "full": whole * len(study.evaluated),
        "finalists": spent(repeat.curve for repeat in study.repeats.values()),
    }


def noise_facts(finals: FinalistEstimates) -> dict[str, Any]:
    """Return the standard deviation of an evaluation, None where nothing was repeated, and the model behind it."""
    spread = finals.spread
    return {"noise": spread.noise if spread else None, "noise_model": asdict(spread) if spread else None}


def verdict_facts(winner: Finalist, target_ms: float, ready: SelectedTable) -> dict[str, Any]:
    """Return whether the winner holds the target, and by what one knows: unknown (None) where nothing was measured."""
    if winner.measured:
        return {"holds_target": winner.holds(target_ms), "latency_basis": f"measured on {ready.place}"}
    return {
        "holds_target": None,
        "predicted_to_hold_target": winner.holds(target_ms),
        "latency_basis": f"predicted by {ready.table.path.stem}, {ready.place}; not measured: the device is not here",
    }


def winner_facts(
    winner: Finalist, target_ms: float, experiment: SearchSettings, task: Classification, table: LatencyTable
) -> dict[str, Any]:
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
            "target": target_ms,
        },
        **{name: getattr(measured, name) if measured else None for name in ("size_bytes", "memory_bytes", "energy_mj")},
        "measured_on": here,
        "predicted_by": {"table": table.path.stem, **{key: table.header[key] for key in IDENTITY}},
        "seed": experiment.seed,
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    """Return a trial as the result lists it."""
    return {"number": trial.number, "architecture": trial.digest, **trial.metrics.to_dict()}


def finalist_facts(finalist: Finalist, study: Study) -> dict[str, Any]:
    """Return a finalist as the result lists it; each repeat with its seed and how many times as long it trained."""
    digest = finalist.trial.digest
    return {
        **trial_facts(finalist.trial),
        "estimate": finalist.estimate,
        "repeats": [
            {"seed": repeat.seed, "longer": repeat.longer, "accuracy": repeat.curve[-1] if repeat.curve else None}
            for repeat in study.repeats.values()
            if repeat.repeat_of == digest
        ],
        "measured_ms": asdict(finalist.measured) if finalist.measured else None,
    }
