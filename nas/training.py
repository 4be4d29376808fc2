"""One plain training loop; it yields the validation accuracy after each epoch."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from nas.condensing import group_lasso, learned_groups, set_progress
from nas.errors import NasError
from nas.tasks.classification import Classification
from nas.tasks.images import Pictures, normalize

RECALIBRATION_BATCHES = 10
Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingError(NasError):
    """A training that cannot go on: the loss is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW under one cycle of warm-up and cosine decay."""

    epochs: int
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    group_lasso: float = 1e-5
    """Weight of the penalty on learned groups (CondenseNet's on ImageNet); networks without them have none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


def pick_device() -> torch.device:
    """Return the device to train on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module, task: Classification, train_set: Pictures, validation: Pictures, recipe: Recipe, seed: int
) -> Iterator[float]:
    """Train `model` in place and yield the validation accuracy in [0, 1] after each epoch.

    The same seed gives the same weights on one machine; torch's global random state is left as it was.
    Raises TrainingError where the loss becomes NaN or infinite.
    """
    keep_freed_memory()
    device = pick_device()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = min(recipe.batch_size, max(2, len(train_set) // 2))
    steps = recipe.epochs * (len(train_set) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2)
    condensing = any(True for _ in learned_groups(model))

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        loss = task.loss(model, images, labels)
        return loss + recipe.group_lasso * group_lasso(model) if condensing else loss

    for epoch in range(recipe.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(seed * 1_000_003 + epoch)
            loader = DataLoader(train_set, batch_size, shuffle=True, drop_last=True, num_workers=train_set.workers)
            _epoch(model, loss_of, loader, optimizer, schedule, device, epoch)
            recalibrate(model, loader, device)
        yield task.accuracy(model, validation, device)


@torch.no_grad()
def recalibrate(model: nn.Module, loader: Any, device: torch.device, batches: int = RECALIBRATION_BATCHES) -> None:
    """Set the running statistics of every batch norm to their mean over some batches of training images.

    After a short training the moving averages still hold the statistics of weights that are long gone.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for images, _ in itertools.islice(loader, batches):
        model(normalize(images.to(device, memory_format=torch.channels_last)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _epoch(
    model: nn.Module, loss_of: Loss, loader: Any, optimizer: Any, schedule: Any, device: torch.device, epoch: int
) -> None:
    model.train()
    for images, labels in loader:
        loss = loss_of(images.to(device, memory_format=torch.channels_last), labels.to(device))
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} in epoch {epoch}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        set_progress(model, schedule.last_epoch / schedule.total_steps)


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers; by default each step maps and faults its activations anew (mallopt(3))."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 28)):
            libc.mallopt(parameter, value)
