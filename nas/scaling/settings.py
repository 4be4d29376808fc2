"""What `nas scale` is asked for: its flags, the network that is scaled, the rule, and the networks of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import NasError, RunError, SpaceError, UsageError
from nas.networks.network import trace
from nas.scaling.family import Member, by_phi, by_points, farthest
from nas.scaling.parsing import (
    UNNAMED,
    Rule,
    check_exists,
    find_preset,
    make_rounding,
    parse_coefficients,
    parse_phis,
    parse_points,
)
from nas.scaling.presets import Coefficients
from nas.scaling.scale import Rounding
from nas.searching.settings import SearchSettings, with_implied
from nas.training.job import read_architecture
from nas.utils.files import read_json

RESULT = "scale.json"
FAMILY = "family"
DEFAULT_PHIS = "0..3"


@dataclass(frozen=True)
class ScaleSettings:
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
    experiment: SearchSettings = field(default_factory=lambda: SearchSettings(controller="exhaustive", trials=12))

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


def make_job(given: Mapping[str, Any]) -> ScaleSettings:
    """Return the job of flags by name; what is not of the job is left out. Raises UsageError for flags in vain."""
    if not given.get("search"):
        for key in SEARCH_ONLY:
            if key in given:
                raise UsageError(f"--{key.replace('_', '-')}: is for the search of coefficients: give --search too")
        for key in ("runtime", "threads", "device"):
            if key in given and not (given.get("measure") or given.get("latency")):
                raise UsageError(f"--{key}: nothing is measured: give --measure or --latency too")
    if given.get("measure") and given.get("table"):
        raise UsageError("--table: predicts, it does not go with --measure")
    for key in ("phi", "latency", "coefficients", "preset", "depth", "width", "resolution"):
        if given.get(key) == "":
            raise UsageError(f"--{key}: is empty")
    own = {field.name for field in fields(ScaleSettings)}
    shared = {field.name for field in fields(SearchSettings)} - own
    job = ScaleSettings(**{key: value for key, value in given.items() if key in own})
    settings = with_implied({key: value for key, value in given.items() if key in shared})
    job = replace(job, experiment=replace(job.experiment, **settings))
    return replace(job, experiment=replace(job.experiment, run=str(job.folder)))


@dataclass(frozen=True)
class Base:
    """The network that is scaled; of a search's folder with the coefficients found for it and their rounding."""

    architecture: Architecture
    coefficients: Coefficients | None = None
    rounding: Rounding | None = None


def read_base(network: str) -> Base:
    """Return the network of a name, YAML, JSON or run folder, or what a search for coefficients scaled and found."""
    path = Path(network) / RESULT
    if Path(network).name in (RESULT, "family.json"):
        raise RunError(f"{network}: tells of a whole run: give its folder, '{Path(network).parent}'")
    if not path.is_file():
        if networks := sorted(path.parent.glob(f"{FAMILY}/*.json")):
            raise RunError(f"{network}: holds a family of networks: name one of them, as {networks[0]}")
        return Base(as_written(network))
    stored = read_json(path)
    try:
        arch = Architecture.from_dict(stored["base"]["blocks"], str(path))
        found = parse_coefficients(",".join(str(stored["coefficients"][key]) for key in ("alpha", "beta", "gamma")))
        divisor, repeats, step = (stored["rounding"][key] for key in ("divisor", "repeats", "resolution_step"))
        head = stored["rounding"]["head"].replace(" ", "-")
        return Base(arch, found, make_rounding(UNNAMED, arch, divisor, repeats, step, head))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = error if isinstance(error, NasError) else repr(error)
        raise RunError(f"{path}: not the result of a search for coefficients: {why}") from error


def as_written(network: str) -> Architecture:
    """Return a network as it is written: a repeated block keeps what its first copy had no use for."""
    arch = read_architecture(network)
    trace(arch)  # raises where it cannot be built
    return arch


def make_rule(job: ScaleSettings, base: Base) -> Rule:
    """Return the rule that the flags name, else what a search found, else EfficientNet's. Raises UsageError."""
    by_hand = {key: getattr(job, key) for key in ("depth", "width", "resolution") if getattr(job, key)}
    named = [flag for flag in ("preset", "coefficients") if getattr(job, flag)]
    if by_hand and named:
        raise UsageError(f"--{next(iter(by_hand))}: factors by hand do not go with --{named[0]}")
    if len(named) > 1:
        raise UsageError("--preset, --coefficients: one rule, give one of them")
    preset = find_preset(job.preset) if job.preset else replace(UNNAMED, rounding=base.rounding or UNNAMED.rounding)
    rounding = make_rounding(preset, base.architecture, job.divisor, job.repeats, job.resolution_step, job.head)
    as_told = replace(rounding, resolution_step=1)
    if by_hand:
        points = parse_points(by_hand, base.architecture)
        return pixels_given(job, Rule("by hand", as_told, points=points, reference=base.architecture.resolution))
    if not job.preset:
        found = parse_coefficients(job.coefficients) if job.coefficients else base.coefficients
        name = "given" if job.coefficients else "searched" if base.coefficients else "efficientnet's"
        return checked(Rule(name, rounding, found or preset.coefficients), base.architecture, job)
    if preset.points and not job.phi and not job.latency:
        return pixels_given(job, Rule(job.preset, as_told, points=preset.points, reference=preset.reference))
    if preset.coefficients is None:
        way = "it is a table, leave out --phi and --latency" if preset.points else "--search finds them"
        raise UsageError(f"--preset: '{job.preset}' has no coefficients: {way}")
    return checked(Rule(job.preset, rounding, preset.coefficients), base.architecture, job)


def pixels_given(job: ScaleSettings, rule: Rule) -> Rule:
    """Return the rule of points, whose pixels nothing rounds. Raises UsageError where that is asked for."""
    if job.resolution_step is not None:
        raise UsageError(f"--resolution-step: the inputs are given in pixels here: {job.resolution_step}")
    return rule


def checked(rule: Rule, base: Architecture, job: ScaleSettings) -> Rule:
    """Return the rule, if the network has what it scales. Raises UsageError."""
    assert rule.coefficients is not None
    flag = "--coefficients" if job.coefficients else "--preset" if job.preset else job.network
    check_exists(base, rule.coefficients, flag)
    return rule


def members_of(job: ScaleSettings, rule: Rule, base: Architecture) -> list[Member]:
    """Return the networks of the rule's points or phis. Raises UsageError where one cannot be."""
    if rule.points:
        try:
            return by_points(base, rule.points, rule.rounding, rule.reference)
        except SpaceError as error:
            _, _, why = str(error).partition(": ")  # behind the network's name
            raise UsageError(f"--preset: {error}" if job.preset else f"--{why}") from error
    assert rule.coefficients is not None
    found = []
    for phi in parse_phis(job.phi or DEFAULT_PHIS):
        try:
            found += by_phi(base, rule.coefficients, [phi], rule.rounding)
        except SpaceError as error:
            last = farthest(base, rule.coefficients, phi, rule.rounding)
            why = f"{str(error).removeprefix('phi ')}; {math.trunc(100 * last) / 100:g} can be built"
            raise UsageError(f"--phi: {why}") from error
    return found
