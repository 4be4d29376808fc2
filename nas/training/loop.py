"""One plain training loop; it yields the validation accuracy after each epoch, and continues from a checkpoint."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nas.errors import DataError, NasError
from nas.networks.condensenet import group_lasso, learned_groups, set_progress
from nas.networks.network import Network, set_drop_connect
from nas.training.checkpoint import fingerprint, save_checkpoint
from nas.training.recipe import Recipe
from nas.training.state import Epoch, TrainingState, continued, half_type, start, stored
from nas.training.tasks.classification import Classification
from nas.training.tasks.image_datasets import ImageDataset, mixing, normalize, rand_augment

__all__ = [
    "Epoch",
    "Recipe",
    "TrainingError",
    "Watch",
    "check_fit",
    "keep_freed_memory",
    "no_memory",
    "pick_device",
    "recalibrate",
    "train",
]
RECALIBRATION_BATCHES = 10
NO_MEMORY = ("can't allocate memory", "not enough memory")
"""How the allocator of the CPU says it, in a RuntimeError."""


class TrainingError(NasError):
    """A training that cannot go on: the loss is not finite, or there is not enough memory."""


@dataclass(frozen=True)
class Watch:
    """Who is told what while a training runs: of images (below 0 where it starts over), of epochs, of trouble."""

    images: Callable[[int], None] = lambda count: None
    epoch: Callable[[Epoch], None] = lambda epoch: None
    warn: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class _Job:
    """What a training does not change."""

    task: Classification
    train_set: ImageDataset
    validation: ImageDataset
    recipe: Recipe
    seed: int
    teacher: nn.Module | None
    checkpoint: Path | None
    watch: Watch
    device: torch.device
    identity: Mapping[str, Any]


def pick_device() -> torch.device:
    """Return the device to train on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module,
    task: Classification,
    train_set: ImageDataset,
    validation: ImageDataset,
    recipe: Recipe,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> Iterator[float]:
    """Train `model` in place and yield the validation accuracy in [0, 1] after each epoch.

    The same seed gives the same weights on one machine; torch's global random state is left as it was. With
    `ema_decay` the accuracies are those of the average of weights, which `model` has after the last epoch.
    `teacher` is distilled from, on the images as `model` sees them. The file `checkpoint` is written after each
    epoch; where it exists, the training continues from it and the accuracies of its epochs come first, so that
    weights and accuracies are those of a training that nothing interrupted. The random state has no part in
    that: each epoch has a seed of its own. The drop-connect rate is the recipe's where `model` is a Network.

    Without memory for it the training starts over, once, with half the batch, and says so to `watch`; epochs
    that were yielded are not yielded again. Raises DataError where images or classes do not fit the network,
    WeightsError for a checkpoint that is broken or another training's, TrainingError where the loss becomes NaN
    or infinite or the memory does not suffice.
    """
    keep_freed_memory()
    device = pick_device()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_fit(model, task, validation, device)
    if isinstance(model, Network):
        set_drop_connect(model, recipe.drop_connect)
    if teacher is not None:
        teacher.to(device).eval()
        check_fit(teacher, task, validation, device, "the teacher")
    fresh = {key: value.detach().clone() for key, value in model.state_dict().items()}
    identity = {} if checkpoint is None else _identity(fresh, task, train_set, validation, recipe, seed, teacher)
    if recipe.randaugment:
        train_set = train_set.also(rand_augment(recipe.randaugment))
    job = _Job(
        task, train_set, validation, recipe, seed, teacher, checkpoint, watch or Watch(), device, identity
    )  # fmt: skip
    yield from _with_memory(model, job, fresh)


def _with_memory(model: nn.Module, job: _Job, fresh: Mapping[str, Tensor]) -> Iterator[float]:
    """Train, and once more from the beginning with half the batch where there is no memory for the whole."""
    whole = min(job.recipe.batch_size, max(2, len(job.train_set) // 2))
    state = start(model, job.recipe, len(job.train_set), whole, job.device)
    if job.checkpoint is not None:
        state = continued(state, job.checkpoint, job.identity, job.recipe, len(job.train_set), job.device)
    yielded = 0
    try:
        for accuracy in _epochs(state, job):
            yielded += 1
            yield accuracy
        return
    except Exception as error:
        if not no_memory(error):
            raise
        size, told = state.batch_size, state.told
        reason = (str(error).splitlines() or ["no memory"])[0]
    half = size // 2
    if size < whole or half < 2:
        raise TrainingError(f"out of memory with {size} images in a batch: {reason}")
    job.watch.warn(f"out of memory with {size} images in a batch: the training starts over with {half}")
    job.watch.images(-told)
    del state
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    model.load_state_dict(fresh)
    model.zero_grad(set_to_none=True)
    try:
        again = _epochs(start(model, job.recipe, len(job.train_set), half, job.device), job)
        yield from itertools.islice(again, yielded, None)
    except Exception as error:
        if not no_memory(error):
            raise
        raise TrainingError(f"out of memory with {half} images in a batch, and with {size} before") from error


def no_memory(error: Exception) -> bool:
    """Whether it says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _epochs(state: TrainingState, job: _Job) -> Iterator[float]:
    """Yield the accuracies of the epochs that are over, then train the others."""
    for epoch in state.curve:
        _tell(state, job, len(job.train_set))
        job.watch.epoch(epoch)
        yield epoch.accuracy
    for number in range(len(state.curve), job.recipe.epochs):
        with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            torch.manual_seed(job.seed * 1_000_003 + number)
            workers = job.train_set.workers
            loader = DataLoader(job.train_set, state.batch_size, shuffle=True, drop_last=True, num_workers=workers)
            loss, images_per_s = _epoch(state, job, loader, number)
            recalibrate(state.best, loader, job.device)
        accuracy = job.task.accuracy(state.best, job.validation, job.device)
        rate = float(state.optimizer.param_groups[0]["lr"])
        state.curve.append(Epoch(number, loss, accuracy, rate, images_per_s))
        if job.checkpoint is not None:
            save_checkpoint(job.checkpoint, job.identity, stored(state))
        state.finish(job.recipe.epochs)
        job.watch.epoch(state.curve[-1])
        yield accuracy


def _epoch(state: TrainingState, job: _Job, loader: Any, number: int) -> tuple[float, float]:
    """Train one epoch and return the mean loss and the images per second."""
    model, device, clip = state.model, job.device, job.recipe.clip
    model.train()
    loss_of = _make_loss(model, job)
    begun, total, seen = time.perf_counter(), 0.0, 0
    for step, (images, labels) in enumerate(loader):
        loss = loss_of(images.to(device, memory_format=torch.channels_last), labels.to(device))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} in epoch {number}, step {step}")
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        set_progress(model, state.schedule.last_epoch / state.steps)
        if state.average is not None:
            state.average.update_parameters(model)
        total, seen = total + value, seen + len(labels)
        _tell(state, job, len(labels))
    _tell(state, job, len(job.train_set) - seen)
    return total / len(loader), seen / (time.perf_counter() - begun)


def _tell(state: TrainingState, job: _Job, images: int) -> None:
    state.told += images
    job.watch.images(images)


def _make_loss(model: nn.Module, job: _Job) -> Callable[[Tensor, Tensor], Tensor]:
    task, recipe, teacher = job.task, job.recipe, job.teacher
    mix = mixing(task.num_classes, recipe.mixup, recipe.cutmix)
    half = half_type(recipe, job.device)
    condensing = any(True for _ in learned_groups(model))

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        if mix is not None:
            images, labels = mix(images.float(), labels)
        with contextlib.nullcontext() if half is None else torch.autocast(job.device.type, half):
            logits = task.logits(model, images)
        loss = task.criterion(logits, labels, recipe.label_smoothing)
        if teacher is not None:
            with torch.no_grad(), contextlib.nullcontext() if half is None else torch.autocast(job.device.type, half):
                taught = task.logits(teacher, images)
            apart = task.distillation(logits, taught, recipe.distill_temperature)
            loss = (1 - recipe.distill_weight) * loss + recipe.distill_weight * apart
        return loss + recipe.group_lasso * group_lasso(model) if condensing else loss

    return loss_of


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
    with torch.random.fork_rng():  # of dropout
        for images, _ in itertools.islice(loader, batches):
            model(normalize(images.to(device, memory_format=torch.channels_last)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def check_fit(
    model: nn.Module, task: Classification, images: ImageDataset, device: torch.device, name: str = "the network"
) -> None:
    """Raise DataError where `model` reads other channels than the images have, or tells other classes apart.

    The channels that it reads are those of its first convolution. The model is left in eval mode.
    """
    image = images[0][0][None].to(device)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != image.shape[1]:
        raise DataError(
            f"--data: the images of '{task.data.name}' have {image.shape[1]} channels, {name} reads {first.in_channels}"
        )
    classes = task.logits(model.eval(), image).shape[-1]
    if classes != task.num_classes:
        raise DataError(f"--data: '{task.data.name}' has {task.num_classes} classes, {name} tells {classes} apart")


def _identity(
    fresh: Mapping[str, Tensor],
    task: Classification,
    train_set: ImageDataset,
    validation: ImageDataset,
    recipe: Recipe,
    seed: int,
    teacher: nn.Module | None,
) -> dict[str, Any]:
    """Return what makes this training another than the next, in plain values."""
    shapes = {key: value.to("meta") for key, value in fresh.items()}
    return {
        **recipe.to_dict(),
        "seed": seed,
        "data": task.data.name,
        "train_images": train_set.digest,
        "validation_images": validation.digest,
        "network": fingerprint(shapes),
        "first_weights": fingerprint(fresh),
        "teacher": None if teacher is None else fingerprint(teacher.state_dict()),
    }


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers; by default each step maps and faults its activations anew (mallopt(3))."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 28)):
            libc.mallopt(parameter, value)
