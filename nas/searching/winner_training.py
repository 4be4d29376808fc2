"""After the search: the best candidates measured on the device, and the winner trained further and tested once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture
from nas.devices.timing import Latency
from nas.evaluators import Evaluator
from nas.networks.network import build
from nas.spaces.search_space import FinalTraining, Proxy, Space
from nas.study.objectives import Goal, Metrics, preference
from nas.study.study import Trial
from nas.training.loop import Recipe, Watch, pick_device, train
from nas.training.tasks.classification import Classification
from nas.utils.reporting import Reporter

FINALISTS = 4
MOST_FINALISTS = 40
Measure = Callable[[Sequence[Architecture]], list[Latency]]


@dataclass(frozen=True)
class Finalist:
    """A trial as the goal's device sees it, with its latency as measured there as a whole network; None elsewhere.

    `estimate` is the accuracy to believe of it, `again` whether that rests on evaluations with other seeds too.
    """

    trial: Trial
    measured: Latency | None
    estimate: float
    again: bool = False

    @property
    def latency_ms(self) -> float:
        """The measured median, else the prediction."""
        return self.trial.metrics.latency_ms if self.measured is None else self.measured.median

    def holds(self, target_ms: float) -> bool:
        """Whether the measured median, else the prediction, is within the target."""
        return self.latency_ms <= target_ms

    def rank(self, goal: Goal) -> tuple[bool, bool, float]:
        """Return a key that sorts the winner first.

        What holds the target comes first, and of that what was evaluated again, by score; then the fastest.
        """
        over, key = preference(goal, self._metrics)
        return over, not self.again and not over, key

    @property
    def _metrics(self) -> Metrics:
        return replace(self.trial.metrics, accuracy=self.estimate, latency_ms=self.latency_ms)


def unmeasured(waiting: Sequence[Finalist], goal: Goal) -> list[Finalist]:
    """Return the best by prediction alone, the winner first, in the order in which `confirm` measures."""
    count = max(FINALISTS, sum(finalist.again for finalist in waiting))
    return sorted(waiting, key=lambda finalist: finalist.rank(goal))[:count]


def confirm(waiting: Sequence[Finalist], goal: Goal, measure: Measure) -> list[Finalist]:
    """Measure the best, a few at a time, until one holds the target; return those measured, the winner first.

    All that were evaluated again are measured together. Candidates that hold the target by prediction come first, by
    score; then the others, the fastest first. Where none holds the target, the fastest finalist is the first.
    """
    waiting = sorted(waiting, key=lambda finalist: finalist.rank(goal))[:MOST_FINALISTS]
    count = max(FINALISTS, sum(finalist.again for finalist in waiting))
    finalists: list[Finalist] = []
    while waiting and not any(finalist.holds(goal.target_ms) for finalist in finalists):
        batch, waiting = waiting[:count], waiting[count:]
        latencies = measure([finalist.trial.architecture for finalist in batch])
        finalists += [replace(finalist, measured=latency) for finalist, latency in zip(batch, latencies, strict=True)]
        count = FINALISTS
    return sorted(finalists, key=lambda finalist: finalist.rank(goal))


@dataclass(frozen=True)
class Phase:
    """A part of the winner's training: at one resolution, over `images` of the training images (0: all)."""

    resolution: int
    images: int
    recipe: Recipe


def phases(proxy: Proxy, final: FinalTraining, resolution: int) -> list[Phase]:
    """Return the winner's training: the proxy's resolution, doubled until the deployed one is reached.

    Each phase has half the epochs of the one before, and no epoch sees more pixels than `final.images` images
    have at the deployed resolution: progressive learning (Tan and Le 2021, section 4), which costs a fraction
    of training at full size and ends at the size of the objects that the deployed network will see.
    """
    sizes = [min(proxy.resolution, resolution)]
    while sizes[-1] < resolution:
        sizes.append(min(2 * sizes[-1], resolution))
    return [
        Phase(
            resolution=size,
            images=final.images * resolution**2 // size**2,
            recipe=Recipe(max(1, final.epochs >> index), learning_rate=Recipe.learning_rate / (index + 1)),
        )
        for index, size in enumerate(sizes)
    ]


def train_winner(
    model: nn.Module,
    arch: Architecture,
    task: Classification,
    space: Space,
    seed: int,
    checkpoints: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train `model`, which is `arch`, in place through its phases and return what was seen.

    Each phase has a file in the folder `checkpoints`, so that after a kill the training goes on where it was; the
    digest is in its name, since another measurement of the finalists may make another winner.

    The accuracy on the test set is at the deployed resolution, on images that nothing before has touched.
    """
    accuracy = float("nan")
    seen: list[dict[str, Any]] = []
    for index, phase in enumerate(phases(space.proxy, space.final, arch.resolution)):
        images = task.train_set(phase.resolution, phase.images, reporter)
        validation = task.validation_set(phase.resolution, phase.images, reporter)
        title = f"training the winner at {phase.resolution} px"
        with reporter.task(title, phase.recipe.epochs) as advance:
            for reached in train(
                model, task, images, validation, phase.recipe, seed + index,
                checkpoint=checkpoints / f"{arch.digest}-{index}.pt", watch=Watch(warn=reporter.warn),
            ):  # fmt: skip
                accuracy = reached
                advance(1)
        record = {"resolution": phase.resolution, "images": len(images), "validation_accuracy": accuracy}
        seen.append({**record, **phase.recipe.to_dict()})
    test_set = task.test_set(arch.resolution, reporter)
    with reporter.task(f"testing once on {len(test_set)} images", 1) as advance:
        test_accuracy = task.accuracy(model, test_set, pick_device())
        advance(1)
    return {
        "test_accuracy": test_accuracy,
        "test_images": len(test_set),
        "validation_accuracy": accuracy,
        "training": seen,
    }


def first_weights(arch: Architecture, evaluator: Evaluator, seed: int) -> nn.Module:
    """Return the network that the winner's training starts from: the evaluator's, where it has trained one."""
    trained: Callable[[Architecture], nn.Module] | None = getattr(evaluator, "trained", None)
    if trained is not None:
        return trained(arch)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(arch)
