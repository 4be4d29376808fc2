"""What a search for coefficients is made of: checked and worked out before anything is measured or written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nas.architecture import Architecture
from nas.controllers import CONTROLLERS
from nas.devices.client import open_worker
from nas.devices.runtimes import find_runtime
from nas.errors import UsageError
from nas.evaluators import find_evaluator
from nas.networks.network import canonical
from nas.scaling.budget import Budget, check_budget, make_budgeted
from nas.scaling.grid import Grid, GridPoint, grid_domain, grid_point, grid_points, make_grid
from nas.scaling.grid_latencies import GridLatencies, check_any
from nas.scaling.parsing import UNNAMED, find_preset, make_rounding, parse_latencies, parse_phis
from nas.scaling.presets import PRESETS, Coefficients
from nas.scaling.settings import ScaleSettings, read_base
from nas.spaces.search_space import Proxy
from nas.training.tasks.classification import Classification
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.settings import check_fields


@dataclass(frozen=True)
class CoefficientSearch:
    """Everything of a search that is known before anything is measured or written."""

    job: ScaleSettings
    task: Classification
    base: Architecture
    grid: Grid
    grid_points: list[GridPoint | None]
    resource: str
    objective: str
    identity: dict[str, Any]

    @cached_property
    def first(self) -> GridPoint:
        """The base as a point."""
        return grid_point(canonical(self.base), {})

    def coefficients(self, digest: str) -> Coefficients:
        """Return the coefficients that stand for a network of the grid."""
        (spot,) = [spot for spot in self.every if spot.architecture.digest == digest]
        return self.grid.coefficients(spot.choices)

    @cached_property
    def every(self) -> list[GridPoint]:
        """The distinct networks of the grid, without the base."""
        base = self.first.architecture.digest
        found = {spot.architecture.digest: spot for spot in self.grid_points if spot}
        return [spot for digest, spot in found.items() if digest != base]


def prepare(job: ScaleSettings, reporter: Reporter) -> CoefficientSearch:
    """Check every setting and return what they make. Raises NasError, before anything is written."""
    experiment = job.experiment
    preset = find_preset(job.preset) if job.preset else UNNAMED
    if job.preset and not preset.budget:
        known = ", ".join(name for name, each in PRESETS.items() if each.budget)
        raise UsageError(f"--preset: '{job.preset}' says nothing of a search; {known} do")
    resource, objective = job.budget or preset.budget or "latency", job.objective or preset.objective or "soft"
    check_settings(job, resource, objective)
    task = Classification.load(experiment.data, experiment.data_root)
    base = read_base(job.network).architecture.for_classes(task.num_classes)
    rounding = make_rounding(preset, base, job.divisor, job.repeats, job.resolution_step, job.head)
    own = Proxy()
    proxy = Proxy(
        experiment.proxy_resolution or min(own.resolution, base.resolution),
        experiment.proxy_epochs or own.epochs, experiment.proxy_images, of=base.resolution,
    )  # fmt: skip
    grid = make_grid(base, job.step, job.times, resource == "macs", rounding, proxy)
    controller: Any = lookup(CONTROLLERS, experiment.controller, "controller", "--controller")
    with reporter.task("listing the grid", grid.size) as advance:
        made = grid_points(grid, advance)
    if {spot.architecture.digest for spot in made if spot} == {canonical(base).digest}:
        raise UsageError(
            "--step: rounding makes the base of every grid point: give a smaller --divisor or wider --times"
        )
    if hasattr(controller, "check"):
        controller.check(grid_domain(grid, made, lambda spot: float(spot.macs)))
    identity = {
        "grid": grid.key, "base": base.digest, "budget": resource, "times": job.times, "tolerance": job.tolerance,
        "objective": objective, "exponent": job.exponent, "data": task.data.name,
        "train_images": len(task.data.train), "proxy": [proxy.resolution, proxy.epochs, proxy.images],
        "evaluator": experiment.evaluator, "accuracies": experiment.accuracies, "controller": experiment.controller,
        "seed": experiment.seed, "runtime": experiment.runtime, "threads": experiment.threads,
        "device": experiment.device, "table": list(experiment.tables),
    }  # fmt: skip
    setting = CoefficientSearch(job, task, base, grid, made, resource, objective, identity)
    if resource != "latency":
        check_admitted(setting, GridLatencies(math.nan, {}))
    return setting


def check_settings(job: ScaleSettings, resource: str, objective: str) -> None:
    """Raise UsageError for the first setting that cannot be."""
    experiment = job.experiment
    check_budget(resource, job.times, job.tolerance, objective)
    make_budgeted(objective, Budget(resource, 1.0, job.times, job.tolerance), job.exponent)
    _check_family(job)
    find_runtime(experiment.runtime)
    find_evaluator(experiment.evaluator)
    open_worker(experiment.device, experiment.runtime, experiment.threads)
    check_fields(experiment, without=("trials",))
    if experiment.trials < 0:
        raise UsageError("must be at least 0", key="trials", value=experiment.trials)
    if job.compare_seeds < 0:
        raise UsageError(f"--compare-seeds: must not be negative: {job.compare_seeds}")


def _check_family(job: ScaleSettings) -> None:
    """Raise UsageError where the networks to compare and to make with the coefficients cannot be."""
    for flag in ("coefficients", "depth", "width", "resolution"):
        if getattr(job, flag):
            raise UsageError(f"--{flag}: --search finds the factors, leave it out")
    if job.phi and job.latency:
        raise UsageError("--latency: finds the phi of each target, it does not go with --phi")
    if job.phi:
        parse_phis(job.phi)
    if job.latency:
        parse_latencies(job.latency)
    if min(parse_phis(job.compare_phi, "--compare-phi")) <= 0:
        raise UsageError(f"--compare-phi: must be above 0, the base is compared anyway: '{job.compare_phi}'")


def make_budget(setting: CoefficientSearch, base_ms: float) -> Budget:
    """Return the budget: `times` what the base spends."""
    base = base_ms if setting.resource == "latency" else counted(setting, setting.first)
    return Budget(setting.resource, base, setting.job.times, setting.job.tolerance)


def check_admitted(setting: CoefficientSearch, bench: GridLatencies) -> list[GridPoint]:
    """Return the points that the budget admits. Raises UsageError, with the nearest, where there is none."""
    budget, every = make_budget(setting, bench.base_ms), setting.every
    spent = [spends(setting, bench, spot) for spot in every]
    admitted = [spot for spot, cost in zip(every, spent, strict=True) if budget.admits(cost)]
    check_any(admitted, every, [cost / budget.base for cost in spent], budget)
    return admitted


def counted(setting: CoefficientSearch, spot: GridPoint) -> float:
    """Return a point's MACs or activations."""
    return float(spot.activations if setting.resource == "activations" else spot.macs)


def spends(setting: CoefficientSearch, bench: GridLatencies, spot: GridPoint) -> float:
    """Return what a point spends of the budget's resource; infinitely much where its latency is not known."""
    if setting.resource == "latency":
        return bench.latency_ms.get(spot.architecture.digest, math.inf)
    return counted(setting, spot)
