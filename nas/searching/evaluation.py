"""The evaluator of a search, and the executor that runs it: in this process, in others, or on a Ray cluster."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import RunError
from nas.evaluators import find_evaluator
from nas.evaluators.base import Evaluator, EvaluatorContext
from nas.evaluators.executors.base import Executor
from nas.evaluators.executors.processes import ProcessBackend
from nas.evaluators.executors.ray import RayBackend
from nas.evaluators.executors.worker_pool import WorkerPoolExecutor
from nas.searching.settings import SearchSettings
from nas.spaces.search_space import Searched, Space
from nas.training.pretrained_network import PretrainedNetwork, read_pretrained
from nas.training.tasks.base import Task
from nas.utils.reporting import Reporter


def make_evaluator_context(
    settings: SearchSettings, task: Task, space: Searched, reporter: Reporter
) -> EvaluatorContext:
    """Return what the search's evaluator is made from. Raises NasError if the pretrained weights cannot be read."""
    pretrained = pretrained_network(settings, space)
    return EvaluatorContext(
        task, space, settings.folder, settings.source, settings.seed, reporter, pretrained, settings.runtime
    )


def pretrained_network(settings: SearchSettings, space: Searched) -> PretrainedNetwork | None:
    """Return the network of --weights, read once for each process; None without the flag. Raises NasError."""
    if settings.weights is None or not isinstance(space, Space):
        return None
    return read_pretrained(settings.weights, largest_choices(space))


def largest_choices(space: Space) -> Architecture:
    """Return the network of all last choices of a space, which are the largest in most spaces."""
    return space.decode({key: values[-1] for key, values in space.choices.items()})


def make_evaluator(settings: SearchSettings, task: Task, space: Searched, reporter: Reporter) -> Evaluator:
    """Return the search's evaluator. It may load or train what all evaluations share."""
    return find_evaluator(settings.evaluator)(make_evaluator_context(settings, task, space, reporter))


def make_executor(settings: SearchSettings, task: Task, space: Searched, reporter: Reporter) -> Executor | None:
    """Return the executor that evaluates the candidates, or None to evaluate them in this process.

    Call this after `make_evaluator`: the evaluators of other processes find in the run folder what that one has
    stored. Raises UsageError when the cluster cannot be reached.
    """
    if not settings.ray and not settings.workers and settings.limit_s is None:
        return None
    state = (settings.folder / settings.evaluator).absolute()
    build = partial(make_remote_evaluator, settings, task, space, state if state.is_dir() else None)
    backend: Any
    if settings.ray:
        backend = RayBackend(settings.ray, build, settings.ray_cpus, settings.ray_gpus, reporter.warn)
    else:
        backend = ProcessBackend(build, max(1, settings.workers))
    return WorkerPoolExecutor(backend, settings.limit_s, reporter.warn)


def make_remote_evaluator(settings: SearchSettings, task: Task, space: Searched, state: Path | None) -> Evaluator:
    """Return the evaluator in another process.

    Args:
        settings: The settings of the search.
        task: The data.
        space: The search space.
        state: The folder in which the first evaluator has stored what all share, or None.

    Raises:
        RunError: `state` does not exist on this machine.
    """
    if state and not state.exists():
        raise RunError(f"does not exist on {socket.gethostname()}: all nodes must share the run folder", where=state)
    return make_evaluator(settings, task, space, Reporter(quiet=True))
