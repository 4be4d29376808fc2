"""The work of `nas scale`: the family of a rule, a table or latencies; `nas.scale_search` finds a rule first."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.calibration import Calibration
from nas.device import find_runtime, open_worker
from nas.errors import RunError, UsageError
from nas.experiment import Experiment, with_implied
from nas.export import versions
from nas.files import locked, read_json, write_json
from nas.latency import Predictor
from nas.network import canonical, trace
from nas.picture_scaling import draw_family
from nas.progress import Reporter
from nas.published import complete, is_published
from nas.scaling.comparison import BASE
from nas.scaling.family import Member, by_phi, by_points, family_facts
from nas.scaling.presets import Coefficients
from nas.scaling.rules import Factors, Rounding, missing_dimensions
from nas.scaling.settings import (
    UNNAMED,
    Rule,
    check_exists,
    find_preset,
    make_rounding,
    parse_coefficients,
    parse_latencies,
    parse_phis,
    parse_points,
)
from nas.scaling.stopwatch import Predicted, Stopwatch, Timed
from nas.scaling.targets import Met, Scout, Want, meet
from nas.storage import JOURNAL
from nas.tables import open_named, processor
from nas.train_job import read_architecture

RESULT = "scale.json"
FAMILY = "family"
DEFAULT_PHIS = "0..3"


@dataclass(frozen=True)
class ScaleJob:
    """The settings of `nas scale`; None means what the preset says, or the default of the command.

    `experiment` holds the device, and for a search the data, the evaluator and the controller.
    """

    network: str
    coefficients: str | None = None
    preset: str | None = None
    phi: str | None = None
    latency: str | None = None
    depth: str | None = None
    width: str | None = None
    resolution: str | None = None
    measure: bool = False
    divisor: int | None = None
    repeats: str | None = None
    resolution_step: int | None = None
    head: str | None = None
    search: bool = False
    budget: str | None = None
    times: float = 2.0
    tolerance: float = 0.1
    step: float = 0.1
    objective: str | None = None
    exponent: float | None = None
    compare_phi: str = "1"
    compare_seeds: int = 1
    experiment: Experiment = field(default_factory=lambda: Experiment(controller="exhaustive", trials=12))

    @property
    def folder(self) -> Path:
        """The folder to write: --run, or a name made of the network's."""
        searched = f"-{re.sub(r'[^A-Za-z0-9_.]+', '_', Path(self.experiment.data).name)}" if self.search else ""
        budget = f"-{self.budget}" if self.budget else ""
        return Path(self.experiment.run or Path("runs") / f"scale-{self.name}{searched}{budget}")

    @property
    def name(self) -> str:
        """The network's name, fit for a folder."""
        return re.sub(r"[.](ya?ml|json)$", "", re.sub(r"[^\w.]+", "_", Path(self.network).name))


SEARCH_ONLY = (
    "budget", "times", "tolerance", "step", "exponent", "compare_phi", "compare_seeds", "data", "data_root",
    "objective", "controller", "trials", "evaluator", "accuracies", "proxy_resolution", "proxy_epochs", "proxy_images",
    "finalists", "finalist_seeds", "workers", "trial_timeout", "retry_failed", "seed",
)  # fmt: skip


def make_job(given: Mapping[str, Any]) -> ScaleJob:
    """Return the job of flags by name; what is not of the job is left out. Raises UsageError for flags in vain."""
    if not given.get("search"):
        for key in SEARCH_ONLY:
            if key in given:
                raise UsageError(f"--{key.replace('_', '-')}: is for the search of coefficients: give --search too")
    for key in ("phi", "latency", "coefficients", "preset", "depth", "width", "resolution"):
        if given.get(key) == "":
            raise UsageError(f"--{key}: is empty")
    own = {field.name for field in fields(ScaleJob)}
    shared = {field.name for field in fields(Experiment)} - own
    job = ScaleJob(**{key: value for key, value in given.items() if key in own})
    settings = with_implied({key: value for key, value in given.items() if key in shared})
    job = replace(job, experiment=replace(job.experiment, **settings))
    return replace(job, experiment=replace(job.experiment, run=str(job.folder)))


@dataclass(frozen=True)
class Base:
    """The network that is scaled; of a search's folder with the coefficients found for it and their rounding."""

    architecture: Architecture
    coefficients: Coefficients | None = None
    rounding: Rounding | None = None


def run_family(job: ScaleJob, reporter: Reporter) -> dict[str, Any]:
    """Return the family that the settings ask for, and write it with its picture. Raises NasError.

    Latencies that were found and confirmed are not measured again by the same command.
    """
    base = read_base(job.network)
    rule = make_rule(job, base)
    check_family(job, rule)
    if not job.latency:
        members_of(job, rule, base.architecture)  # raises before anything is written
    with locked_folder(job):
        if finished := finished_family(job, rule, base.architecture):
            reporter.say(f"{job.folder}: finished on {finished['date']}; another --run measures anew")
            return finished
        return make_family(job, rule, base.architecture, reporter)


def check_family(job: ScaleJob, rule: Rule) -> None:
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
        raise RunError(f"--run: {job.folder} is a search's for coefficients: give another")


def make_family(job: ScaleJob, rule: Rule, base: Architecture, reporter: Reporter) -> dict[str, Any]:
    """Return the rule's networks that the settings ask for, and write them with their picture."""
    timed = job.latency or job.measure or (job.experiment.tables and not job.search)
    stopwatch = make_stopwatch(job, base, reporter) if timed else None
    if stopwatch and job.latency:
        met = find_met(job, rule, base, stopwatch, reporter)
        made = [each.member for each in met]
    else:
        met, made = [], members_of(job, rule, base)
        if stopwatch:
            stopwatch.session(distinct(base, made))
    return finish(job, rule, base, made, met, stopwatch)


def finished_family(job: ScaleJob, rule: Rule, base: Architecture) -> dict[str, Any] | None:
    """Return the family in the folder where its latencies are what this command would measure."""
    path = job.folder / "family.json"
    if not (job.latency or job.measure) or job.experiment.tables or not path.is_file():
        return None
    stored = read_json(path)
    wanted = {**family_identity(job, rule), "architecture": canonical(base).digest}
    return stored if stored.get("identity") == wanted else None


def family_identity(job: ScaleJob, rule: Rule) -> dict[str, Any]:
    """Return what makes a family another than the next, beside its base."""
    experiment = job.experiment
    device = {key: getattr(experiment, key) for key in ("runtime", "threads", "device", "table")}
    return {**asked(job), **rule.to_dict(), "points": [point.name for point in rule.points], **device}


def distinct(base: Architecture, made: Sequence[Member]) -> list[Architecture]:
    """Return the base and the networks, canonical, each once."""
    return list({arch.digest: arch for arch in (canonical(base), *(each.architecture for each in made))}.values())


def asked(job: ScaleJob) -> dict[str, Any]:
    """Return which networks of the rule the settings ask for, and which comparison."""
    return {key: getattr(job, key) for key in ("phi", "latency", "measure", "compare_phi", "compare_seeds")}


def read_base(network: str) -> Base:
    """Return the network of a name, YAML, JSON or run folder, or what a search for coefficients scaled and found."""
    path = Path(network) / RESULT
    if not path.is_file():
        if networks := sorted(path.parent.glob(f"{FAMILY}/*.json")):
            raise RunError(f"{network}: holds a family of networks: name one of them, as {networks[0]}")
        return Base(as_written(network))
    stored = read_json(path)
    try:
        found = parse_coefficients(",".join(map(str, stored["coefficients"].values())))
        rounding = Rounding(**stored["rounding"])
        return Base(Architecture.from_dict(stored["base"]["blocks"], str(path)), found, rounding)
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        why = error if isinstance(error, UsageError) else repr(error)
        raise RunError(f"{path}: not the result of a search for coefficients: {why}") from error


def as_written(network: str) -> Architecture:
    """Return a network as it is written: a repeated block keeps what its first copy had no use for."""
    arch = read_architecture(network)
    trace(arch)  # raises where it cannot be built
    return arch


def make_rule(job: ScaleJob, base: Base) -> Rule:
    """Return the rule that the flags name, else what a search found, else EfficientNet's. Raises UsageError."""
    by_hand = {key: getattr(job, key) for key in ("depth", "width", "resolution") if getattr(job, key)}
    named = [flag for flag in ("preset", "coefficients") if getattr(job, flag)]
    if by_hand and named:
        raise UsageError(f"--{next(iter(by_hand))}: factors by hand do not go with --{named[0]}")
    if len(named) > 1:
        raise UsageError("--preset, --coefficients: one rule, give one of them")
    preset = find_preset(job.preset) if job.preset else replace(UNNAMED, rounding=base.rounding or UNNAMED.rounding)
    rounding = make_rounding(preset, base.architecture, job.divisor, job.repeats, job.resolution_step, job.head)
    if by_hand:
        return Rule(
            "by hand", rounding, points=parse_points(by_hand, base.architecture), reference=base.architecture.resolution
        )
    if not job.preset:
        found = parse_coefficients(job.coefficients) if job.coefficients else base.coefficients
        name = "given" if job.coefficients else "searched" if base.coefficients else "efficientnet's"
        return checked(Rule(name, rounding, found or preset.coefficients), base.architecture, job)
    if preset.points and not job.phi and not job.latency:
        return Rule(job.preset, rounding, points=preset.points, reference=preset.reference)
    if preset.coefficients is None:
        way = "it is a table, leave out --phi and --latency" if preset.points else "--search finds them"
        raise UsageError(f"--preset: '{job.preset}' has no coefficients: {way}")
    return checked(Rule(job.preset, rounding, preset.coefficients), base.architecture, job)


def checked(rule: Rule, base: Architecture, job: ScaleJob) -> Rule:
    """Return the rule, if the network has what it scales. Raises UsageError."""
    assert rule.coefficients is not None
    flag = "--coefficients" if job.coefficients or not job.preset else "--preset"
    check_exists(base, rule.coefficients, flag)
    return rule


def members_of(job: ScaleJob, rule: Rule, base: Architecture) -> list[Member]:
    """Return the networks of the rule's points or phis. Raises SpaceError where one cannot be."""
    if rule.points:
        return by_points(base, rule.points, rule.rounding, rule.reference)
    assert rule.coefficients is not None
    return by_phi(base, rule.coefficients, parse_phis(job.phi or DEFAULT_PHIS), rule.rounding)


def find_met(job: ScaleJob, rule: Rule, base: Architecture, stopwatch: Stopwatch, reporter: Reporter) -> list[Met]:
    """Return the networks that meet the targets."""
    assert rule.coefficients is not None and job.latency
    wants = [Want(rule.coefficients, target_ms) for target_ms in parse_latencies(job.latency)]
    return meet(Scout(base, stopwatch), wants, rule.rounding, reporter)


def make_stopwatch(job: ScaleJob, base: Architecture, reporter: Reporter) -> Stopwatch:
    """Return what tells latencies: the device, or the table that --table names. Raises NasError."""
    experiment = job.experiment
    if not experiment.tables:
        return Timed(job.folder, experiment.runtime, experiment.threads, experiment.device, reporter)
    table = open_named(experiment.tables[0])
    if is_published(table):
        for note in complete(table, trace(base)):
            reporter.say(f"{table.path.stem}: {note}")
    reporter.warn(f"{table.path}: predicts here, nothing is measured on its device")
    return Predicted(Predictor(table, Calibration()), processor(table))


def finish(
    job: ScaleJob,
    rule: Rule,
    base: Architecture,
    made: Sequence[Member],
    met: Sequence[Met],
    stopwatch: Stopwatch | None,
) -> dict[str, Any]:
    """Write every network as JSON, the picture and the result, and return the result."""
    every, first = distinct(base, made), canonical(base)
    latencies = {arch.digest: stopwatch.ms(arch) for arch in every} if stopwatch else {}
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
    for path in (job.folder / FAMILY).glob("*.json"):  # of another rule, that was asked for before
        path.unlink()
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
        "picture": str(job.folder / "family.png"),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    draw_family(result, job.folder / "family.png")
    write_json(job.folder / "family.json", result)
    return result


def write_network(folder: Path, network: Member) -> str:
    """Write a network as JSON under its name, and return the path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', network.name)}.json"
    write_json(path, network.architecture.to_dict())
    return str(path)


def device_facts(stopwatch: Stopwatch) -> dict[str, Any]:
    """Return what the latencies are of, and whether they were measured or a table predicted them."""
    header = {key: value for key, value in stopwatch.settings.items() if key not in ("format", "protocol", "worker")}
    return {"measured": stopwatch.is_measured, "place": stopwatch.place, **header}


def locked_folder(job: ScaleJob) -> Any:
    """Hold the folder, made where there is none. Raises RunError where it is not a folder or in use."""
    folder = job.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--run: {folder} cannot be made: {error.strerror}") from error
    return locked(folder)
