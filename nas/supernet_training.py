"""Training a supernet: at every step the largest child, the smallest and some random ones, on the same images.

The sandwich rule and in-place distillation of Yu and Huang 2019 (universally slimmable networks, sections 3.2 and 3.3):
the largest child learns from the labels, the others from its answers. In a warm-up random children lean to the
largest choices, less and less (progressive shrinking, Cai et al. 2020, section 3.3, as a probability).
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
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from nas.architecture import Architecture, Scalar
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.lattice import best_path
from nas.network import canonical
from nas.space import Space, Values
from nas.supernet import Supernet
from nas.tasks.classification import Classification
from nas.tasks.images import Pictures
from nas.training import TrainingError, keep_freed_memory, pick_device


@dataclass(frozen=True)
class SupernetRecipe:
    """How to train a supernet: AdamW under one cycle. In a step each child sees the same images."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    clip: float = 5.0
    children: int = 2
    """Random children of a step."""
    sandwich: bool = True
    """Whether the largest and the smallest child, by MACs, are part of each step."""
    distill: bool = True
    """Whether the others learn from the largest child's answers; only in a sandwich."""
    warmup: float = 0.0
    """The share of the training in which random children lean to the largest choices."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


@dataclass(frozen=True)
class Family:
    """Who is trained: the two ends of the space by MACs, and random children by the step's dice."""

    space: Space
    largest: Architecture
    smallest: Architecture

    @classmethod
    def of(cls, space: Space) -> Family:
        """Return the family of `space`."""
        smallest, largest = (best_path(space, lambda layer: float(layer.macs), most)[1] for most in (False, True))
        return cls(space, largest, smallest)

    def draw(self, dice: random.Random, lean: float) -> Architecture:
        """Return a random child: every choice of numbers is its largest at a probability of `lean`, else uniform."""

        def choose(_: str, values: Values) -> Scalar:
            numbers = [value for value in values if not isinstance(value, str)]
            return max(numbers) if numbers and dice.random() < lean else dice.choice(values)

        return canonical(self.space.walk(choose)[0])


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

    def restore(self, state: Mapping[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.losses[:] = state["losses"]


def train_supernet(
    supernet: Supernet,
    task: Classification,
    images: Pictures,
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
    keep_freed_memory()
    device = pick_device()
    supernet.to(device)
    batch_size = min(recipe.batch_size, max(2, len(images) // 2))
    state = _begin(supernet, recipe, recipe.epochs * (len(images) // batch_size))
    if checkpoint is not None and (found := load_checkpoint(checkpoint, identity or {})) is not None:
        state.restore(found)
        watch(len(state.losses) * len(images))
        yield from state.losses
    family = Family.of(supernet.space)
    for epoch in range(len(state.losses), recipe.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(seed * 1_000_003 + epoch)
            loader = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=images.workers)
            dice = random.Random(f"{seed}, {epoch}")
            state.losses.append(_epoch(state, family, task, loader, recipe, dice, device, watch))
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity or {}, state.saved())
        yield state.losses[-1]


def _begin(supernet: Supernet, recipe: SupernetRecipe, steps: int) -> _State:
    optimizer = AdamW(supernet.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return _State(supernet, optimizer, OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=0.2), steps, [])


def _epoch(
    state: _State,
    family: Family,
    task: Classification,
    loader: Any,
    recipe: SupernetRecipe,
    dice: random.Random,
    device: torch.device,
    watch: Callable[[int], None],
) -> float:
    losses = []
    for images, labels in loader:
        done = state.schedule.last_epoch / state.total_steps
        lean = max(0.0, 1 - done / recipe.warmup) if recipe.warmup else 0.0
        archs = [family.draw(dice, lean) for _ in range(recipe.children)]
        state.optimizer.zero_grad(set_to_none=True)
        batch = images.to(device, memory_format=torch.channels_last), labels.to(device)
        losses.append(_step(state.supernet, family, archs, task, batch, recipe))
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
    family: Family,
    archs: list[Architecture],
    task: Classification,
    batch: tuple[Tensor, Tensor],
    recipe: SupernetRecipe,
) -> float:
    """Add up the gradients of a step's children; return the mean loss of all but the largest."""
    images, labels = batch
    answers: Tensor | None = None
    if recipe.sandwich:
        largest = supernet.child(family.largest).train()
        logits = task.logits(largest, images)
        largest.backward(task.criterion(logits, labels))
        answers = logits.detach().softmax(1) if recipe.distill else None
        archs = [family.smallest, *archs]
    total = 0.0
    for arch in archs:
        child = supernet.child(arch).train()
        logits = task.logits(child, images)
        loss = task.criterion(logits, labels) if answers is None else task.criterion(logits, answers, 0.0)
        child.backward(loss)
        total += loss.item()
    return total / len(archs)
