"""Training a supernet: at every step some random children on the same images, their gradients added up.

With one child a step that is single path one-shot (Guo et al. 2020, section 3.2); several share out the values of each
choice. The sandwich rule and in-place distillation of Yu and Huang 2019 (universally slimmable networks, sections 3.2
and 3.3) add the largest child, which learns from the labels, and the smallest; all but the largest then learn from its
answers. In a warm-up random children lean to the largest choices, less and less (progressive shrinking, Cai et al.
2020, section 3.3, as a probability).
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
from torch.utils.data import DataLoader

from nas.architecture import Architecture, Scalar
from nas.errors import WeightsError
from nas.evaluators.supernet.shared_weights import Supernet
from nas.networks.network import canonical
from nas.spaces.automaton import best_path
from nas.spaces.search_space import Choose, Space, SupernetTraining, Values
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.loop import TrainingError, no_memory, pick_device
from nas.training.recipe import one_cycle
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset


@dataclass(frozen=True)
class SupernetRecipe:
    """How to train a supernet: AdamW under one cycle. In a step each child sees the same images."""

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
    """Whose turn it is: the two ends of the space by MACs, and random children by the step's dice."""

    space: Space
    largest: Architecture
    smallest: Architecture

    @classmethod
    def of(cls, space: Space) -> SubnetSampler:
        """Return the family of `space`."""
        smallest, largest = (best_path(space, lambda layer: float(layer.macs), most)[1] for most in (False, True))
        return cls(space, largest, smallest)

    def draw(self, count: int, rng: random.Random, lean: float = 0.0) -> list[Architecture]:
        """Return `count` random children that share out the values of each choice: no value twice before all once.

        Each child alone is uniform over the choices (strict fairness, Chu et al. 2021, section 3). With a probability
        of `lean` a choice of numbers is its largest instead.
        """
        orders: dict[str, list[Scalar]] = {}
        return [canonical(self.space.walk(self._chooser(index, rng, lean, orders))[0]) for index in range(count)]

    def _chooser(self, index: int, rng: random.Random, lean: float, orders: dict[str, list[Scalar]]) -> Choose:
        def choose(key: str, values: Values) -> Scalar:
            numbers = [value for value in values if not isinstance(value, str)]
            if numbers and lean and rng.random() < lean:
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
            reason = str(error).splitlines()[0]
            raise WeightsError(
                f"{path}: is no checkpoint of this supernet: {type(error).__name__}: {reason}"
            ) from error


def train_supernet(
    supernet: Supernet,
    task: Classification,
    images: ImageDataset,
    recipe: SupernetRecipe,
    seed: int,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    watch: Callable[[int], None] = lambda count: None,
) -> Iterator[float]:
    """Train the bank in place and yield each epoch's mean loss of all children but the largest.

    The same seed gives the same bank on one machine; torch's global random state is left as it was. The file
    `checkpoint` is written after each epoch as that of `identity`; where it exists, the training continues from it
    and the losses of its epochs come first. `watch` is told of images. Raises TrainingError where a loss becomes NaN
    or infinite, WeightsError for a checkpoint that is broken or another training's.
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
    family = SubnetSampler.of(supernet.space)
    for epoch in range(len(state.losses), training.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(seed * 1_000_003 + epoch)
            loader = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=images.workers)
            rng = random.Random(f"{seed}, {epoch}")
            try:
                state.losses.append(_epoch(state, family, task, loader, recipe, rng, device, watch))
            except (RuntimeError, MemoryError) as error:
                if not no_memory(error):
                    raise
                raise TrainingError(
                    f"out of memory with {batch_size} images a step: give the space a smaller supernet.batch_size"
                ) from error
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity or {}, state.saved())
        yield state.losses[-1]
    supernet.forget_blocks()


def _begin(supernet: Supernet, recipe: SupernetRecipe, steps: int) -> _State:
    optimizer = AdamW(supernet.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return _State(supernet, optimizer, one_cycle(optimizer, recipe.learning_rate, steps), steps, [])


def _epoch(
    state: _State,
    family: SubnetSampler,
    task: Classification,
    loader: Any,
    recipe: SupernetRecipe,
    rng: random.Random,
    device: torch.device,
    watch: Callable[[int], None],
) -> float:
    training, losses = recipe.training, []
    warmup = training.warmup_epochs / training.epochs
    for images, labels in loader:
        done = state.schedule.last_epoch / state.total_steps
        archs = family.draw(training.children, rng, max(0.0, 1 - done / warmup) if warmup else 0.0)
        state.optimizer.zero_grad(set_to_none=True)
        batch = images.to(device, memory_format=torch.channels_last), labels.to(device)
        losses.append(_step(state.supernet, family, archs, task, batch, training))
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
    family: SubnetSampler,
    archs: list[Architecture],
    task: Classification,
    batch: tuple[Tensor, Tensor],
    training: SupernetTraining,
) -> float:
    """Add up the gradients of a step's children; return the mean loss of all but the largest."""
    images, labels = batch
    answers: Tensor | None = None
    if training.sandwich:
        largest = supernet.child(family.largest).train()
        logits = task.logits(largest, images)
        largest.backward(task.criterion(logits, labels))
        answers = logits.detach().softmax(1) if training.distill else None
        archs = [family.smallest, *archs]
    total = 0.0
    for arch in archs:
        child = supernet.child(arch).train()
        logits = task.logits(child, images)
        loss = task.criterion(logits, labels) if answers is None else task.criterion(logits, answers, 0.0)
        child.backward(loss)
        total += loss.item()
    return total / len(archs)
