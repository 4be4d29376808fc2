"""An experiment: every setting of a search in one value, from a YAML file and from flags.

This is the only module that turns names into classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.controllers import CONTROLLERS, Controller
from nas.device import LOCAL, find_runtime, open_worker
from nas.errors import UsageError
from nas.evaluators import EVALUATORS, Evaluator
from nas.evaluators.setup import Setup
from nas.objective import Objective, make_objective
from nas.progress import Reporter
from nas.registry import lookup, nearest
from nas.rungs import FIDELITIES, Rungs, make_rungs
from nas.space import FinalTraining, Proxy, Space
from nas.space_file import load_space, read_yaml
from nas.tasks.classification import Classification
from nas.units import parse_latency


@dataclass(frozen=True)
class Experiment:
    """The settings of `nas search`. Latencies are text with a unit; 0 and None mean what the space says."""

    target_latency: str = ""
    space: str = "mnasnet"
    data: str = "digits"
    data_root: str | None = None
    objective: str = "soft"
    alpha: float | None = None
    beta: float | None = None
    runtime: str = "onnxruntime"
    threads: int = 1
    device: str = "local"
    table: str | None = None
    any_device: bool = False
    controller: str = "tpe"
    evaluator: str = "proxy_training"
    trials: int = 12
    seed: int = 0
    proxy_resolution: int = 0
    proxy_epochs: int = 0
    proxy_images: int = 0
    final_epochs: int = 0
    final_images: int = 0
    run: str | None = None
    fidelity: str = "full"
    eta: int = 3
    min_epochs: int = 1
    finalists: int = 5
    finalist_seeds: int = 2

    @property
    def target_ms(self) -> float:
        """The target in ms. Raises UsageError where it is missing or not a latency."""
        if not self.target_latency:
            raise UsageError("--target-latency: is needed, as '20ms' or '0.02s'")
        return parse_latency(self.target_latency)

    @property
    def folder(self) -> Path:
        """The run's folder: --run, or a name made of what is searched."""
        if self.run:
            return Path(self.run)
        space, data = (re.sub(r"\W+", "_", Path(name).stem) for name in (self.space, self.data))
        return Path("runs") / f"{space}-{data}-{self.target_ms:g}ms-{self.objective}-seed{self.seed}"


def read_experiment(path: str) -> dict[str, Any]:
    """Return the settings of an experiment file, checked by name and type. Raises UsageError or SpaceError."""
    data = read_yaml(Path(path))
    if not isinstance(data, Mapping):
        raise UsageError(f"{path}: an experiment is a mapping of settings to values: {data!r}")
    fields = {field.name: field for field in dataclasses.fields(Experiment)}
    for key, value in data.items():
        if key not in fields:
            raise UsageError(f"{path}: unknown setting '{key}'{nearest(str(key), fields)}")
        names = str(fields[key].type).split(" | ")
        if type(value).__name__ not in (*names, *(["int"] if "float" in names else [])):
            raise UsageError(f"{path}: {key} must be of type {names[0]}: {value!r}")
    return dict(data)


def resolve_space(experiment: Experiment) -> Space:
    """Return the experiment's space with the proxy that the flags ask for. Raises SpaceError."""
    space = load_space(experiment.space)
    proxy = Proxy(
        experiment.proxy_resolution or space.proxy.resolution,
        experiment.proxy_epochs or space.proxy.epochs,
        experiment.proxy_images or space.proxy.images,
    )
    final = FinalTraining(experiment.final_epochs or space.final.epochs, experiment.final_images or space.final.images)
    return replace(space, proxy=proxy, final=final)


def check(experiment: Experiment) -> None:
    """Raise UsageError for the first setting that cannot be, before anything is loaded or written."""
    experiment.target_ms  # noqa: B018 (raises)
    make_experiment_objective(experiment)
    find_runtime(experiment.runtime)
    lookup(CONTROLLERS, experiment.controller, "controller", "--controller")
    lookup(EVALUATORS, experiment.evaluator, "evaluator", "--evaluator")
    open_worker(experiment.device, experiment.runtime, experiment.threads)  # raises where it cannot be an address
    for key, least in (("trials", 1), ("threads", 1), ("seed", 0)):
        if getattr(experiment, key) < least:
            raise UsageError(f"--{key}: must be at least {least}: {getattr(experiment, key)}")
    for key in ("proxy_resolution", "proxy_epochs", "proxy_images", "final_epochs", "final_images"):
        if getattr(experiment, key) < 0:
            raise UsageError(f"--{key.replace('_', '-')}: must not be negative: {getattr(experiment, key)}")
    lookup(dict.fromkeys(FIDELITIES), experiment.fidelity, "fidelity", "--fidelity")
    for key, least in (("eta", 2), ("min_epochs", 1), ("finalists", 2), ("finalist_seeds", 0)):
        if getattr(experiment, key) < least:
            raise UsageError(f"--{key.replace('_', '-')}: must be at least {least}: {getattr(experiment, key)}")


def make_experiment_objective(experiment: Experiment) -> Objective:
    """Return the objective with the experiment's target and exponents."""
    return make_objective(experiment.objective, experiment.target_ms, experiment.alpha, experiment.beta)


def make_controller(experiment: Experiment, space: Space, objective: Objective) -> Controller:
    """Return the experiment's controller, told nothing."""
    return lookup(CONTROLLERS, experiment.controller, "controller", "--controller")(space, objective.directions)


def make_evaluator(experiment: Experiment, task: Classification, space: Space, reporter: Reporter) -> Evaluator:
    """Return the experiment's evaluator on the task."""
    setup = Setup(task, space, experiment.folder, seed=experiment.seed, reporter=reporter)
    return lookup(EVALUATORS, experiment.evaluator, "evaluator", "--evaluator")(setup)


def make_experiment_rungs(experiment: Experiment, task: Classification, space: Space) -> Rungs:
    """Return when the experiment's trainings stop early. Raises UsageError where the evaluator has no epochs."""
    epochs = getattr(EVALUATORS.get(experiment.evaluator), "epochs", None)
    if epochs is None:
        if experiment.fidelity != "full":
            raise UsageError(
                f"--fidelity: '{experiment.evaluator}' has no epochs after which to stop: '{experiment.fidelity}'"
            )
        return make_rungs("full", experiment.eta, experiment.min_epochs, 1)
    setup = Setup(task, space, experiment.folder, seed=experiment.seed)
    return make_rungs(experiment.fidelity, experiment.eta, experiment.min_epochs, epochs(setup))


def identity(experiment: Experiment, space: Space, task: Classification) -> dict[str, Any]:
    """Return what makes this experiment another than the next: a run folder holds trials of one identity."""
    return {
        "space": experiment.space,
        "space_digest": hashlib.sha256(repr(space).encode()).hexdigest()[:16],
        "data": task.data.name,
        "train_images": len(task.data.train),
        "target_latency_ms": experiment.target_ms,
        "objective": experiment.objective,
        "alpha": experiment.alpha,
        "beta": experiment.beta,
        "runtime": experiment.runtime,
        "threads": experiment.threads,
        "device": None if experiment.device == LOCAL else experiment.device,  # None: run folders from before have none
        "controller": experiment.controller,
        "evaluator": experiment.evaluator,
        "seed": experiment.seed,
        **{  # None where all train fully: run folders from before have none
            key: None if experiment.fidelity == "full" else getattr(experiment, key)
            for key in ("fidelity", "eta", "min_epochs")
        },
    }
