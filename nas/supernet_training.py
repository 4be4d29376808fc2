"""Training a supernet: at every step the largest child, the smallest and some random ones, on the same images.

The sandwich rule and in-place distillation of Yu and Huang 2019 (universally slimmable networks, sections 3.2 and 3.3):
the largest child learns from the labels, the others from its softened answers. Random children lean to the largest
choices in the beginning (progressive shrinking, Cai et al. 2020, section 3.3, as a probability).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from nas.architecture import Architecture, Scalar
from nas.lattice import best_path
from nas.network import canonical
from nas.space import Space, Values
from nas.supernet import Supernet
from nas.tasks.classification import Classification
from nas.tasks.images import Pictures, normalize
from nas.training import TrainingError, keep_freed_memory, pick_device


@dataclass(frozen=True)
class SupernetRecipe:
    """How to train a supernet. An epoch shows every image to all children of its step."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    children: int = 2
    """Random children of a step, beside the largest and the smallest."""
    sandwich: bool = True
    distill: bool = True
    shrink: float = 0.0
    """The share of the training in which random children lean to the largest choices, less and less."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


@dataclass(frozen=True)
class Family:
    """Whose turn it is: the two ends of the space by MACs, and random children by what the step's dice say."""

    space: Space
    largest: Architecture
    smallest: Architecture

    @classmethod
    def of(cls, space: Space) -> Family:
        """Return the family of `space`."""
        ends = [best_path(space, lambda layer: float(layer.macs), largest)[1] for largest in (True, False)]
        return cls(space, *ends)

    def draw(self, rng: random.Random, lean: float) -> Architecture:
        """Return a random architecture; each choice is the largest number at a probability of `lean`."""

        def choose(_: str, values: Values) -> Scalar:
            numbers = [value for value in values if not isinstance(value, str)]
            if numbers and rng.random() < lean:
                return max(numbers)
            return rng.choice(values)

        return canonical(self.space.walk(choose)[0])


def train_supernet(
    supernet: Supernet, task: Classification, images: Pictures, recipe: SupernetRecipe, seed: int
) -> Iterator[float]:
    """Train the bank in place and yield the mean loss of each epoch's random children.

    The same seed gives the same bank on one machine; torch's global random state is left as it was.
    Raises TrainingError where a loss becomes NaN or infinite.
    """
    keep_freed_memory()
    device = pick_device()
    supernet.to(device)
    batch_size = min(recipe.batch_size, max(2, len(images) // 2))
    optimizer = torch.optim.AdamW(supernet.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * (len(images) // batch_size), pct_start=0.2
    )
    family = Family.of(supernet.space)
    for epoch in range(recipe.epochs):
        dice = random.Random(f"{seed}, {epoch}")
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(seed * 1_000_003 + epoch)
            loader = DataLoader(images, batch_size, shuffle=True, drop_last=True, num_workers=images.workers)
            losses = []
            for batch, labels in loader:
                x = normalize(batch.to(device, memory_format=torch.channels_last))
                progress = schedule.last_epoch / schedule.total_steps
                lean = max(0.0, 1 - progress / recipe.shrink) if recipe.shrink else 0.0
                archs = [family.draw(dice, lean) for _ in range(recipe.children)]
                optimizer.zero_grad(set_to_none=True)
                losses.append(_step(supernet, family, archs, x, labels.to(device), recipe, task))
                nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
                optimizer.step()
                schedule.step()
        yield sum(losses) / len(losses)


def _step(supernet, family, archs, x, labels, recipe, task) -> float:
    soft: Tensor | None = None
    if recipe.sandwich:
        logits = supernet.child(family.largest).train()(x)
        F.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        if recipe.distill:
            soft = logits.detach().softmax(1)
        archs = [family.smallest, *archs]
    total = 0.0
    for index, arch in enumerate(archs):
        logits = supernet.child(arch).train()(x)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1) if soft is None else F.cross_entropy(logits, soft)
        if not torch.isfinite(loss):
            raise TrainingError("loss")
        loss.backward()
        if index or not recipe.sandwich:
            total += loss.item()
    return total / max(1, recipe.children)
