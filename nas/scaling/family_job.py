"""The job of `nas scale`: makes, measures and writes the family of a rule, of a table or of latency targets."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
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
from nas.scaling.family import BASE, Member, describe_family
from nas.scaling.latency_targets import LatencyEstimator, LatencyTarget, TargetResult, meet_targets
from nas.scaling.network_latency import NETWORKS_FILE, MeasuredLatency, NetworkLatency, PredictedLatency
from nas.scaling.parsing import Rule, parse_latencies
from nas.scaling.plots import draw_family
from nas.scaling.scale import missing_dimensions
from nas.scaling.settings import FAMILY_FOLDER, FAMILY_RESULT, ScaleSettings, make_members, make_rule, read_base
from nas.scaling.sizes import Factors
from nas.study.storage import JOURNAL
from nas.training.deployed_network import check_deployable
from nas.utils.files import LOCK, locked, read_json, write_json
from nas.utils.reporting import Reporter

FAMILY_PLOT = "family.png"


def run_family(settings: ScaleSettings, reporter: Reporter) -> dict[str, Any]:
    """Make the family of the settings, write it with its plot, and return the contents of `family.json`.

    A command that has finished returns its stored result, so that latencies are not measured again. Raises NasError.
    """
    base = read_base(settings.network)
    rule = make_rule(settings, base)
    check_family_settings(settings, rule)
    if not settings.latency:
        make_members(settings, rule, base.architecture)  # raises before anything is written
    is_new = not settings.folder.exists()
    with locked_folder(settings.folder):
        if finished := finished_family(settings, rule, base.architecture):
            reporter.say(f"{settings.folder}: finished on {finished['date']}; use another --run to measure again")
            return finished
        try:
            return make_family(settings, rule, base.architecture, reporter)
        except NasError as error:
            if is_new:
                clean_up_folder(settings.folder, isinstance(error, (UsageError, SpaceError, TableError)))
            raise


def clean_up_folder(folder: Path, is_input_error: bool) -> None:
    """Remove the folder of a failed command, unless it holds measurements and the input was correct."""
    if is_input_error:
        (folder / NETWORKS_FILE).unlink(missing_ok=True)
    if {path.name for path in folder.iterdir()} <= {LOCK}:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def check_family_settings(settings: ScaleSettings, rule: Rule) -> None:
    """Raise NasError for the first setting that is invalid or contradicts another."""
    experiment, by_hand = settings.experiment, "--depth, --width, --resolution"
    if settings.latency and (rule.points or settings.phi):
        other = "--phi" if settings.phi else f"the --preset of a table or {by_hand}"
        raise UsageError(f"cannot be combined with {other}: it finds the phi of each target", key="latency")
    if rule.points and settings.phi:
        raise UsageError(f"cannot be combined with {by_hand}", key="phi")
    if settings.latency:
        parse_latencies(settings.latency)
    if experiment.tables:
        open_named(experiment.tables[0])
    find_runtime(experiment.runtime)
    if experiment.threads < 1:
        raise UsageError("must be at least 1", key="threads", value=experiment.threads)
    open_worker(experiment.device, experiment.runtime, experiment.threads)  # raises if the address is invalid
    folder = settings.folder
    if (folder / JOURNAL).is_file():
        rule_text = f"holds a coefficient search: use another folder, or scale by its result: nas scale {folder}"
        raise UsageError(rule_text, key="run", value=str(folder))


def make_family(
    settings: ScaleSettings, rule: Rule, base: Architecture, reporter: Reporter, base_ms: float | None = None
) -> dict[str, Any]:
    """Make the networks of the settings, write them with their plot, and return the contents of `family.json`.

    Args:
        settings: The settings.
        rule: The rule.
        base: The network to scale.
        reporter: Reports progress.
        base_ms: The latency of the base in an earlier session, in ms. Without latency targets, latencies are scaled to
            it, because the speed of a machine varies.

    Raises:
        NasError: If a network is invalid or cannot be measured.
    """
    check_deployable(base, settings.experiment.runtime)
    replaced = read_family(settings.folder)
    if replaced and (replaced["network"], replaced["rule"]) != (settings.network, rule.name):
        reporter.say(f"{settings.folder}: replaces the family of {replaced['network']} by rule: {replaced['rule']}")
    is_timed = settings.latency or settings.measure or settings.experiment.tables or settings.search
    network_latency = make_network_latency(settings, base, reporter, FAMILY_FOLDER) if is_timed else None
    if network_latency and settings.latency:
        results = find_targets(settings, rule, base, network_latency, reporter)
        return write_family(settings, rule, base, [result.member for result in results], network_latency, results)
    members = make_members(settings, rule, base)
    if network_latency:
        network_latency = measure_networks(network_latency, distinct_networks(base, members), settings, reporter)
    return write_family(settings, rule, base, members, network_latency, base_ms=base_ms)


def measure_networks(
    network_latency: NetworkLatency, archs: Sequence[Architecture], settings: ScaleSettings, reporter: Reporter
) -> NetworkLatency | None:
    """Measure the networks and return the source of their latencies.

    Returns None, with a warning, if a latency table does not cover the family of a search.
    """
    try:
        network_latency.measure(archs)
    except TableError as error:
        if not settings.search:
            raise
        reporter.warn(f"no latencies of the family: {error}")
        return None
    return network_latency


def read_family(folder: Path) -> dict[str, Any]:
    """Return the stored family of a folder; empty if there is none. Raises RunError for another file."""
    path = folder / FAMILY_RESULT
    if not path.is_file():
        return {}
    stored = read_json(path)
    try:
        return stored if stored["network"] and stored["rule"] and file_names(stored) else {}
    except (KeyError, TypeError) as error:
        raise RunError(f"not a family of networks: {error!r}", where=path) from error


def file_names(stored: Mapping[str, Any]) -> set[str]:
    """Return the names of the files that hold a family's networks."""
    return {Path(entry["file"]).name for entry in stored["family"]}


def is_complete(folder: Path, stored: Mapping[str, Any]) -> bool:
    """Whether all networks and the plot of a stored family exist."""
    return (folder / FAMILY_PLOT).is_file() and all(
        (folder / FAMILY_FOLDER / name).is_file() for name in file_names(stored)
    )


def finished_family(settings: ScaleSettings, rule: Rule, base: Architecture) -> dict[str, Any] | None:
    """Return the stored family if it has the measured latencies that these settings ask for; else None."""
    stored = read_family(settings.folder)
    if not (settings.latency or settings.measure) or settings.experiment.tables or not stored:
        return None
    is_same = stored.get("identity") == family_identity(settings, rule, base)
    return stored if is_same and is_complete(settings.folder, stored) else None


def family_identity(settings: ScaleSettings, rule: Rule, base: Architecture) -> dict[str, Any]:
    """Return the settings that identify a measured family."""
    device = {key: getattr(settings.experiment, key) for key in ("runtime", "threads", "device", "table")}
    points = [point.name for point in rule.points]
    architecture = canonical(base).digest
    return {**requested(settings), **rule.to_dict(), "points": points, **device, "architecture": architecture}


def distinct_networks(base: Architecture, members: Sequence[Member]) -> list[Architecture]:
    """Return the base and the members' networks, canonical, without duplicates."""
    archs = (canonical(base), *(member.architecture for member in members))
    return list({arch.digest: arch for arch in archs}.values())


def requested(settings: ScaleSettings) -> dict[str, Any]:
    """Return the settings that select the networks of the family and of the comparison."""
    return {key: getattr(settings, key) for key in ("phi", "latency", "measure", "compare_phi", "compare_seeds")}


def find_targets(
    settings: ScaleSettings, rule: Rule, base: Architecture, network_latency: NetworkLatency, reporter: Reporter
) -> list[TargetResult]:
    """Return the networks of the latency targets."""
    assert rule.coefficients is not None and settings.latency
    targets = [LatencyTarget(rule.coefficients, target_ms) for target_ms in parse_latencies(settings.latency)]
    return meet_targets(LatencyEstimator(base, network_latency), targets, rule.rounding, reporter)


def make_network_latency(
    settings: ScaleSettings, base: Architecture, reporter: Reporter, purpose: str
) -> NetworkLatency:
    """Return the source of latencies: the device, or the latency table of --table. Raises NasError.

    `purpose` names the measurement sessions in the run folder.
    """
    experiment = settings.experiment
    if not experiment.tables:
        return MeasuredLatency(
            settings.folder, experiment.runtime, experiment.threads, experiment.device, reporter, purpose
        )
    table = open_named(experiment.tables[0])
    if is_published(table):
        for note in complete(table, trace(base)):
            reporter.say(f"{table.path.stem}: {note}")
    reporter.warn(f"{table.path}: latencies are predicted, not measured on the device")
    return PredictedLatency(LatencyPredictor(table, Calibration()), processor(table))


def write_family(
    settings: ScaleSettings,
    rule: Rule,
    base: Architecture,
    members: Sequence[Member],
    network_latency: NetworkLatency | None,
    results: Sequence[TargetResult] = (),
    base_ms: float | None = None,
) -> dict[str, Any]:
    """Write every network as JSON, the plot and the result file, and return the result.

    `results` are the latency targets of the members; empty without targets. Latencies are scaled to `base_ms`.
    """
    first = canonical(base)
    latencies = _family_latencies(distinct_networks(base, members), first, network_latency, base_ms)
    family = describe_family(members, base)
    for entry in family:
        entry["latency_ms"] = latencies.get(entry["architecture"])
    for entry, result in zip(family, results, strict=False):  # no results without targets
        entry |= {
            "target_latency_ms": result.target_ms,
            "holds_target": result.holds,
            "within_5_percent": result.is_close,
            "strays": result.own_phis,
        }
    folder, stored = settings.folder, read_family(settings.folder)
    old_files = file_names(stored) if stored else set()
    (folder / FAMILY_RESULT).unlink(missing_ok=True)  # the networks change from here on
    for entry, member in zip(family, members, strict=True):
        entry["file"] = write_network(folder / FAMILY_FOLDER, member)
    (base_entry,) = describe_family([Member(BASE, Factors(), first)], base)
    family_result = {
        "network": settings.network,
        "base": {**base_entry, "latency_ms": latencies.get(first.digest), "blocks": base.to_dict()},
        **rule.to_dict(),
        "preset": settings.preset,
        "identity": family_identity(settings, rule, base),
        "missing_dimensions": missing_dimensions(base),
        "family": family,
        "measured_on": describe_device(network_latency) if network_latency else None,
        "picture": str(folder / FAMILY_PLOT),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    draw_family(family_result, folder / FAMILY_PLOT)
    write_json(folder / FAMILY_RESULT, family_result)
    for name in old_files - file_names(family_result):
        (folder / FAMILY_FOLDER / name).unlink(missing_ok=True)
    return family_result


def _family_latencies(
    archs: Sequence[Architecture], base: Architecture, network_latency: NetworkLatency | None, base_ms: float | None
) -> dict[str, float]:
    """Return the latencies in ms by digest, scaled so that the base takes `base_ms` if that is given."""
    if network_latency is None:
        return {}
    latencies = {arch.digest: network_latency.ms(arch) for arch in archs}
    if base_ms:
        measured_ms = latencies[base.digest]
        latencies = {digest: base_ms * (ms / measured_ms) for digest, ms in latencies.items()}
    return latencies


def write_network(folder: Path, member: Member) -> str:
    """Write a network as JSON under its name, and return the path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', member.name)}.json"
    write_json(path, member.architecture.to_dict())
    return str(path)


def describe_device(network_latency: NetworkLatency) -> dict[str, Any]:
    """Return the device and runtime of latencies, and whether they were measured or predicted."""
    settings = network_latency.settings
    header = {key: value for key, value in settings.items() if key not in ("format", "protocol", "worker")}
    return {"measured": network_latency.is_measured, "place": network_latency.place, **header}


def locked_folder(folder: Path) -> AbstractContextManager[None]:
    """Create the folder and return its lock.

    Raises UsageError if it cannot be created, and RunError from the lock if another process uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be created: {error.strerror}", key="run", value=str(folder)) from error
    return locked(folder)
