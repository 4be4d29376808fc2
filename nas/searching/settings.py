"""An experiment: every setting of a search in one value, from a YAML file and from flags.

This is the only module that turns names into classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import socket
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.controllers import CONTROLLERS, Controller
from nas.controllers.base import Problem
from nas.devices.client import LOCAL
from nas.errors import RunError, UsageError
from nas.evaluators import epochs_of, find_evaluator
from nas.evaluators.base import Evaluator, EvaluatorContext
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.processes import ProcessBackend
from nas.evaluators.executors.ray import RayBackend
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor
from nas.searching.early_stopping import Rungs, make_rungs
from nas.searching.prior_runs import PriorKnowledge
from nas.searching.warm_start import WarmStart, best_of_random
from nas.spaces.encoding import EncodedSpace, no_costs
from nas.spaces.search_space import FinalTraining, Proxy, Searched, Space
from nas.spaces.yaml_format import load_space, read_yaml
from nas.study.multi_goal import Target, listed_ms, make_goals, make_targets, parse_axes
from nas.study.objectives import DEFAULT_AXES, Objective
from nas.study.storage import masked
from nas.training.tasks.classification import Classification
from nas.utils.registry import lookup, nearest
from nas.utils.reporting import Reporter
from nas.utils.units import parse_duration, parse_latency

SOURCES = {"accuracies": "tabular", "supernet": "supernet"}
"""Settings that point at an evaluator's source, and the evaluator that each implies."""
WARM_SHARE = 16
"""A warm start tries the best sixteenth of its samples, at least one: more --trials leave it what it was."""


@dataclass(frozen=True)
class SearchSettings:
    """The settings of `nas search`. Latencies are text with a unit; 0 and None mean what the space says.

    Several targets or tables are several goals of one search.
    """

    target_latency: str | list[str] = ""
    space: str = "mnasnet"
    data: str = "digits"
    data_root: str | None = None
    objective: str = "soft"
    alpha: float | None = None
    beta: float | None = None
    runtime: str = "onnxruntime"
    threads: int = 1
    device: str = "local"
    table: str | list[str] | None = None
    any_device: bool = False
    controller: str = "surrogate"
    evaluator: str = "proxy_training"
    accuracies: str | None = None
    supernet: str | None = None
    warm_start: str | None = None
    warm_start_samples: int = 64
    trials: int = 12
    seed: int = 0
    proxy_resolution: int = 0
    proxy_epochs: int = 0
    proxy_images: int = 0
    final_epochs: int = 0
    final_images: int = 0
    run: str | None = None
    fidelity: str = "full"
    eta: int = 2
    min_epochs: int = 1
    finalists: int = 5
    finalist_seeds: int = 2
    supernet_epochs: int = 0
    train_finalists: int = 0
    start_from: str | list[str] | None = None
    axes: str | None = None
    storage: str | None = None
    worker: bool = False
    retry_failed: bool = False
    workers: int = 0
    trial_timeout: str = ""
    ray: str | None = None
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the latency tables; none means the device's own."""
        return _texts(self.table)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What each goal aims at. Raises UsageError where a target is missing, or no latency, or tables do not fit."""
        if not _texts(self.target_latency):
            raise UsageError("--target-latency: is needed, as '20ms' or '0.02s'")
        return make_targets([parse_latency(text) for text in _texts(self.target_latency)], self.tables)

    @property
    def target_ms(self) -> float:
        """The first target, in ms. Raises UsageError as `targets`."""
        return self.targets[0].ms

    @property
    def front_axes(self) -> tuple[str, ...]:
        """The axes of the objective's front, where it has one. Raises UsageError."""
        return parse_axes(self.axes) if self.axes else DEFAULT_AXES

    @property
    def source(self) -> Path | None:
        """What the evaluator is pointed at: a table of accuracies or a supernet's folder."""
        given = self.accuracies or self.supernet
        return Path(given) if given else None

    @property
    def starts(self) -> list[str]:
        """What the search starts from: run folders, networks by name or YAML. Raises UsageError for another thing."""
        given = [self.start_from] if isinstance(self.start_from, str) else self.start_from or []
        for name in given:
            if not isinstance(name, str) or not name:
                raise UsageError(f"--start-from: a run's folder, or a network's name or YAML: {name!r}")
        return list(dict.fromkeys(given))

    @property
    def limit_s(self) -> float | None:
        """The time that a candidate has, in s; None without a limit. Raises UsageError where it is no duration."""
        return parse_duration(self.trial_timeout, "--trial-timeout") if self.trial_timeout else None

    @property
    def folder(self) -> Path:
        """The run's folder: --run, or a name made of what is searched."""
        if self.run:
            return Path(self.run)
        space, data = (re.sub(r"\W+", "_", Path(name).stem) for name in (self.space, self.data))
        other = self.evaluator != SearchSettings.evaluator
        by = "-" + re.sub(r"\W+", "_", self.evaluator) if other else ""
        towards = "-".join(dict.fromkeys(f"{target.ms:g}ms" for target in self.targets))
        if len(self.tables) > 1:
            towards += "-" + "-".join(re.sub(r"\W+", "_", Path(name).stem) for name in self.tables)
        return Path("runs") / f"{space}-{data}-{towards}-{self.objective}{by}-seed{self.seed}"


def _texts(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of an experiment file, checked by name and type. Raises UsageError or SpaceError."""
    data = read_yaml(Path(path))
    if not isinstance(data, Mapping):
        raise UsageError(f"{path}: an experiment is a mapping of settings to values: {data!r}")
    fields = {field.name: field for field in dataclasses.fields(SearchSettings)}
    for key, value in data.items():
        if key not in fields:
            raise UsageError(f"{path}: unknown setting '{key}'{nearest(str(key), fields)}")
        names = str(fields[key].type).split(" | ")
        if _type_name(value) not in (*names, *(["int"] if "float" in names else [])):
            raise UsageError(f"{path}: {key} must be of type {names[0]}: {value!r}")
    return dict(data)


def _type_name(value: object) -> str:
    """Return how a field's type would be spelled: "list[str]" of a list of texts."""
    names = {type(item).__name__ for item in value} if isinstance(value, list) else set()
    return f"list[{names.pop()}]" if len(names) == 1 else type(value).__name__


def with_implied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the evaluator that `accuracies` or `supernet` implies, where none is named.

    A list of one is that one, so that a run is the same however it is spelled.
    """
    settings = {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in settings.items()
    }
    implied = [evaluator for key, evaluator in SOURCES.items() if settings.get(key)]
    return {"evaluator": implied[0], **settings} if implied else dict(settings)


def resolve_space(experiment: SearchSettings) -> Space:
    """Return the experiment's space with the proxy that the flags ask for. Raises SpaceError."""
    space = load_space(experiment.space)
    proxy = Proxy(
        experiment.proxy_resolution or space.proxy.resolution,
        experiment.proxy_epochs or space.proxy.epochs,
        experiment.proxy_images or space.proxy.images,
    )
    final = FinalTraining(experiment.final_epochs or space.final.epochs, experiment.final_images or space.final.images)
    supernet = replace(space.supernet, epochs=experiment.supernet_epochs or space.supernet.epochs)
    return replace(space, proxy=proxy, final=final, supernet=supernet)


def make_experiment_objective(experiment: SearchSettings) -> Objective:
    """Return the objective with the experiment's targets, exponents and axes. Raises UsageError."""
    targets, axes = experiment.targets, experiment.front_axes
    return make_goals(experiment.objective, targets, experiment.alpha, experiment.beta, axes)


def check_controller(experiment: SearchSettings, space: Space) -> None:
    """Raise UsageError where the controller cannot search the space, or its library is missing."""
    controller: object = lookup(CONTROLLERS, experiment.controller, "controller", "--controller")
    controller_check: Callable[[EncodedSpace], None] | None = getattr(controller, "check", None)
    if controller_check is not None:
        controller_check(EncodedSpace(space.choices, no_costs, space.conditions))


def make_controller(
    experiment: SearchSettings,
    space: Space,
    problem: Problem,
    task: Classification,
    is_feasible: Callable[[Architecture], bool],
    start: PriorKnowledge,
    tried: Callable[[], AbstractSet[str]],
    reporter: Reporter,
) -> Controller:
    """Return the experiment's controller, told what `start` knows; behind what it and a warm start ask for first.

    `tried` gives the digests of all candidates so far, failed ones included.
    """
    controller: Controller = lookup(CONTROLLERS, experiment.controller, "controller", "--controller")(problem)
    for known in start.told:
        controller.tell(known)
    controller = _warmed(experiment, space, controller, task, is_feasible, start, tried, reporter)
    return WarmStart(controller, start.first, tried) if start.first else controller


def _warmed(
    experiment: SearchSettings,
    space: Space,
    controller: Controller,
    task: Classification,
    is_feasible: Callable[[Architecture], bool],
    start: PriorKnowledge,
    tried: Callable[[], AbstractSet[str]],
    reporter: Reporter,
) -> Controller:
    """Return the controller behind the best of random candidates by a zero-cost score, where that is not over."""
    samples = experiment.warm_start_samples
    keep = max(1, samples // WARM_SHARE)
    if not experiment.warm_start or len(tried()) >= keep + len(start.first):
        return controller
    pool = best_of_random(
        experiment.warm_start, space, task,
        lambda arch: is_feasible(arch) and arch.digest not in start.digests,
        samples, keep, experiment.seed, reporter,
    )  # fmt: skip
    return WarmStart(controller, pool, tried)


def make_evaluator(experiment: SearchSettings, task: Classification, space: Searched, reporter: Reporter) -> Evaluator:
    """Return the experiment's evaluator on the task."""
    return find_evaluator(experiment.evaluator)(make_setup(experiment, task, space, reporter))


def make_setup(
    experiment: SearchSettings, task: Classification, space: Searched, reporter: Reporter
) -> EvaluatorContext:
    """Return what the experiment's evaluator is made from."""
    return EvaluatorContext(task, space, experiment.folder, experiment.source, experiment.seed, reporter)


def shown(experiment: SearchSettings) -> dict[str, Any]:
    """Return the settings as a result tells them: without the password of a storage."""
    return {**dataclasses.asdict(experiment), "storage": masked(experiment.storage) if experiment.storage else None}


def make_executor(
    experiment: SearchSettings, task: Classification, space: Searched, reporter: Reporter
) -> Executor | None:
    """Return what evaluates the candidates, None for this process. Raises UsageError where there is no such cluster.

    The evaluator has been made before: what it keeps in the run's folder is found by those that are made elsewhere.
    """
    if not experiment.ray and not experiment.workers and experiment.limit_s is None:
        return None
    state = (experiment.folder / experiment.evaluator).absolute()
    build = partial(make_evaluator_elsewhere, experiment, task, space, state if state.is_dir() else None)
    crew: Any
    if experiment.ray:
        crew = RayBackend(experiment.ray, build, experiment.ray_cpus, experiment.ray_gpus, reporter.warn)
    else:
        crew = ProcessBackend(build, max(1, experiment.workers))
    return WorkerPoolExecutor(crew, experiment.limit_s, reporter.warn)


def make_evaluator_elsewhere(
    experiment: SearchSettings, task: Classification, space: Searched, state: Path | None
) -> Evaluator:
    """Return the evaluator in another process. Raises RunError where it would not find what was made for all."""
    if state and not state.exists():
        raise RunError(f"{state}: is not on {socket.gethostname()}: the run's folder must be the same on each node")
    return make_evaluator(experiment, task, space, Reporter(quiet=True))


def only_reads(experiment: SearchSettings) -> bool:
    """Whether the evaluator is made of its source alone and writes nothing: it can be made before anything else."""
    return experiment.source is not None and experiment.evaluator in SOURCES.values()


def make_experiment_rungs(experiment: SearchSettings, task: Classification, space: Space) -> Rungs:
    """Return when the experiment's trainings stop early. Raises UsageError where the evaluator has no epochs."""
    if experiment.fidelity == "full":
        return make_rungs("full", experiment.eta, experiment.min_epochs, 1)
    epochs = epochs_of(experiment.evaluator, make_setup(experiment, task, space, Reporter(quiet=True)))
    if epochs is None:
        raise UsageError(
            f"--fidelity: '{experiment.evaluator}' has no epochs after which to stop: '{experiment.fidelity}'"
        )
    return make_rungs(experiment.fidelity, experiment.eta, experiment.min_epochs, epochs)


def identity(experiment: SearchSettings, space: Space, task: Classification) -> dict[str, Any]:
    """Return what makes this experiment another than the next: a run folder holds trials of one identity."""
    return {
        "space": experiment.space,
        "space_digest": space.digest,
        "data": task.data.name,
        "train_images": len(task.data.train),
        "target_latency_ms": listed_ms(experiment.targets),
        "objective": experiment.objective,
        "alpha": experiment.alpha,
        "beta": experiment.beta,
        "runtime": experiment.runtime,
        "threads": experiment.threads,
        "device": None if experiment.device == LOCAL else experiment.device,  # None: run folders from before have none
        "controller": experiment.controller,
        "evaluator": experiment.evaluator,
        "seed": experiment.seed,
        **_optional_identity(experiment),
        **{  # None where all train fully: run folders from before have none
            key: None if experiment.fidelity == "full" else getattr(experiment, key)
            for key in ("fidelity", "eta", "min_epochs")
        },
    }


def _optional_identity(experiment: SearchSettings) -> dict[str, Any]:
    """Return what run folders from before do not have: left out where it is not used."""
    found: dict[str, Any] = {}
    if source := experiment.source:
        found["source"] = str(source)
        if source.is_file():
            found["source_digest"] = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    if experiment.front_axes != DEFAULT_AXES:
        found["axes"] = ",".join(experiment.front_axes)
    if experiment.warm_start:
        found |= {"warm_start": experiment.warm_start, "warm_start_samples": experiment.warm_start_samples}
    return found
