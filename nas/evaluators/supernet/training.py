"""Supernet training: each step adds up the gradients of several random subnets on the same images.

With one subnet per step this is single path one-shot (Guo et al. 2020, section 3.2). With several, every value of a
choice is used once before any is used twice.

The sandwich rule and in-place distillation (universally slimmable networks, Yu and Huang 2019, sections 3.2 and 3.3)
add the largest and the smallest subnet. The largest one learns from the labels, the others from its outputs.

During warm-up, random subnets prefer the largest choices with a decreasing probability (a form of progressive
shrinking, Cai et al. 2020, section 3.3).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nas.architecture import Architecture, Scalar
from nas.errors import WeightsError
from nas.evaluators.supernet.shared_weights import Supernet
from nas.networks.network import canonical
from nas.spaces.automaton import best_path
from nas.spaces.search_space import Choose, Space, Values
from nas.spaces.trainings import SupernetTraining
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.loop import TrainingError, no_memory, pick_device
from nas.training.recipe import one_cycle
from nas.training.tasks.base import Batch, Task, TaskDataset, make_loader


@dataclass(frozen=True)
class SupernetRecipe:
    """How to train a supernet: AdamW with a one-cycle schedule.

    Attributes:
        training: The settings from the space.
        learning_rate: The peak learning rate.
        weight_decay: The weight decay of AdamW.
        clip: The maximum norm of the gradient; 0 disables clipping.
    """

    training: SupernetTraining
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    clip: float = 5.0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        settings = asdict(self)
        return {**settings.pop("training"), **settings}


@dataclass(frozen=True)
class SubnetSampler:
    """Samples the subnets of a training step.

    Attributes:
        space: The search space.
        largest: The subnet with the most MACs.
        smallest: The subnet with the fewest MACs.
    """

    space: Space
    largest: Architecture
    smallest: Architecture

    @classmethod
    def of(cls, space: Space) -> SubnetSampler:
        """Return the sampler of a space."""
        smallest, largest = (best_path(space, lambda layer: float(layer.macs), most)[1] for most in (False, True))
        return cls(space, largest, smallest)

    def sample(self, count: int, rng: random.Random, prefer_largest: float = 0.0) -> list[Architecture]:
        """Return random subnets in which every value of a choice occurs once before any occurs twice.

        Each subnet alone is uniform over the choices (strict fairness, Chu et al. 2021, section 3).

        Args:
            count: The number of subnets.
            rng: The random generator.
            prefer_largest: The probability with which a numeric choice takes its largest value instead.
        """
        orders: dict[str, list[Scalar]] = {}
        return [
            canonical(self.space.walk(self._chooser(index, rng, prefer_largest, orders))[0]) for index in range(count)
        ]

    def _chooser(
        self, index: int, rng: random.Random, prefer_largest: float, orders: dict[str, list[Scalar]]
    ) -> Choose:
        def choose(key: str, values: Values) -> Scalar:
            numbers = [value for value in values if not isinstance(value, str)]
            if numbers and prefer_largest and rng.random() < prefer_largest:
                return max(numbers)
            order = orders.setdefault(key, rng.sample(values, len(values)))
            return order[index % len(order)]

        return choose


@dataclass
class _State:
    supernet: Supernet
    optimizer: Optimizer
    schedule: LRScheduler
    total_steps: int
    losses: list[float]

    def saved(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
        }

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        try:
            self.supernet.load_state_dict(state["supernet"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.losses[:] = [float(loss) for loss in state["losses"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            message = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise WeightsError(f"not a checkpoint of this supernet ({message})", where=path) from error


def train_supernet(
    supernet: Supernet,
    task: Task,
    images: TaskDataset,
    recipe: SupernetRecipe,
    seed: int,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    watch: Callable[[int], None] = lambda count: None,
) -> Iterator[float]:
    """Train the bank in place and yield the mean loss of each epoch, over all subnets except the largest.

    The same seed gives the same bank on the same machine. torch's global random state is not changed.

    Args:
        supernet: The supernet.
        task: The task, which defines the loss.
        images: The training images.
        recipe: How to train.
        seed: The seed of the training.
        checkpoint: Written after each epoch. If it exists, the training resumes from it, and the losses of the
            finished epochs are yielded first.
        identity: The settings that the checkpoint belongs to.
        watch: Called with the number of images after each step.

    Raises:
        TrainingError: The loss is NaN or infinite, or the memory does not suffice.
        WeightsError: The checkpoint is broken or belongs to another training.
    """
    device = pick_device()
    supernet.to(device)
    training = recipe.training
    batch_size = min(training.batch_size, max(2, len(images) // 2))
    state = _begin(supernet, recipe, training.epochs * (len(images) // batch_size))
    if checkpoint is not None and (found := load_checkpoint(checkpoint, identity or {})) is not None:
        state.restore(found, checkpoint)
        watch(len(state.losses) * len(images))
        yield from state.losses
    sampler, weights = SubnetSampler.of(supernet.space), task.loss_weights(images)
    weights = None if weights is None else weights.to(device)
    for epoch in range(len(state.losses), training.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(seed * 1_000_003 + epoch)
            loader = make_loader(task, images, batch_size, shuffle=True, drop_last=True)
            rng = random.Random(f"{seed}, {epoch}")
            try:
                state.losses.append(_train_epoch(state, sampler, task, loader, recipe, rng, weights, watch))
            except (RuntimeError, MemoryError) as error:
                if not no_memory(error):
                    raise
                rule = f"out of memory with {batch_size} images per step; reduce supernet.batch_size of the space"
                raise TrainingError(rule) from error
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity or {}, state.saved())
        yield state.losses[-1]
    supernet.forget_blocks()


def _begin(supernet: Supernet, recipe: SupernetRecipe, steps: int) -> _State:
    optimizer = AdamW(supernet.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return _State(supernet, optimizer, one_cycle(optimizer, recipe.learning_rate, steps), steps, [])


def _train_epoch(
    state: _State,
    sampler: SubnetSampler,
    task: Task,
    loader: Any,
    recipe: SupernetRecipe,
    rng: random.Random,
    weights: Tensor | None,
    watch: Callable[[int], None],
) -> float:
    training, losses, device = recipe.training, [], pick_device()
    warmup = training.warmup_epochs / training.epochs
    for batch in loader:
        done = state.schedule.last_epoch / state.total_steps
        archs = sampler.sample(training.children, rng, max(0.0, 1 - done / warmup) if warmup else 0.0)
        state.optimizer.zero_grad(set_to_none=True)
        images, targets = task.move(batch, device)
        moved = images.contiguous(memory_format=torch.channels_last), targets
        losses.append(_step(state.supernet, sampler, archs, task, moved, weights, training))
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"the supernet's loss is {losses[-1]} after {state.schedule.last_epoch} steps")
        if recipe.clip:
            nn.utils.clip_grad_norm_(state.supernet.parameters(), recipe.clip)
        state.optimizer.step()
        state.schedule.step()
        watch(len(images))
    return sum(losses) / len(losses)


def _step(
    supernet: Supernet,
    sampler: SubnetSampler,
    archs: list[Architecture],
    task: Task,
    batch: Batch,
    weights: Tensor | None,
    training: SupernetTraining,
) -> float:
    """Add up the gradients of the subnets of a step. Return the mean loss of all subnets except the largest."""
    images, targets = batch
    taught: Any = None
    if training.sandwich:
        largest = supernet.child(sampler.largest).train()
        outputs = task.outputs(largest, images)
        largest.backward(task.loss(outputs, targets, weights=weights))
        taught = task.soft_targets(outputs) if training.distill and task.can_distill else None
        archs = [sampler.smallest, *archs]
    total = 0.0
    for arch in archs:
        child = supernet.child(arch).train()
        outputs = task.outputs(child, images)
        loss = task.loss(outputs, targets, weights=weights) if taught is None else task.loss(outputs, taught, 0.0)
        child.backward(loss)
        total += loss.item()
    return total / len(archs)
