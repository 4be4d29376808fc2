"""Settings of `nas scale`: the flags, the base network, the scaling rule and the members of its family."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import NasError, RunError, SpaceError, UsageError
from nas.networks.network import trace
from nas.scaling.detectors import detector_sizes
from nas.scaling.family import Member, last_valid_phi, members_by_phi, members_by_points
from nas.scaling.parsing import (
    DEFAULT_PRESET,
    Rule,
    check_dimensions,
    find_preset,
    make_rounding,
    parse_coefficients,
    parse_phis,
    parse_points,
)
from nas.scaling.presets import Coefficients, DetectorRule
from nas.scaling.sizes import DIMENSIONS, Rounding
from nas.searching.settings import SearchSettings, task_default, with_implied
from nas.training.job import read_architecture
from nas.utils.files import read_json

SCALE_RESULT = "scale.json"
FAMILY_RESULT = "family.json"
FAMILY_FOLDER = "family"
DEFAULT_PHIS = "0..3"


@dataclass(frozen=True)
class ScaleSettings:
    """The settings of `nas scale`; None selects the preset's value or the command's default.

    Attributes:
        network: The base: a network's name, a YAML or JSON file, or a run folder.
        coefficients: The rule, as "alpha,beta,gamma", or "alpha,beta,gamma,neck" for a detector.
        preset: The name of a published rule or family.
        phi: The phis of the family, as "0..7" or "0,1,2.5".
        latency: Latency targets of the family, as "5ms,10ms".
        depth: Factors of the depth, as "1,1.5".
        width: Factors of the width.
        resolution: Inputs in pixels.
        measure: Whether to measure the family on the device.
        divisor: See `Rounding`, as for `repeats`, `resolution_step` and `head`.
        search: Whether to search for the coefficients; the settings from here on are the search's.
        budget: The budgeted resource: "latency", "macs" or "activations".
        times: The budget, relative to the base.
        tolerance: The relative deviation from the budget that a grid point may have.
        step: The step between coefficients in the grid.
        objective: "soft", "hard" or "constrained".
        exponent: The exponent of the soft objective.
        compare_phi: Phis at which the rule is compared with single dimensions.
        compare_seeds: The number of seeds of that comparison; 0 disables it.
        experiment: The device, and for a search the data, the evaluator and the controller.
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
        """The run folder: --run, or a name derived from the network, data and budget."""
        searched = f"-{re.sub(r'[^A-Za-z0-9_.]+', '_', Path(self.experiment.data).name)}" if self.search else ""
        budget = f"-{self.budget}" if self.budget else ""
        return Path(self.experiment.run or Path("runs") / f"scale-{self.name}{searched}{budget}")

    @property
    def name(self) -> str:
        """The network's name as a part of a folder name."""
        return re.sub(r"[.](ya?ml|json)$", "", re.sub(r"[^\w.]+", "_", Path(self.network).name))


SEARCH_ONLY = (
    "budget", "times", "tolerance", "step", "exponent", "compare_phi", "compare_seeds", "data", "data_root",
    "fit", "flip", "task",
    "objective", "controller", "trials", "evaluator", "accuracies", "proxy_resolution", "proxy_epochs", "proxy_images",
    "metric", "class_weights", "finalists", "finalist_seeds", "workers", "trial_timeout", "retry_failed", "seed",
)  # fmt: skip
"""Settings that have an effect only with --search."""


def make_scale_settings(given: Mapping[str, Any]) -> ScaleSettings:
    """Return the settings of the given flags by name; unknown names are ignored.

    Raises:
        UsageError: If a flag is empty, has no effect, or contradicts another.
    """
    if not given.get("search"):
        for key in SEARCH_ONLY:
            if key in given:
                raise UsageError("applies only to the coefficient search: add --search", key=key)
        for key in ("runtime", "threads", "device"):
            if key in given and not (given.get("measure") or given.get("latency")):
                raise UsageError("has no effect, because nothing is measured: add --measure or --latency", key=key)
    if given.get("measure") and given.get("table"):
        raise UsageError("predicts latencies and cannot be combined with --measure", key="table")
    for key in ("phi", "latency", "coefficients", "preset", *DIMENSIONS):
        if given.get(key) == "":
            raise UsageError("must not be empty", key=key)
    own = {field.name for field in fields(ScaleSettings)}
    shared = {field.name for field in fields(SearchSettings)} - own
    settings = ScaleSettings(**{key: value for key, value in given.items() if key in own})
    search_settings = with_implied({key: value for key, value in given.items() if key in shared})
    search_settings = {"metric": task_default(given.get("task", SearchSettings.task), "metric"), **search_settings}
    settings = replace(settings, experiment=replace(settings.experiment, **search_settings))
    return replace(settings, experiment=replace(settings.experiment, run=str(settings.folder)))


@dataclass(frozen=True)
class BaseNetwork:
    """The network to scale. From a search's folder, also the coefficients found there and their rounding."""

    architecture: Architecture
    coefficients: Coefficients | None = None
    rounding: Rounding | None = None


def read_base(network: str) -> BaseNetwork:
    """Return the base from a name, a YAML or JSON file, or a run folder. Raises NasError."""
    path = Path(network) / SCALE_RESULT
    if Path(network).name in (SCALE_RESULT, FAMILY_RESULT):
        folder = Path(network).parent
        raise RunError("is a result file: give its folder", where=network, nearest=f"; did you mean '{folder}'?")
    if not path.is_file():
        if networks := sorted(path.parent.glob(f"{FAMILY_FOLDER}/*.json")):
            rule = "is the folder of a family: name one of its networks"
            raise RunError(rule, where=network, nearest=f", for example '{networks[0]}'")
        return BaseNetwork(_read_valid_architecture(network))
    stored = read_json(path)
    try:
        arch = Architecture.from_dict(stored["base"]["blocks"], str(path))
        keys = ("alpha", "beta", "gamma", *(["neck"] if "neck" in stored["coefficients"] else []))
        found = parse_coefficients(",".join(str(stored["coefficients"][key]) for key in keys))
        divisor, repeats, step = (stored["rounding"][key] for key in ("divisor", "repeats", "resolution_step"))
        head = stored["rounding"]["head"].replace(" ", "-")
        return BaseNetwork(arch, found, make_rounding(DEFAULT_PRESET, arch, divisor, repeats, step, head))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = error if isinstance(error, NasError) else repr(error)
        raise RunError(f"not the result of a coefficient search: {reason}", where=path) from error


def _read_valid_architecture(network: str) -> Architecture:
    """Return a network as written, not canonical: repeats keep arguments that only some of their copies use."""
    arch = read_architecture(network)
    trace(arch)  # raises if the network is invalid
    return arch


def make_rule(settings: ScaleSettings, base: BaseNetwork) -> Rule:
    """Return the rule of the flags, else the rule that a search found, else EfficientNet's. Raises UsageError."""
    by_hand = {key: getattr(settings, key) for key in DIMENSIONS if getattr(settings, key)}
    named = [key for key in ("preset", "coefficients") if getattr(settings, key)]
    if by_hand and named:
        raise UsageError(f"cannot be combined with --{named[0]}", key=next(iter(by_hand)))
    if len(named) > 1:
        raise UsageError("cannot be combined with --coefficients", key="preset")
    preset = DEFAULT_PRESET
    if settings.preset:
        preset = find_preset(settings.preset)
    elif base.rounding:
        preset = replace(preset, rounding=base.rounding)
    rounding = make_rounding(
        preset, base.architecture, settings.divisor, settings.repeats, settings.resolution_step, settings.head
    )
    exact = replace(rounding, resolution_step=1)
    if by_hand:
        _check_no_resolution_step(settings)
        points = parse_points(by_hand, base.architecture)
        return Rule("by hand", exact, points=points, reference=base.architecture.resolution)
    if not settings.preset:
        found = parse_coefficients(settings.coefficients) if settings.coefficients else base.coefficients
        name = "given" if settings.coefficients else "searched" if base.coefficients else "efficientnet's"
        return _checked_rule(Rule(name, rounding, found or preset.coefficients), base.architecture, settings)
    if preset.points and not settings.phi and not settings.latency:
        _check_no_resolution_step(settings)
        return Rule(
            settings.preset, exact, points=preset.points, reference=preset.reference, compared=preset.coefficients
        )
    if preset.coefficients is None:
        advice = "it is a table: omit --phi and --latency" if preset.points else "--search finds them"
        raise UsageError(f"'{settings.preset}' has no coefficients: {advice}", key="preset")
    return _checked_rule(Rule(settings.preset, rounding, preset.coefficients), base.architecture, settings)


def _check_no_resolution_step(settings: ScaleSettings) -> None:
    """Raise UsageError if the resolutions are given in pixels but are to be rounded."""
    if settings.resolution_step is not None:
        rule = "cannot round resolutions that are given in pixels"
        raise UsageError(rule, key="resolution_step", value=settings.resolution_step)


def _checked_rule(rule: Rule, base: Architecture, settings: ScaleSettings) -> Rule:
    """Return the rule, with the sizes of the base if it scales those of a neck and a head.

    Raises UsageError if the network lacks a dimension that the rule scales.
    """
    assert rule.coefficients is not None
    key = next((key for key in ("coefficients", "preset") if getattr(settings, key)), "")
    check_dimensions(base, rule.coefficients, key=key, where="" if key else settings.network)
    if isinstance(rule.coefficients, Coefficients) and rule.coefficients.neck is None:
        return rule
    try:
        sizes = detector_sizes(base)
    except SpaceError as error:
        raise UsageError(str(error), key=key) from error
    if isinstance(rule.coefficients, DetectorRule):
        return replace(rule, coefficients=replace(rule.coefficients, **asdict(sizes)))
    return replace(rule, coefficients=replace(rule.coefficients, sizes=sizes))


def make_members(settings: ScaleSettings, rule: Rule, base: Architecture) -> list[Member]:
    """Return the networks of the rule's points or of the phis. Raises UsageError if one is invalid."""
    if rule.points:
        try:
            return members_by_points(base, rule.points, rule.rounding, rule.reference, rule.compared)
        except SpaceError as error:
            if settings.preset:
                raise UsageError(str(error), key="preset") from error
            raise UsageError(error.rule, key=error.key, value=error.value) from error
    assert rule.coefficients is not None
    members = []
    for phi in parse_phis(settings.phi or DEFAULT_PHIS):
        try:
            members += members_by_phi(base, rule.coefficients, [phi], rule.rounding)
        except SpaceError as error:
            valid = last_valid_phi(base, rule.coefficients, phi, rule.rounding)
            nearest = f"; the nearest valid phi is about {math.trunc(100 * valid) / 100:g}"
            raise UsageError(str(error), key="phi", nearest=nearest) from error
    return members
