"""The work of `nas scale`: the family of a rule, a table or latencies.

`nas.scaling.coefficient_search` finds a rule first.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.devices.client import open_worker
from nas.devices.runtimes import find_runtime
from nas.errors import NasError, RunError, SpaceError, TableError, UsageError
from nas.latency.calibration import Calibration
from nas.latency.catalog import open_named, processor
from nas.latency.published import complete, is_published
from nas.latency.table import LatencyPredictor
from nas.networks.export import versions
from nas.networks.network import canonical, trace
from nas.scaling.family import BASE, Member, family_facts
from nas.scaling.latency_targets import LatencyEstimator, LatencyTarget, TargetResult, meet
from nas.scaling.network_latency import NETWORKS, MeasuredLatency, NetworkLatency, PredictedLatency
from nas.scaling.parsing import (
    Rule,
    parse_latencies,
)
from nas.scaling.plots import draw_family
from nas.scaling.scale import Factors, missing_dimensions
from nas.scaling.settings import FAMILY, ScaleSettings, make_rule, members_of, read_base
from nas.study.storage import JOURNAL
from nas.utils.files import LOCK, locked, read_json, write_json
from nas.utils.reporting import Reporter

PICTURE = "family.png"


def run_family(job: ScaleSettings, reporter: Reporter) -> dict[str, Any]:
    """Return the family that the settings ask for, and write it with its picture. Raises NasError.

    Latencies that were found and confirmed are not measured again by the same command.
    """
    base = read_base(job.network)
    rule = make_rule(job, base)
    check_family(job, rule)
    if not job.latency:
        members_of(job, rule, base.architecture)  # raises before anything is written
    is_new = not job.folder.exists()
    with locked_folder(job):
        if finished := finished_family(job, rule, base.architecture):
            reporter.say(f"{job.folder}: finished on {finished['date']}; another --run measures anew")
            return finished
        try:
            return make_family(job, rule, base.architecture, reporter)
        except NasError as error:
            if is_new:
                leave_free(job.folder, isinstance(error, (UsageError, SpaceError, TableError)))
            raise


def leave_free(folder: Path, is_input: bool) -> None:
    """Remove a folder that was made for a command that failed; what was measured stays unless the input is wrong."""
    if is_input:
        (folder / NETWORKS).unlink(missing_ok=True)
    if {path.name for path in folder.iterdir()} <= {LOCK}:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def check_family(job: ScaleSettings, rule: Rule) -> None:
    """Raise NasError for the first setting that cannot be, or not with another."""
    experiment = job.experiment
    if job.latency and (rule.points or job.phi):
        other = "--phi" if job.phi else "--preset of a table, --depth, --width, --resolution"
        raise UsageError(f"--latency: finds the phi of each target, it does not go with {other}")
    if rule.points and job.phi:
        raise UsageError("--phi: does not go with --depth, --width, --resolution or a --preset's table")
    if job.latency:
        parse_latencies(job.latency)
    if experiment.tables:
        open_named(experiment.tables[0])
    find_runtime(experiment.runtime)
    if experiment.threads < 1:
        raise UsageError(f"--threads: must be at least 1: {experiment.threads}")
    open_worker(experiment.device, experiment.runtime, experiment.threads)  # raises where it cannot be an address
    if (job.folder / JOURNAL).is_file():
        raise RunError(
            f"--run: {job.folder} is a search's for coefficients: give another, or scale by what was found: "
            f"nas scale {job.folder}"
        )


def make_family(
    job: ScaleSettings, rule: Rule, base: Architecture, reporter: Reporter, base_ms: float | None = None
) -> dict[str, Any]:
    """Return the rule's networks that the settings ask for, and write them with their picture.

    Without targets, latencies are as where the base takes `base_ms`, if that is given: a machine's speed changes.
    """
    replaced = stored_family(job.folder)
    if replaced and (replaced["network"], replaced["rule"]) != (job.network, rule.name):
        reporter.say(f"{job.folder}: replaces the family of {replaced['network']} by rule: {replaced['rule']}")
    timed = job.latency or job.measure or job.experiment.tables or job.search
    stopwatch = make_network_latency(job, base, reporter, FAMILY) if timed else None
    if stopwatch and job.latency:
        met = find_met(job, rule, base, stopwatch, reporter)
        made = [each.member for each in met]
    else:
        met, made = [], members_of(job, rule, base)
        stopwatch = timed_all(stopwatch, distinct(base, made), job, reporter) if stopwatch else None
    return finish(job, rule, base, made, met, stopwatch, None if met else base_ms)


def timed_all(
    stopwatch: NetworkLatency, archs: Sequence[Architecture], job: ScaleSettings, reporter: Reporter
) -> NetworkLatency | None:
    """Time the networks; of those that a search found, a table need not know all: then none is told."""
    try:
        stopwatch.session(archs)
    except TableError as error:
        if not job.search:
            raise
        reporter.warn(f"no latencies of the family: {error}")
        return None
    return stopwatch


def stored_family(folder: Path) -> dict[str, Any]:
    """Return the family that a folder holds; an empty one where there is none."""
    path = folder / "family.json"
    if not path.is_file():
        return {}
    stored = read_json(path)
    try:
        return stored if stored["network"] and stored["rule"] and files_of(stored) else {}
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: not a family of networks: {error!r}") from error


def files_of(stored: Mapping[str, Any]) -> set[str]:
    """Return the names of the files that a family's networks are in."""
    return {Path(entry["file"]).name for entry in stored["family"]}


def is_whole(folder: Path, stored: Mapping[str, Any]) -> bool:
    """Whether the networks and the picture that a family tells of are still there."""
    return (folder / PICTURE).is_file() and all((folder / FAMILY / name).is_file() for name in files_of(stored))


def finished_family(job: ScaleSettings, rule: Rule, base: Architecture) -> dict[str, Any] | None:
    """Return the family in the folder where its latencies are what this command would measure."""
    stored = stored_family(job.folder)
    if not (job.latency or job.measure) or job.experiment.tables or not stored:
        return None
    wanted = {**family_identity(job, rule), "architecture": canonical(base).digest}
    return stored if stored.get("identity") == wanted and is_whole(job.folder, stored) else None


def family_identity(job: ScaleSettings, rule: Rule) -> dict[str, Any]:
    """Return what makes a family another than the next, beside its base."""
    experiment = job.experiment
    device = {key: getattr(experiment, key) for key in ("runtime", "threads", "device", "table")}
    return {**asked(job), **rule.to_dict(), "points": [point.name for point in rule.points], **device}


def distinct(base: Architecture, made: Sequence[Member]) -> list[Architecture]:
    """Return the base and the networks, canonical, each once."""
    return list({arch.digest: arch for arch in (canonical(base), *(each.architecture for each in made))}.values())


def asked(job: ScaleSettings) -> dict[str, Any]:
    """Return which networks of the rule the settings ask for, and which comparison."""
    return {key: getattr(job, key) for key in ("phi", "latency", "measure", "compare_phi", "compare_seeds")}


def find_met(
    job: ScaleSettings, rule: Rule, base: Architecture, stopwatch: NetworkLatency, reporter: Reporter
) -> list[TargetResult]:
    """Return the networks that meet the targets."""
    assert rule.coefficients is not None and job.latency
    wants = [LatencyTarget(rule.coefficients, target_ms) for target_ms in parse_latencies(job.latency)]
    return meet(LatencyEstimator(base, stopwatch), wants, rule.rounding, reporter)


def make_network_latency(job: ScaleSettings, base: Architecture, reporter: Reporter, purpose: str) -> NetworkLatency:
    """Return what tells latencies: the device, or the table that --table names. Raises NasError.

    `purpose` names what they are for in the run's folder.
    """
    experiment = job.experiment
    if not experiment.tables:
        return MeasuredLatency(job.folder, experiment.runtime, experiment.threads, experiment.device, reporter, purpose)
    table = open_named(experiment.tables[0])
    if is_published(table):
        for note in complete(table, trace(base)):
            reporter.say(f"{table.path.stem}: {note}")
    reporter.warn(f"{table.path}: predicts here, nothing is measured on its device")
    return PredictedLatency(LatencyPredictor(table, Calibration()), processor(table))


def finish(
    job: ScaleSettings,
    rule: Rule,
    base: Architecture,
    made: Sequence[Member],
    met: Sequence[TargetResult],
    stopwatch: NetworkLatency | None,
    base_ms: float | None,
) -> dict[str, Any]:
    """Write every network as JSON, the picture and the result, and return the result."""
    every, first = distinct(base, made), canonical(base)
    latencies = {arch.digest: stopwatch.ms(arch) for arch in every} if stopwatch else {}
    if stopwatch and base_ms:
        latencies = {digest: base_ms * (ms / stopwatch.ms(first)) for digest, ms in latencies.items()}
    family = family_facts(made, base)
    for entry in family:
        entry["latency_ms"] = latencies.get(entry["architecture"])
    for entry, each in zip(family, met, strict=False):  # none without targets
        entry |= {
            "target_latency_ms": each.target_ms,
            "holds_target": each.holds,
            "within_5_percent": each.is_close,
            "strays": each.strays,
        }
    stored = stored_family(job.folder)
    before = files_of(stored) if stored else set()
    (job.folder / "family.json").unlink(missing_ok=True)  # from here on its networks are not what it tells
    for entry, network in zip(family, made, strict=True):
        entry["file"] = write_network(job.folder / FAMILY, network)
    whole = family_facts([Member(BASE, Factors(), first)], base)[0]
    result = {
        "network": job.network,
        "base": {**whole, "latency_ms": latencies.get(first.digest), "blocks": base.to_dict()},
        **rule.to_dict(),
        "preset": job.preset,
        "identity": {**family_identity(job, rule), "architecture": first.digest},
        "missing_dimensions": missing_dimensions(base),
        "family": family,
        "measured_on": device_facts(stopwatch) if stopwatch else None,
        "picture": str(job.folder / PICTURE),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    draw_family(result, job.folder / PICTURE)
    write_json(job.folder / "family.json", result)
    for name in before - files_of(result):  # of what was asked for before
        (job.folder / FAMILY / name).unlink(missing_ok=True)
    return result


def write_network(folder: Path, network: Member) -> str:
    """Write a network as JSON under its name, and return the path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', network.name)}.json"
    write_json(path, network.architecture.to_dict())
    return str(path)


def device_facts(stopwatch: NetworkLatency) -> dict[str, Any]:
    """Return what the latencies are of, and whether they were measured or a table predicted them."""
    header = {key: value for key, value in stopwatch.settings.items() if key not in ("format", "protocol", "worker")}
    return {"measured": stopwatch.is_measured, "place": stopwatch.place, **header}


def locked_folder(job: ScaleSettings) -> Any:
    """Hold the folder, made where there is none. Raises RunError where it is not a folder or in use."""
    folder = job.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--run: {folder} cannot be made: {error.strerror}") from error
    return locked(folder)
