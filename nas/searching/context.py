"""The context of a search: its settings, checked and resolved once into the objects that they name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.controllers import CONTROLLERS, Controller
from nas.controllers.base import Problem
from nas.devices.client import Worker, open_worker
from nas.devices.runtimes import RUNTIMES
from nas.errors import UsageError, located
from nas.evaluators import EVALUATORS, check_metric, epochs_of, find_evaluator
from nas.evaluators.accuracy_table import metric_of
from nas.evaluators.base import Evaluator, EvaluatorContext
from nas.evaluators.executors.base import Executor
from nas.evaluators.zero_cost_scores import ZERO_COST
from nas.networks.network import trace
from nas.searching.against.references import References, read_references
from nas.searching.budget.pilot import Pilot
from nas.searching.budget.stopwatch import Stopwatch
from nas.searching.budget.total_time import choose_budget
from nas.searching.early_stopping import Rungs, make_rungs
from nas.searching.evaluation import make_evaluator_context, make_executor, pretrained_network
from nas.searching.identity import settings_identity, table_source_identity
from nas.searching.prior_runs import PriorSource, prior_content, prior_identity, read_sources
from nas.searching.resolution.choice import resolution_identity, spelled_sizes, with_resolution
from nas.searching.settings import SOURCES, TRIALS, SearchSettings, recorded_settings, task_default
from nas.spaces.encoding import EncodedSpace, no_costs
from nas.spaces.search_space import Choices, Space
from nas.spaces.trainings import MOST_BRANCHES, FinalTraining, Proxy
from nas.spaces.yaml_format import load_space
from nas.study.multi_goal import make_goals
from nas.study.objectives import Objective
from nas.study.storage import stored_settings
from nas.training.deployed_network import check_images_for, check_precision
from nas.training.pretrained_network import PretrainedNetwork
from nas.training.tasks.base import Task, for_task
from nas.training.tasks.image_record import ImageRecord, RunPlace, load_for_run
from nas.training.tasks.metrics import spell
from nas.training.tasks.registry import TASK_METRICS
from nas.utils.registry import lookup
from nas.utils.reporting import Reporter
from nas.utils.settings import check_fields


@dataclass(frozen=True)
class SearchContext:
    """What a search consists of before anything is measured or written.

    Attributes:
        settings: The settings as given.
        recorded: The settings as results record them, without passwords.
        space: The search space, with the settings' proxy and a head for the task's classes.
        task: The data set.
        images: The content of the data set's files.
        objective: What is maximized, with its targets and axes.
        rungs: When trainings stop early.
        controller: Makes the controller.
        evaluator: Makes the evaluator.
        device_worker: Measures on the device; its process is not started yet.
        prior_sources: Results and networks to start from.
        identity: What distinguishes this run from others, but for the digests of its tables.
        reporter: Prints messages and progress.
        references: Networks to compare the winner with.
        budget_s: The total time in seconds; None if each part is set by hand.
        started: When the command began, by `time.monotonic`.
        stopwatch: Times the parts of a search with a budget.
        pilot: The result of its pilot.
        pilot_networks: The choices of the pilot's networks by digest. They are the first candidates.
        reference_epochs: The epochs of the references' training by digest, where they differ from the winner's.
    """

    settings: SearchSettings
    recorded: dict[str, Any]
    space: Space
    task: Task
    images: ImageRecord
    objective: Objective
    rungs: Rungs
    controller: Callable[[Problem], Controller]
    evaluator: Callable[[EvaluatorContext], Evaluator]
    device_worker: Worker
    prior_sources: tuple[PriorSource, ...]
    identity: dict[str, Any]
    reporter: Reporter
    references: References = field(default_factory=References)
    budget_s: float | None = None
    started: float = 0.0
    stopwatch: Stopwatch | None = None
    pilot: Pilot | None = None
    pilot_networks: Mapping[str, Choices] = field(default_factory=dict)
    reference_epochs: Mapping[str, int] = field(default_factory=dict)

    @property
    def pretrained(self) -> PretrainedNetwork | None:
        """The network whose weights all trainings start from."""
        return pretrained_network(self.settings, self.space)

    @property
    def evaluator_only_reads(self) -> bool:
        """Whether the evaluator reads its source and writes nothing. It can be made before anything is measured."""
        return self.settings.source is not None and self.settings.evaluator in SOURCES.values()

    def timed(self, part: str) -> AbstractContextManager[None]:
        """Return a context manager that adds to the time of a part of the search, if the search has a budget."""
        return self.stopwatch.part(part) if self.stopwatch else nullcontext()

    def make_evaluator(self) -> Evaluator:
        """Return the evaluator. It may load or train what all evaluations share."""
        return self.evaluator(make_evaluator_context(self.settings, self.task, self.space, self.reporter))

    def make_executor(self) -> Executor | None:
        """Return the executor that evaluates candidates, or None to evaluate them in this process."""
        return make_executor(self.settings, self.task, self.space, self.reporter)


def resolve(settings: SearchSettings, reporter: Reporter, started: float | None = None) -> SearchContext:
    """Return the context of a search. Raises NasError for the first invalid setting, and writes nothing.

    Settings are checked before data and spaces are loaded.

    Args:
        settings: The settings.
        reporter: Prints messages and progress.
        started: When the command began, by `time.monotonic`; None: now.
    """
    started = time.monotonic() if started is None else started
    check_fields(settings)
    check_combinations(settings)
    objective = make_goals(settings.objective, settings.targets, settings.alpha, settings.beta, settings.front_axes)
    starts, recorded = settings.starts, recorded_settings(settings)
    lookup(RUNTIMES, settings.runtime, "runtime", "--runtime")
    controller: Callable[[Problem], Controller]
    controller = lookup(CONTROLLERS, settings.controller, "controller", "--controller")
    evaluator = find_evaluator(settings.evaluator)
    device_worker = open_worker(settings.device, settings.runtime, settings.threads, reporter.say)
    own = resolve_space(settings)
    stored = stored_settings(settings.folder, settings.storage)
    place = RunPlace(settings.folder, "--run", stored)
    task, images = load_for_run(settings, place, reporter)
    space = with_resolution(own, settings, task, place.stored, reporter)
    task.check_part(space.final.images, "final_images")
    check_images_for(task, settings.runtime)
    images.check_supernet(settings.supernet)
    with located(settings.space):
        task = task.for_input(space.input)
        space = for_task(space, task)
        check_space(space, controller)
    budget_s = choose_budget(settings, stored, len(task.data.train), space.input.side(max(space.resolution)))
    if budget_s is None:
        settings = replace(settings, trials=settings.trials or TRIALS)
        recorded["trials"] = settings.trials
    rungs = make_early_stopping(settings, task, space)
    recorded |= {"fit": task.fit, "resolution": ",".join(map(str, spelled_sizes(space, own)))}
    identity = {
        "budget_s": budget_s,
        **settings_identity(settings, space, task),
        **resolution_identity(space, own),
        **images.identity,
        **table_source_identity(settings),
    }
    sources = read_sources(starts, space, identity, settings.folder)
    references = read_references(settings, space, stored)
    return SearchContext(
        settings, recorded, space, task, images, objective, rungs, controller, evaluator, device_worker, sources,
        {**identity, **prior_identity(sources), **prior_content(sources), **references.identity}, reporter, references,
        budget_s, started,
    )  # fmt: skip


def check_combinations(settings: SearchSettings) -> None:
    """Raise UsageError for the first setting that does not go with another one."""
    _check_limits(settings)
    given = [key for key in SOURCES if getattr(settings, key)]
    if len(given) > 1:
        raise UsageError("--accuracies, --supernet: an evaluator has one source, give one of them")
    for key in given:
        if settings.evaluator in EVALUATORS and settings.evaluator != SOURCES[key]:
            raise UsageError(f"is for the evaluator '{SOURCES[key]}', not for '{settings.evaluator}'", key=key)
    if settings.evaluator == "tabular" and not settings.accuracies:
        raise UsageError("'tabular' needs --accuracies FILE", key="evaluator")
    if settings.source and not settings.source.exists():
        raise UsageError("no such file or folder", key=given[0], value=str(settings.source))
    check_task(settings)
    if settings.runtime in RUNTIMES:
        check_precision(settings.task, settings.runtime)
    check_metric(settings.evaluator, settings.metric, settings.source, task_default(settings.task, "metric"))
    if settings.train_finalists and settings.evaluator == "proxy_training":
        raise UsageError("is for evaluators that do not train; proxy_training has --finalists", key="train_finalists")
    if settings.warm_start:
        lookup(ZERO_COST, settings.warm_start, "zero-cost score", "--warm-start")
    if settings.ray and settings.workers > 0:
        raise UsageError("--ray, --workers: candidates are evaluated in one place, give one of them")
    _check_ray_shares(settings)


def _check_limits(settings: SearchSettings) -> None:
    """Raise UsageError for the first setting that is too large."""
    if settings.final_branches > MOST_BRANCHES:
        raise UsageError(f"must be at most {MOST_BRANCHES}", key="final_branches", value=settings.final_branches)
    if settings.reliability >= 1:
        raise UsageError("must be below 1", key="reliability", value=settings.reliability)


def check_task(settings: SearchSettings) -> None:
    """Raise UsageError for the metric of another task, or if --accuracies names a run of another task."""
    own, table = TASK_METRICS[settings.task], Path(settings.accuracies or "").expanduser()
    lookup(dict.fromkeys(own), settings.metric, "metric", "--metric")
    is_run = settings.accuracies and (table.is_dir() or table.suffix == ".json")
    if is_run and (found := metric_of(table)) not in own:
        rule = (
            f"is a run of another task: its networks are ranked by {spell(found)}, those of {settings.task} by one of "
        )
        raise UsageError(f"{rule}{', '.join(map(spell, own))}", key="accuracies", value=settings.accuracies)


def _check_ray_shares(settings: SearchSettings) -> None:
    """Raise UsageError when a candidate's share of a Ray node is invalid, or is given without --ray."""
    for key, may_be_zero in (("ray_cpus", False), ("ray_gpus", True)):
        amount = getattr(settings, key)
        if amount != getattr(SearchSettings, key) and not settings.ray:
            raise UsageError("is for --ray", key=key)
        in_range = 0 <= amount < 10_000 and (amount > 0 or may_be_zero)
        if not in_range or (amount > 1 and amount != int(amount)):
            rule = "must be a whole number or a part of one" + ("" if may_be_zero else ", above 0")
            raise UsageError(rule, key=key, value=amount)


def resolve_space(settings: SearchSettings) -> Space:
    """Return the settings' space, with the proxy and the trainings that they ask for. Raises SpaceError."""
    space = load_space(settings.space)
    proxy = Proxy(
        settings.proxy_resolution or space.proxy.resolution,
        settings.proxy_epochs or space.proxy.epochs,
        settings.proxy_images or space.proxy.images,
    )
    given = FinalTraining(settings.final_epochs or space.final.epochs, settings.final_images or space.final.images)
    branches = settings.final_branches or space.final.branches
    final = replace(given, full_epochs=space.final.full_epochs, branches=branches)
    supernet = replace(space.supernet, epochs=settings.supernet_epochs or space.supernet.epochs)
    return replace(space, proxy=proxy, final=final, supernet=supernet)


def check_space(space: Space, controller: Callable[[Problem], Controller]) -> None:
    """Check that networks of the space can be built at the proxy's resolution, and that the controller can search it.

    The networks are those of all first choices, of all last ones, and a random one. At the deployed resolution, the
    latency table covers every layer.

    Raises SpaceError, or UsageError when the controller does not suit the space or its library is missing.
    """
    first, last = ({key: values[end] for key, values in space.choices.items()} for end in (0, -1))
    for choices in (space.sample(random.Random(0)), first, last):
        arch = space.decode(choices)
        trace(arch.at(space.proxy.at(arch.resolution)))
    check: Callable[[EncodedSpace], None] | None = getattr(controller, "check", None)
    if check is not None:
        check(EncodedSpace(space.choices, no_costs, space.conditions))


def make_early_stopping(settings: SearchSettings, task: Task, space: Space) -> Rungs:
    """Return when trainings stop early. Raises UsageError when the evaluator has no epochs."""
    if settings.fidelity == "full":
        return make_rungs("full", settings.eta, settings.min_epochs, 1)
    quiet = Reporter(quiet=True)
    epochs = epochs_of(settings.evaluator, make_evaluator_context(settings, task, space, quiet))
    if epochs is None:
        rule = f"'{settings.evaluator}' has no epochs after which to stop"
        raise UsageError(rule, key="fidelity", value=settings.fidelity)
    return make_rungs(settings.fidelity, settings.eta, settings.min_epochs, epochs)
