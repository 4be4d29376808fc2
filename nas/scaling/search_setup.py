"""Setup of a coefficient search: checks every setting and builds the grid before anything is measured or written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nas.architecture import Architecture
from nas.controllers import CONTROLLERS
from nas.devices.client import open_worker
from nas.devices.runtimes import find_runtime
from nas.errors import SpaceError, UsageError
from nas.evaluators import check_metric, find_evaluator, uses_task
from nas.latency.catalog import find_table
from nas.networks.block_schema import block_sources
from nas.networks.network import canonical
from nas.scaling.budget import Budget, check_budget, make_budget_objective
from nas.scaling.detectors import check_resolution, is_detector
from nas.scaling.grid import Grid, GridPoint, encode_grid, make_grid, make_grid_point, make_grid_points
from nas.scaling.grid_latencies import GridLatencies, check_any_admitted
from nas.scaling.parsing import DEFAULT_PRESET, find_preset, make_rounding, parse_latencies, parse_phis
from nas.scaling.presets import PRESETS, Coefficients
from nas.scaling.settings import ScaleSettings, read_base
from nas.searching.identity import plugin_identity, source_identity
from nas.searching.settings import SearchSettings, task_default
from nas.spaces.trainings import Proxy
from nas.study.storage import stored_settings
from nas.training.deployed_network import check_precision
from nas.training.tasks.base import Task, for_task
from nas.training.tasks.image_record import ImageRecord, RunPlace, load_for_run
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.run_identity import content_digest
from nas.utils.settings import check_fields

PROXIES = {"detection": Proxy(resolution=128, epochs=10)}
"""The cheap trainings of the candidates of a task, if they differ from `Proxy()`."""


@dataclass(frozen=True)
class CoefficientSearch:
    """A coefficient search before anything is measured or written.

    Attributes:
        settings: The settings.
        task: The task that candidates are evaluated on.
        images: The content of the data set's files.
        base: The base, with a head for the task's classes.
        grid: The grid of coefficients.
        grid_points: The network of each point of the grid; None if it is invalid.
        resource: The budgeted cost: "latency", "macs" or "activations".
        objective: The objective's name.
        identity: The settings that identify the search; a run folder holds one search.
    """

    settings: ScaleSettings
    task: Task
    images: ImageRecord
    base: Architecture
    grid: Grid
    grid_points: list[GridPoint | None]
    resource: str
    objective: str
    identity: dict[str, Any]

    @cached_property
    def base_point(self) -> GridPoint:
        """The base as a point of the grid."""
        return make_grid_point(canonical(self.base), {})

    def coefficients(self, digest: str) -> Coefficients:
        """Return the coefficients that represent a network of the grid."""
        return self.grid.coefficients(self.point(digest).choices)

    def point(self, digest: str) -> GridPoint:
        """Return the point of a network of the grid."""
        (found,) = [point for point in self.distinct_points if point.architecture.digest == digest]
        return found

    @cached_property
    def distinct_points(self) -> list[GridPoint]:
        """The distinct networks of the grid, without the base."""
        base = self.base_point.architecture.digest
        found = {point.architecture.digest: point for point in self.grid_points if point}
        return [point for digest, point in found.items() if digest != base]


def prepare_search(settings: ScaleSettings, reporter: Reporter) -> CoefficientSearch:
    """Check every setting and build the grid. Raises NasError before anything is written."""
    experiment = settings.experiment
    preset = find_preset(settings.preset) if settings.preset else DEFAULT_PRESET
    if settings.preset and not preset.budget:
        known = ", ".join(name for name, each in PRESETS.items() if each.budget)
        rule = "has no budget for a search"
        raise UsageError(rule, key="preset", value=settings.preset, nearest=f"; presets with a budget: {known}")
    resource = settings.budget or preset.budget or "latency"
    objective = settings.objective or preset.objective or "soft"
    check_settings(settings, resource, objective)
    place = RunPlace(settings.folder, "--run", stored_settings(settings.folder))
    task, images = load_for_run(experiment, place, reporter)
    base = read_base(settings.network).architecture
    task = task.for_input(base.input)
    base = for_task(base, task)
    grid = make_search_grid(settings, base, resource)
    controller: Any = lookup(CONTROLLERS, experiment.controller, "controller", "--controller")
    with reporter.task("listing the grid", grid.size) as advance:
        points = make_grid_points(grid, advance)
    if {point.architecture.digest for point in points if point} == {canonical(base).digest}:
        raise UsageError(
            "every grid point rounds to the base network: use a smaller --divisor or larger --times",
            key="step",
            value=settings.step,
        )
    if hasattr(controller, "check"):
        controller.check(encode_grid(grid, points, lambda point: float(point.macs)))
    proxy = grid.proxy
    identity = {
        "grid": grid.key, "base": base.digest, "budget": resource, "times": settings.times,
        "tolerance": settings.tolerance, "objective": objective, "exponent": settings.exponent, "data": task.data.name,
        "train_images": len(task.data.train), **images.identity,
        "proxy": [proxy.resolution, proxy.epochs, proxy.images],
        "evaluator": experiment.evaluator, "accuracies": experiment.accuracies, "controller": experiment.controller,
        "seed": experiment.seed, "runtime": experiment.runtime, "threads": experiment.threads,
        "device": experiment.device, "table": list(experiment.tables), **task.settings,
        **plugin_identity(experiment), **content_identity(experiment),
        **block_sources(spec.op for spec in base.blocks()),
    }  # fmt: skip
    search = CoefficientSearch(settings, task, images, base, grid, points, resource, objective, identity)
    if resource != "latency":
        admitted_points(search, GridLatencies(math.nan, {}))
    return search


def content_identity(experiment: SearchSettings) -> dict[str, Any]:
    """Return the digests of the files that the search reads: the table of accuracies and the latency table."""
    found = source_identity(experiment.source) if experiment.source and experiment.source.exists() else {}
    if experiment.tables:
        found["table_content"] = content_digest(find_table(name) for name in experiment.tables)
    return found


def make_search_grid(settings: ScaleSettings, base: Architecture, resource: str) -> Grid:
    """Return the grid of the settings. Raises UsageError."""
    experiment = settings.experiment
    check_precision(experiment.task, experiment.runtime)
    default = PROXIES.get(experiment.task, Proxy())
    preset = find_preset(settings.preset) if settings.preset else DEFAULT_PRESET
    rounding = make_rounding(preset, base, settings.divisor, settings.repeats, settings.resolution_step, settings.head)
    proxy = Proxy(
        experiment.proxy_resolution or min(default.resolution, base.resolution),
        experiment.proxy_epochs or default.epochs,
        experiment.proxy_images,
        of=base.resolution,
    )
    if is_detector(base):
        try:
            check_resolution(base, proxy.resolution)
        except SpaceError as error:
            raise UsageError(error.rule, key="proxy_resolution", value=proxy.resolution) from error
    return make_grid(base, settings.step, settings.times, resource == "macs", rounding, proxy)


def check_settings(settings: ScaleSettings, resource: str, objective: str) -> None:
    """Raise UsageError for the first invalid setting."""
    experiment = settings.experiment
    check_budget(resource, settings.times, settings.tolerance, objective)
    make_budget_objective(objective, Budget(resource, 1.0, settings.times, settings.tolerance), settings.exponent)
    _check_family_settings(settings)
    find_runtime(experiment.runtime)
    find_evaluator(experiment.evaluator)
    open_worker(experiment.device, experiment.runtime, experiment.threads)
    check_fields(experiment, without=("trials",))
    check_accuracies(experiment)
    if experiment.trials < 0:
        raise UsageError("must be at least 0", key="trials", value=experiment.trials)
    if settings.compare_seeds < 0:
        raise UsageError("must be at least 0", key="compare_seeds", value=settings.compare_seeds)


def check_accuracies(experiment: SearchSettings) -> None:
    """Raise UsageError if the evaluator cannot apply the metric or the class weights."""
    default = task_default(experiment.task, "metric")
    check_metric(experiment.evaluator, experiment.metric, experiment.source, default)
    if experiment.class_weights != "none" and not uses_task(experiment.evaluator):
        rule = f"has no effect: the evaluator '{experiment.evaluator}' does not apply it"
        raise UsageError(rule, key="class_weights", value=experiment.class_weights)


def _check_family_settings(settings: ScaleSettings) -> None:
    """Raise UsageError if the settings of the comparison or of the family are invalid in a search."""
    for key in ("coefficients", "depth", "width", "resolution"):
        if getattr(settings, key):
            raise UsageError("cannot be combined with --search, which finds the factors", key=key)
    if settings.phi and settings.latency:
        raise UsageError("cannot be combined with --phi: it finds the phi of each target", key="latency")
    if settings.phi:
        parse_phis(settings.phi)
    if settings.latency:
        parse_latencies(settings.latency)
    if min(parse_phis(settings.compare_phi, "compare_phi")) <= 0:
        rule = "must be above 0 (the base is always compared)"
        raise UsageError(rule, key="compare_phi", value=settings.compare_phi)


def make_budget(search: CoefficientSearch, base_ms: float) -> Budget:
    """Return the search's budget, for a base that takes `base_ms`."""
    base = base_ms if search.resource == "latency" else _count(search, search.base_point)
    return Budget(search.resource, base, search.settings.times, search.settings.tolerance)


def admitted_points(search: CoefficientSearch, grid_latencies: GridLatencies) -> list[GridPoint]:
    """Return the points that the budget admits. Raises UsageError with the nearest point if there is none."""
    budget, points = make_budget(search, grid_latencies.base_ms), search.distinct_points
    costs = [point_cost(search, grid_latencies, point) for point in points]
    admitted = [point for point, cost in zip(points, costs, strict=True) if budget.admits(cost)]
    check_any_admitted(admitted, points, [cost / budget.base for cost in costs], budget)
    return admitted


def _count(search: CoefficientSearch, point: GridPoint) -> float:
    """Return a point's MACs or activations."""
    return float(point.activations if search.resource == "activations" else point.macs)


def point_cost(search: CoefficientSearch, grid_latencies: GridLatencies, point: GridPoint) -> float:
    """Return a point's cost in the budgeted resource; infinite if its latency is unknown."""
    if search.resource == "latency":
        return grid_latencies.latency_ms.get(point.architecture.digest, math.inf)
    return _count(search, point)
