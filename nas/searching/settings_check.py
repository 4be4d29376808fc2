"""Whether an experiment's settings can be, each for itself and together, before anything is loaded or written."""

from __future__ import annotations

from nas.controllers import CONTROLLERS
from nas.devices.client import open_worker
from nas.devices.runtimes import find_runtime
from nas.errors import UsageError
from nas.evaluators import EVALUATORS, find_evaluator
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.searching.early_stopping import FIDELITIES
from nas.searching.settings import SOURCES, SearchSettings, make_experiment_objective
from nas.study.storage import masked
from nas.utils.registry import lookup


def check(experiment: SearchSettings) -> None:
    """Raise UsageError for the first setting that cannot be, before anything is loaded or written."""
    experiment.starts  # noqa: B018 (raises)
    make_experiment_objective(experiment)
    find_runtime(experiment.runtime)
    lookup(CONTROLLERS, experiment.controller, "controller", "--controller")
    find_evaluator(experiment.evaluator)
    _check_sources(experiment)
    if experiment.storage:
        masked(experiment.storage)  # raises where it is no URL
    _check_executor(experiment)
    open_worker(experiment.device, experiment.runtime, experiment.threads)  # raises where it cannot be an address
    for key, least in (("trials", 1), ("threads", 1), ("seed", 0), ("warm_start_samples", 1)):
        if getattr(experiment, key) < least:
            raise UsageError(f"--{key.replace('_', '-')}: must be at least {least}: {getattr(experiment, key)}")
    for key in ("proxy_resolution", "proxy_epochs", "proxy_images", "final_epochs", "final_images",
                "supernet_epochs", "train_finalists", "workers"):  # fmt: skip
        if getattr(experiment, key) < 0:
            raise UsageError(f"--{key.replace('_', '-')}: must not be negative: {getattr(experiment, key)}")
    lookup(dict.fromkeys(FIDELITIES), experiment.fidelity, "fidelity", "--fidelity")
    for key, least in (("eta", 2), ("min_epochs", 1), ("finalists", 2), ("finalist_seeds", 0)):
        if getattr(experiment, key) < least:
            raise UsageError(f"--{key.replace('_', '-')}: must be at least {least}: {getattr(experiment, key)}")


def _check_sources(experiment: SearchSettings) -> None:
    """Raise UsageError where an evaluator lacks its source, has two, or one that is another's."""
    given = [key for key in SOURCES if getattr(experiment, key)]
    if len(given) > 1:
        raise UsageError("--accuracies, --supernet: an evaluator has one source, give one of them")
    for key in given:
        if experiment.evaluator in EVALUATORS and experiment.evaluator != SOURCES[key]:
            raise UsageError(f"--{key}: is for the evaluator '{SOURCES[key]}', not for '{experiment.evaluator}'")
    if experiment.evaluator == "tabular" and not experiment.accuracies:
        raise UsageError("--evaluator tabular: needs --accuracies FILE")
    if experiment.source and not experiment.source.exists():
        raise UsageError(f"--{given[0]}: no such file or folder: '{experiment.source}'")
    if experiment.train_finalists and experiment.evaluator == "proxy_training":
        raise UsageError("--train-finalists: is for evaluators that do not train; proxy_training has --finalists")
    if experiment.warm_start:
        lookup(ZERO_COST, experiment.warm_start, "zero-cost score", "--warm-start")


def _check_executor(experiment: SearchSettings) -> None:
    """Raise UsageError where candidates cannot be evaluated as asked, whatever the cluster is."""
    experiment.limit_s  # noqa: B018 (raises)
    if experiment.ray and experiment.workers > 0:
        raise UsageError("--ray, --workers: candidates are evaluated in one place, give one of them")
    for key, least in (("ray_cpus", 1.0), ("ray_gpus", 0.0)):
        amount, flag = getattr(experiment, key), f"--{key.replace('_', '-')}"
        if amount != getattr(SearchSettings, key) and not experiment.ray:
            raise UsageError(f"{flag}: is for --ray")
        if not 0 <= amount < 10_000 or (amount == 0 and least) or (amount > 1 and amount != int(amount)):
            rule = "must be a whole number or a part of one" + (", above 0" if least else "")
            raise UsageError(f"{flag}: {rule}: {amount:g}")
