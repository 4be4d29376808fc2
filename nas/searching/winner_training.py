"""Winner training: measures the best candidates on the device, trains the winner further and tests it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.errors import ExportError
from nas.evaluators.base import Evaluator
from nas.networks.network import build_seeded
from nas.searching.context import SearchContext
from nas.spaces.trainings import FinalTraining, Proxy
from nas.study.objectives import Goal, preference
from nas.study.study import Trial
from nas.training.deployed_network import deployed_reports, must_deploy
from nas.training.loop import Epoch, Recipe, Watch, pick_device, train
from nas.training.pretrained_network import PretrainedNetwork
from nas.training.recipe import ONECYCLE, WINNERS, buildable, suited, with_buildable_sizes
from nas.training.stuck import constant_output
from nas.training.tasks.base import Report, Task
from nas.training.tasks.metrics import named, spell

BATCH = 4
"""Candidates that are measured together, at least."""
MOST_MEASURED = 40
Measure = Callable[[Sequence[Architecture]], list[Latency]]
"""Measures whole networks on the device of a goal."""


@dataclass(frozen=True)
class Finalist:
    """A trial as the device of one goal sees it.

    Attributes:
        trial: The trial, with the latency that is predicted for this device.
        measured: The measured latency of the whole network, None before or without a measurement.
        estimate: The accuracy estimated from all evaluations of the network.
        is_repeated: Whether it was evaluated with other seeds too.
    """

    trial: Trial
    measured: Latency | None
    estimate: float
    is_repeated: bool = False

    @property
    def latency_ms(self) -> float:
        """The measured median if there is one, else the prediction."""
        return self.trial.metrics.latency_ms if self.measured is None else self.measured.median

    def holds(self, target_ms: float) -> bool:
        """Return whether `latency_ms` is within the target."""
        return self.latency_ms <= target_ms

    def rank(self, goal: Goal) -> tuple[bool, bool, float]:
        """Return a sort key that puts the winner first.

        Finalists within the target come first: repeated ones before others, then by score. The rest follow by latency.
        """
        metrics = replace(self.trial.metrics, accuracy=self.estimate, latency_ms=self.latency_ms)
        over, key = preference(goal, metrics)
        return over, not self.is_repeated and not over, key


def best_predicted(candidates: Sequence[Finalist], goal: Goal) -> list[Finalist]:
    """Return the best candidates by predicted latency, the winner first: those that `measure_best` measures first."""
    return sorted(candidates, key=lambda finalist: finalist.rank(goal))[: _first_batch(candidates)]


def measure_best(candidates: Sequence[Finalist], goal: Goal, measure: Measure) -> list[Finalist]:
    """Measure the best candidates, a batch at a time, until one holds the target.

    The first batch contains all candidates that were evaluated again. Candidates that hold the target by prediction
    are measured first, by score, then the others by latency.

    Args:
        candidates: The candidates with predicted latencies.
        goal: The goal; its target applies to the measured median.
        measure: Measures whole networks.

    Returns:
        The measured candidates, the winner first. If none holds the target, the fastest is first.
    """
    waiting = sorted(candidates, key=lambda finalist: finalist.rank(goal))[:MOST_MEASURED]
    count = _first_batch(waiting)
    finalists: list[Finalist] = []
    while waiting and not any(finalist.holds(goal.target_ms) for finalist in finalists):
        batch, waiting = waiting[:count], waiting[count:]
        latencies = measure([finalist.trial.architecture for finalist in batch])
        finalists += [replace(finalist, measured=latency) for finalist, latency in zip(batch, latencies, strict=True)]
        count = BATCH
    return sorted(finalists, key=lambda finalist: finalist.rank(goal))


def _first_batch(candidates: Sequence[Finalist]) -> int:
    return max(BATCH, sum(finalist.is_repeated for finalist in candidates))


@dataclass(frozen=True)
class Phase:
    """A part of the winner's training.

    Attributes:
        resolution: The input resolution in pixels.
        images: The number of training images; 0 means all.
        recipe: How to train.
    """

    resolution: int
    images: int
    recipe: Recipe


def phases(
    proxy: Proxy, final: FinalTraining, resolution: int, is_buildable: Callable[[int], bool] = lambda size: True
) -> list[Phase]:
    """Return the phases of the winner's training, at growing resolutions.

    Training starts at the proxy's resolution, which doubles until the deployed one is reached. Each phase has half the
    epochs of the one before, and no epoch sees more pixels than `final.images` images at the deployed resolution. This
    is progressive learning (Tan and Le 2021, section 4). It costs a fraction of a full-size training and ends at the
    object size that the deployed network will see. Resolutions at which the network cannot be built are left out.
    """
    sizes = [min(proxy.resolution, resolution)]
    while sizes[-1] < resolution:
        sizes.append(min(2 * sizes[-1], resolution))
    sizes = [size for size in sizes if size == resolution or is_buildable(size)]
    return [
        Phase(
            resolution=size,
            images=final.images * resolution**2 // size**2,
            recipe=replace(
                ONECYCLE,
                epochs=max(1, final.epochs >> index),
                learning_rate=ONECYCLE.learning_rate / (index + 1),
                branches=final.branches,
            ),
        )
        for index, size in enumerate(sizes)
    ]


@dataclass(frozen=True)
class WinnerTraining:
    """What the training of a winner has reached.

    Attributes:
        report: The test at the deployed resolution, in the precision of the runtime. Nothing else uses the test images.
        float32: The metrics of the network in float32, if `report` and `validation` are those of another precision.
        validation: The accuracy and the metric on the validation images after the last phase, by their keys.
        training: The phases with their images, accuracies and recipes.
        problem: Why the training taught nothing, "" if it did.
        tests: The tests of the trainings with all seeds, of which this is the best by validation.
    """

    report: Report
    validation: dict[str, float]
    training: list[dict[str, Any]]
    problem: str = ""
    tests: Mapping[int, Report] = field(default_factory=dict)
    float32: Mapping[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """What the precision of the runtime costs of the metric on the validation images."""
        key = f"validation_{self.report.metric}"
        return self.float32[key] - self.validation[key] if self.float32 else 0.0

    @property
    def reports(self) -> list[Report]:
        """The tests of all seeds, in their order."""
        return list(self.tests.values()) or [self.report]

    @property
    def epochs(self) -> int:
        """The epochs of all phases."""
        return sum(phase["epochs"] for phase in self.training)

    @property
    def accuracies(self) -> dict[str, float]:
        """The metric on the test images by seed."""
        return {str(seed): report.metric_value for seed, report in self.tests.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as the model card holds them. A problem is called "training_problem"."""
        problem = {"training_problem": self.problem} if self.problem else {}
        seeds = {"accuracies": self.accuracies} if len(self.tests) > 1 else {}
        float32 = {"float32": dict(self.float32)} if self.float32 else {}
        return {**self.report.to_dict(), **self.validation, **float32, "training": self.training, **seeds, **problem}


GROWS_FROM = 8
"""With fewer epochs, a network would see too few images at its own resolution (experiments/recipes.md)."""


def winner_recipe(task: Task, epochs: int, branches: int = 0) -> Recipe:
    """Return the recipe of a winner's full training: that of `nas train`, as it suits the images.

    In a training of few epochs, the resolution does not grow.
    """
    first_size, batch = WINNERS.first_size if epochs >= GROWS_FROM else 1.0, task.batch_size
    recipe = replace(WINNERS, epochs=epochs, first_size=first_size, batch_size=batch, branches=branches)
    return task.suited(recipe)


def planned(context: SearchContext, arch: Architecture) -> list[Phase]:
    """Return the winner's training: one full training if the space asks for its epochs, else phases."""
    space = context.space
    if not space.final.full_epochs:
        found = phases(space.proxy, space.final, arch.resolution, partial(buildable, arch))
        return [replace(phase, recipe=replace(phase.recipe, batch_size=context.task.batch_size)) for phase in found]
    recipe = with_buildable_sizes(winner_recipe(context.task, space.final.full_epochs, space.final.branches), arch)
    return [Phase(arch.resolution, 0, recipe)]


def train_seeds(
    context: SearchContext,
    make: Callable[[int], nn.Module],
    arch: Architecture,
    checkpoints: Path,
    called: str = "the winner",
) -> tuple[nn.Module, WinnerTraining]:
    """Train a network with each of the final seeds; return the best by validation, with the tests of all.

    Args:
        context: The search.
        make: Returns the network before its training with a seed.
        arch: Its architecture.
        checkpoints: A folder for the checkpoints.
        called: What messages call the network.
    """
    first, count = context.settings.seed, context.settings.final_seeds
    trained: dict[int, tuple[nn.Module, WinnerTraining]] = {}
    for seed in range(first, first + count):
        model = make(seed)
        name = called if count == 1 else f"{called} with seed {seed}"
        trained[seed] = model, train_winner(context, model, arch, checkpoints, seed if seed > first else None, name)
    key = f"validation_{context.task.metric}"
    model, best = max(trained.values(), key=lambda each: each[1].validation[key])
    return model, replace(best, tests={seed: training.report for seed, (_, training) in trained.items()})


def train_winner(
    context: SearchContext,
    model: nn.Module,
    arch: Architecture,
    checkpoints: Path,
    seed: int | None = None,
    called: str = "the winner",
) -> WinnerTraining:
    """Train the winner in place, in phases or fully, and test it once.

    Args:
        context: The search. Its space decides how the winner is trained.
        model: The winner's network.
        arch: Its architecture.
        checkpoints: A folder with one file for each phase, from which an interrupted training continues. File names
            contain the digest: after a restart, measurements may choose another winner. They also contain the epochs of
            a full training, and a seed that is given.
        seed: The seed of augmentation, order and dropout; None: that of the search.
        called: What messages call the network.
    """
    task, full, reporter = context.task, context.space.final.full_epochs, context.reporter
    first_seed = context.settings.seed if seed is None else seed
    name = f"{arch.digest}{f'-full{full}' if full else ''}{'' if seed is None else f'-seed{seed}'}"
    validated: dict[str, float] = {}
    trained: list[dict[str, Any]] = []
    for index, phase in enumerate(planned(context, arch)):
        if full:
            reporter.say(f"augmentation of the winner's training: {task.describe_augmentation(phase.recipe)}")
        images = task.train_set(phase.resolution, phase.images, reporter)
        validation = task.validation_set(phase.resolution, phase.images, reporter)
        task.report_network(model, images, reporter)
        recipe = suited(phase.recipe, model)
        checkpoint, curve = checkpoints / f"{name}-{index}.pt", list[Epoch]()
        whole = recipe.epochs * len(images)
        size = task.input.size(phase.resolution)
        with reporter.task(f"training {called} at {size} px on {len(images)} images", whole) as advance:
            watch = Watch(advance, curve.append, reporter.warn)
            settings = recipe, first_seed + index
            for _ in train(model, task, images, validation, *settings, checkpoint=checkpoint, watch=watch):
                pass
        validated = named("validation", curve[-1].accuracy, task.metric, curve[-1].value)
        record = {"resolution": phase.resolution, "images": len(images), **validated}
        trained.append({**record, **recipe.to_dict()})
    return tested_once(context, model, arch, validated, trained, called)


def tested_once(
    context: SearchContext,
    model: nn.Module,
    arch: Architecture,
    validated: dict[str, float],
    trained: list[dict[str, Any]],
    called: str,
) -> WinnerTraining:
    """Test a trained network once, in the precision of the runtime, and return its training with the test.

    Args:
        context: The search.
        model: The network.
        arch: Its architecture.
        validated: The metrics on the validation images in float32.
        trained: The phases of the training.
        called: What messages call the network.
    """
    task, runtime, reporter, float32 = context.task, context.settings.runtime, context.reporter, dict[str, float]()
    test_set = task.test_set(arch.resolution, reporter)
    with reporter.task(f"testing {called} once on {len(test_set)} images", 1) as advance:
        report = task.evaluate(model, test_set, pick_device())
        validation = task.validation_set(arch.resolution) if must_deploy(runtime) else None
        if validation and (deployed := _deployed(context, model, arch, (validation, test_set))):
            before = task.evaluate(model, validation, pick_device())
            float32 = {**metrics_of("test", report), **metrics_of("validation", before)}
            validated, report = metrics_of("validation", deployed[0]), deployed[1]
            reporter.say(f"{called} in {runtime}: {describe_drop(report.metric, float32, report.metric_value)}")
        advance(1)
    report.warn(reporter)
    if problem := constant_output(model, task, test_set, pick_device()):
        reporter.warn(f"{arch.digest}: {problem}")
    return WinnerTraining(report, validated, trained, problem, float32=float32)


def _deployed(context: SearchContext, model: nn.Module, arch: Architecture, sets: Sequence[Any]) -> list[Report]:
    """Return the tests in the precision of the runtime; [] if that is float32, or if it refuses the network."""
    try:
        return deployed_reports(context.task, model, context.settings.runtime, arch.resolution, sets)
    except ExportError as error:
        context.reporter.warn(f"{arch.digest}: tested in float32: {error}")
        return []


def metrics_of(part: str, report: Report) -> dict[str, float]:
    """Return the metric of a test, and the accuracy if there is one, by their names in results."""
    return named(part, report.accuracy, report.metric, report.metric_value)


def describe_drop(metric: str, float32: Mapping[str, float], value: float) -> str:
    """Return in words the metric on the test images in the precision of the runtime and in float32."""
    before = float32[f"test_{metric}"]
    return f"test {spell(metric)} {value:.1%}, {100 * (value - before):+.1f} points against {before:.1%} in float32"


def first_weights(
    arch: Architecture, seed: int, pretrained: PretrainedNetwork | None, evaluator: Evaluator | None = None
) -> nn.Module:
    """Return the network that a training starts from.

    That is the trained one of the evaluator, if it has one; else one with random weights of a seed, which inherits
    those of a pretrained network.
    """
    trained: Callable[[Architecture], nn.Module] | None = getattr(evaluator, "trained", None)
    if trained is not None:
        return trained(arch)
    network = build_seeded(arch, seed)
    if pretrained:
        pretrained.initialize(network, arch)
    return network
